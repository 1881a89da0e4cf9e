from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import axialseg
from axialseg.build import build, build_postprocess
from axialseg.config.compose import compose_shipped
from axialseg.errors import UserError
from axialseg.inference.loaded_model import LoadedModel
from axialseg.inference.predict import predict
from axialseg.panoptic.cityscapes_classes import CITYSCAPES

SIZES = [(40, 60), (40, 60), (70, 33), (1, 1), (64, 64)]
MODELS = ("axial_deeplab_tiny", "max_deeplab_tiny")


def model_of(name: str) -> LoadedModel:
    """Random weights, thresholds that let something through, and small images."""
    torch.manual_seed(0)
    net = axialseg.create_model(name, CITYSCAPES).eval()
    config = compose_shipped([f"model={name}", "data=cityscapes"])
    cfg = OmegaConf.create(config)
    cfg.data.eval_size = [33, 33]
    for limit in ("stuff_area_limit", "thing_area_limit", "class_threshold", "pixel_threshold"):
        if limit in cfg.model.postprocess:
            cfg.model.postprocess[limit] = 0
    transform = build(cfg.data.eval_transform, crop_size=list(cfg.data.eval_size))
    postprocess = build_postprocess(cfg.model, CITYSCAPES)
    return LoadedModel(name, net, CITYSCAPES, config, 0, transform, postprocess)


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return model_of(request.param)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


def test_any_sizes_in_order(model: LoadedModel, images: list[np.ndarray]) -> None:
    one_by_one = [model.predict(image) for image in images]
    batched = model.predict(images, batch=2)
    assert len(batched) == len(images)
    for image, alone, together in zip(images, one_by_one, batched, strict=True):
        assert alone.panoptic.shape == image.shape[:2]
        assert alone.panoptic.dtype == np.int32
        assert np.array_equal(alone.image, image)
        assert (alone.panoptic == together.panoptic).mean() > 0.999
        assert len(alone.segments) == len(alone.scores)
        assert ((alone.scores >= 0) & (alone.scores <= 1)).all()
    assert sum(len(found.segments) for found in one_by_one) > 0
    assert model.predict([]) == []


def test_it_is_what_the_evaluation_predicts(model: LoadedModel, images: list[np.ndarray]) -> None:
    """Without folded batch norms, bit for bit."""
    image = images[2]
    prepared, resized = model.transform(image)
    batch = {
        "image": torch.from_numpy(prepared.image).permute(2, 0, 1)[None],
        "valid": torch.from_numpy(prepared.valid)[None],
        **{"image_id": [0], "file_name": [""], "index": [0]},
        **{"original_size": [image.shape[:2]], "resized_size": [resized]},
    }
    (expected,) = predict(model.net, model.postprocess, batch)
    found = next(model.segmenter({}, fold=False)([image]))
    assert np.array_equal(found.panoptic, expected.panoptic)
    assert np.array_equal(found.scores, expected.scores())
    folded = model.predict(image)
    assert (folded.panoptic == expected.panoptic).mean() > 0.99


def test_options(model: LoadedModel, images: list[np.ndarray]) -> None:
    image = images[0]
    plain = model.predict(image)
    mirrored = model.predict(np.ascontiguousarray(image[:, ::-1]), flip=True, scales=[1, 1.5])
    both = model.predict(image, flip=True, scales=[1, 1.5])
    assert both.panoptic.shape == mirrored.panoptic.shape == plain.panoptic.shape
    assert not np.array_equal(both.scores, plain.scores)
    half = model.predict(image, precision="bf16")
    assert half.panoptic.shape == plain.panoptic.shape
    assert not np.array_equal(half.scores, plain.scores)
    surest = plain.scores.max()
    assert len(model.predict(image, min_score=float(surest)).segments) == 1
    assert all(s.category.is_thing for s in model.predict(image, things_only=True).segments)


def test_tiles_leave_pictures_their_size(images: list[np.ndarray]) -> None:
    model = model_of("axial_deeplab_tiny")
    seen: list[tuple[int, ...]] = []
    model.transform.resize_range = (20, 40)
    segmenter = model.segmenter({"tile": (32, 32)})
    segmenter.net.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[0].shape[-2:]))
    found = next(segmenter([images[2]]))
    assert found.panoptic.shape == (70, 33)
    assert len(seen) > 1
    assert max(max(shape) for shape in seen) == 33
    assert model.transform.resize_range == (20, 40)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"batch": 0}, ValueError, "batch=0 must be at least 1"),
        ({"precision": "16"}, ValueError, "precision=16 is none of 32, bf16"),
        ({"scales": [0.0]}, UserError, "must be positive"),
    ],
)
def test_mistakes(options: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        model_of("axial_deeplab_tiny").segmenter(options)


def test_a_classifier_does_not_segment() -> None:
    net = axialseg.create_model("axial_resnet_tiny").eval()
    config = compose_shipped(["model=axial_resnet_tiny", "data=patterns"])
    from axialseg.datasets.image_classes import numbered_classes

    model = LoadedModel("axial_resnet_tiny", net, numbered_classes(10), config, 0, None)
    with pytest.raises(UserError, match="classifies whole images"):
        model.predict(np.zeros((4, 4, 3), np.uint8))


def test_explain(images: list[np.ndarray]) -> None:
    model = model_of("axial_deeplab_tiny")
    found = model.explain(images[0], (39, 0))
    assert found.layer.startswith("backbone.stages.stage5")
    assert [panel.caption for panel in found.maps] == [
        "height axis",
        "width axis",
        "height axis, then width axis",
    ]
    assert np.nansum(found.maps[2].weights) == pytest.approx(1, abs=1e-5)
    assert found._repr_png_().startswith(b"\x89PNG")
    one = model.explain(images[0], (0, 0), "stage4.0.branch.attention.width_axis")
    assert len(one.maps) == 1
    with pytest.raises(UserError, match="lies outside the image"):
        model.explain(images[0], (40, 0))
