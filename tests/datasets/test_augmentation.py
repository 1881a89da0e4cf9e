"""Any transform of albumentations changes image and ids alike, and every draw has its own seed."""

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from axialseg.build import build_training_data
from axialseg.config.schema import conf_dir, register_schemas
from axialseg.datasets.augmentation import OUTSIDE, Augmentation
from axialseg.datasets.sample import PanopticSample
from axialseg.datasets.transforms import PAD_VALUE, TrainTransform
from axialseg.errors import UserError
from axialseg.panoptic.panoptic_map import PanopticSegments

SPATIAL = [
    {"_target_": "HorizontalFlip"},
    {"_target_": "RandomRotate90"},
    {"_target_": "Transpose"},
    {"_target_": "Affine", "rotate": [-30, 30], "scale": [0.7, 1.3], "shear": [-5, 5]},
    {"_target_": "Rotate", "limit": [20, 30], "crop_border": True},
    {"_target_": "SafeRotate", "limit": [10, 20]},
    {"_target_": "RandomScale", "scale_limit": 0.4},
    {"_target_": "Perspective", "scale": [0.05, 0.1]},
    {"_target_": "ElasticTransform", "alpha": 30, "sigma": 6},
    {"_target_": "GridDistortion"},
    {"_target_": "ThinPlateSpline"},
    {"_target_": "Morphological"},
    {"_target_": "RandomCrop", "height": 40, "width": 30},
    {"_target_": "CropAndPad", "px": 7},
    {"_target_": "PadIfNeeded", "min_height": 90, "min_width": 120, "fill_mask": 5},
    {"_target_": "RandomGridShuffle"},
    {"_target_": "CoarseDropout"},
]
PIXEL_LEVEL = [
    {"_target_": "ColorJitter"},
    {"_target_": "CLAHE"},
    {"_target_": "GaussNoise"},
    {"_target_": "ISONoise"},
    {"_target_": "MotionBlur"},
    {"_target_": "ImageCompression", "quality_range": [20, 40]},
    {"_target_": "RandomFog"},
    {"_target_": "ToGray"},
    {"_target_": "ChannelShuffle"},
]
SIZE = (60, 80)


def listed(*nodes: dict[str, Any], p: float = 1.0) -> list[Any]:
    return instantiate(OmegaConf.create([named(node, p) for node in nodes]), _convert_="all")


def named(node: dict[str, Any], p: float) -> dict[str, Any]:
    return {**node, "_target_": f"albumentations.{node['_target_']}", "p": p}


def one_of(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {"_target_": "OneOf", "transforms": [named(node, 0.01) for node in nodes]}


def colored_sample() -> PanopticSample:
    """Each of 12 segments, the first of them number 1, has a grey level of its own."""
    ids = np.kron(np.arange(1, 13, dtype=np.int32).reshape(3, 4), np.ones((20, 20), np.int32))
    image = np.repeat((ids * 16)[..., None], 3, 2).astype(np.uint8)
    segments = PanopticSegments(ids, np.ones(12, np.int64), np.zeros(12, bool))
    return PanopticSample(image, segments, 1, "1.png", "1.png")


@pytest.mark.parametrize("node", SPATIAL, ids=lambda node: node["_target_"])
def test_a_spatial_transform_moves_image_and_ids_alike(node: dict[str, Any]) -> None:
    sample, before = colored_sample(), colored_sample()
    assert sample.segments is not None
    augmentation = Augmentation(listed({**node, "interpolation": 0} if "alpha" in node else node))
    image, ids = augmentation(sample.image, sample.segments.id_map, np.random.default_rng(3))
    assert (image.dtype, ids.dtype) == (np.uint8, np.int32)
    assert image.shape == (*ids.shape, 3)
    assert set(np.unique(ids)) <= {OUTSIDE, *range(1, 13)}
    is_inner = (cv2.erode(ids.astype(np.float32), np.ones((5, 5))) == ids) & (
        cv2.dilate(ids.astype(np.float32), np.ones((5, 5))) == ids
    )
    is_inner &= (ids != OUTSIDE) & ~((image == 0).all(-1) & (node["_target_"] == "CoarseDropout"))
    assert is_inner.sum() > 200
    difference = np.abs(image[..., 0].astype(int) - ids * 16)[is_inner]
    assert (difference <= 2).mean() > 0.98
    np.testing.assert_array_equal(sample.image, before.image)
    np.testing.assert_array_equal(sample.segments.id_map, before.segments.id_map)  # type: ignore


@pytest.mark.parametrize("node", PIXEL_LEVEL, ids=lambda node: node["_target_"])
def test_a_pixel_level_transform_leaves_the_ids(node: dict[str, Any]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    before = image.copy()
    ids = np.arange(SIZE[0] * SIZE[1], dtype=np.int32).reshape(SIZE)
    changed, same = Augmentation(listed(node))(image, ids, np.random.default_rng(3))
    np.testing.assert_array_equal(same, ids)
    np.testing.assert_array_equal(image, before)
    assert not np.array_equal(changed, image)


@pytest.mark.parametrize("node", SPATIAL, ids=lambda node: node["_target_"])
def test_crops_keep_their_size_and_what_comes_from_outside_is_padding(node: dict[str, Any]) -> None:
    sample = colored_sample()
    transform = TrainTransform((65, 73), 0.7, 1.6, transforms=listed(node))
    for seed in range(4):
        crop = transform(sample, np.random.default_rng(seed))
        assert crop.image.shape == (65, 73, 3)
        assert crop.valid.shape == crop.segments.id_map.shape == (65, 73)
        assert (crop.image[~crop.valid] == PAD_VALUE).all()
        # The sample has no void of its own.
        np.testing.assert_array_equal(crop.segments.id_map > 0, crop.valid)
        assert len(crop.segments.class_ids) == 12  # rows of vanished segments stay, as for crops


def test_a_rotated_image_has_void_corners() -> None:
    rotate = listed({"_target_": "Rotate", "limit": [45, 45]})
    transform = TrainTransform(SIZE, 1.0, 1.0, transforms=rotate)
    crop = transform(colored_sample(), np.random.default_rng(0))
    assert not crop.valid[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert crop.valid[30, 40]


def test_transforms_of_a_list_draw_independently() -> None:
    flips = listed({"_target_": "HorizontalFlip"}, {"_target_": "VerticalFlip"}, p=0.5)
    augmentation = Augmentation(flips)
    ids = np.array([[1, 2], [3, 4]], np.int32)
    image = np.zeros((2, 2, 3), np.uint8)
    corners = [
        int(augmentation(image, ids, np.random.default_rng([0, n]))[1][0, 0]) for n in range(200)
    ]
    counts = [corners.count(corner) for corner in (1, 2, 3, 4)]
    assert min(counts) > 30


def test_draws_do_not_depend_on_earlier_ones_or_on_global_state() -> None:
    sample = colored_sample()
    nodes = [*SPATIAL[3:5], *PIXEL_LEVEL, one_of(*SPATIAL[:2])]
    transform = TrainTransform((49, 49), 0.5, 1.5, transforms=listed(*nodes, p=0.5))
    other = copy.deepcopy(transform)
    expected = [transform(sample, np.random.default_rng([0, n])) for n in range(12)]
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    for n in reversed(range(12)):
        again = other(sample, np.random.default_rng([0, n]))
        np.testing.assert_array_equal(again.image, expected[n].image)
        np.testing.assert_array_equal(again.segments.id_map, expected[n].segments.id_map)
    assert len({crop.image.tobytes() for crop in expected}) == 12


def data_config(root: Path, workers: int, *overrides: str) -> DictConfig:
    """Every transform of both lists, each with a probability of 0.3."""
    register_schemas()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose(
            "train",
            [
                f"data.root={root}",
                *(
                    f"+data.{half}_dataset.{count}"
                    for half in ("train", "val")
                    for count in ("train_images=10", "val_images=2")
                ),
                "data.crop_size=[33,33]",
                "trainer.accumulate_grad_batches=1",
                f"data.num_workers={workers}",
                *overrides,
            ],
        )
    cfg.data.train_transform.transforms = [named(node, 0.3) for node in (*SPATIAL, *PIXEL_LEVEL)]
    return cfg


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Iterator[dict[str, Any]]]:
    root = tmp_path_factory.mktemp("shapes")

    def iterate(workers: int) -> Iterator[dict[str, Any]]:
        module = build_training_data(data_config(root, workers, "schedule.batch_size=4"), 1)
        module.prepare_data()
        module.setup("fit")
        return iter(module.train_dataloader())

    return iterate


@pytest.mark.parametrize("workers", [2, 4])
def test_batches_do_not_depend_on_the_workers(
    workers: int, batches: Callable[[int], Iterator[dict[str, Any]]]
) -> None:
    one, many = batches(0), batches(workers)
    seen = set()
    for _ in range(6):
        alone, together = next(one), next(many)
        assert alone.keys() == together.keys()
        for name, value in alone.items():
            assert value.equal(together[name]), name
        seen |= {image.numpy().tobytes() for image in alone["image"]}
    assert len(seen) == 24  # 10 images, each changed anew in every epoch


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ("Normalize", r"albumentations\.Normalize turns the image into another type; it must"),
        ("ToTensorV2", r"albumentations\.ToTensorV2 turns the image into another type"),
        ("Mosaic", r"albumentations\.Mosaic cannot be applied: .*mosaic_metadata"),
        ("BBoxSafeRandomCrop", r"albumentations\.BBoxSafeRandomCrop cannot be applied: 'bboxes'"),
    ],
)
def test_what_does_not_fit_is_refused_however_rare(node: str, sentence: str) -> None:
    rare = listed(one_of({"_target_": node}), p=0.01)
    with pytest.raises(UserError, match=sentence):
        Augmentation(rare).check(colored_sample().image)


def test_other_objects_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"transforms\.0 is not a transform of albumentations but a "
    ):
        Augmentation(["HorizontalFlip"])


@pytest.mark.parametrize(
    ("data", "default"),
    [
        ("cityscapes", 0.2),
        ("coco", 0.2),
        ("shapes", None),
        ("mapillary_vistas", None),
        ("imagenet", None),
        ("patterns", None),
    ],
)
def test_each_data_set_has_its_own_default(data: str, default: float | None) -> None:
    register_schemas()
    classifier = ["model=axial_resnet_tiny"] if data in ("imagenet", "patterns") else []
    expected = {None: default, "none": None, "deeplab": 0.2, "strong_color": 1.0}
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for choice, scale in expected.items():
            chosen = [] if choice is None else [f"data/augmentation={choice}"]
            cfg = compose("train", [f"data={data}", *classifier, *chosen])
            color = cfg.data.train_transform.color
            assert (color and color.magnitude_scale) == scale
            assert cfg.data.train_transform.transforms == []
