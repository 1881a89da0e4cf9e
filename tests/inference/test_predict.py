"""The predictions of an image, whatever batch it is in."""

from typing import Any

import numpy as np
import pytest
import torch
from published_models import model_config
from tiny_max_deeplab import OVERRIDES
from torch import nn

from axialseg.build import build, class_facts
from axialseg.datasets.datamodule import EvaluationItems, collate_evaluation
from axialseg.datasets.sample import PanopticSample
from axialseg.datasets.transforms import EvalTransform
from axialseg.inference.predict import predict
from axialseg.metrics.panoptic_quality import PanopticQuality
from axialseg.metrics.segment_overlap import segment_overlap
from axialseg.panoptic.cityscapes_classes import CITYSCAPES
from axialseg.panoptic.panoptic_map import PanopticSegments, segments_from_panoptic_map

# Three padded sizes under a crop of 33 x 33 and a stride of 16, in an order that mixes them.
SHAPES = [(30, 33), (60, 40), (33, 20), (33, 65), (64, 48), (20, 60), (33, 33)]
MODELS = {
    "panoptic_deeplab": (
        "model=axial_deeplab_tiny",
        "model.backbone.stage_blocks=[1,1,1,1]",
        "model.backbone.stage_channels=[16,16,32,32]",
    ),
    "max_deeplab": OVERRIDES,
}


class Scenes:
    """Noise of mixed shapes; the ground truth is two halves."""

    categories = CITYSCAPES

    def __len__(self) -> int:
        return len(SHAPES)

    def read(self, index: int) -> PanopticSample:
        shape = SHAPES[index]
        rng = np.random.default_rng(index)
        image = cv_noise(rng, shape)
        id_map = np.ones(shape, np.int32)
        id_map[:, shape[1] // 2 :] = 2
        segments = PanopticSegments(id_map, np.array([0, 13]), np.zeros(2, bool))
        return PanopticSample(image, segments, index, f"{index}.png", f"{index}.png")


def cv_noise(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    blocks = rng.integers(0, 256, (-(-shape[0] // 8), -(-shape[1] // 8), 3), np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)[: shape[0], : shape[1]].copy()


def parts(family: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = model_config(MODELS[family])
    facts = class_facts(CITYSCAPES)
    names = {"panoptic_deeplab": ["semantic_channels"], "max_deeplab": ["class_channels"]}[family]
    wanted = {name: facts[name] for name in {*names, "semantic_channels"}}
    net = build(model.net, backbone=build(model.backbone), **wanted).eval()
    postprocess = build(model.postprocess, categories=CITYSCAPES)
    return net, postprocess


def predictions(net: nn.Module, postprocess: Any, batch_size: int) -> tuple[list, Any]:
    items = EvaluationItems(Scenes(), EvalTransform((33, 33), stride=16))
    quality = PanopticQuality(CITYSCAPES)
    found = []
    for start in range(0, len(SHAPES), batch_size):
        batch = collate_evaluation(
            [items[n] for n in range(start, min(start + batch_size, len(SHAPES)))]
        )
        found += predict(net, postprocess, batch)
        for prediction, truth in zip(found[start:], batch["segments"], strict=True):
            segments = segments_from_panoptic_map(prediction.panoptic, CITYSCAPES.ignore_class)
            quality.update(segment_overlap(segments, truth))
    return found, quality.compute()


@pytest.mark.parametrize("family", MODELS)
def test_predictions_do_not_depend_on_the_batch(family: str) -> None:
    net, postprocess = parts(family)
    alone, score = predictions(net, postprocess, 1)
    assert [p.panoptic.shape for p in alone] == SHAPES
    assert len({p.semantic[0, 0] for p in alone}) > 1 or len(np.unique(alone[0].semantic)) > 1
    for batch_size in (3, 4):
        together, same_score = predictions(net, postprocess, batch_size)
        assert same_score == score
        for one, other in zip(alone, together, strict=True):
            assert (one.image_id, one.file_name) == (other.image_id, other.file_name)
            np.testing.assert_array_equal(one.panoptic, other.panoptic)
            np.testing.assert_array_equal(one.semantic, other.semantic)
