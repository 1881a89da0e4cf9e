"""The scene has what a street has, and perfect heads are turned into it again."""

import numpy as np
import pytest
import torch
from published_models import build_on_meta, model_config
from torch.utils._pytree import tree_leaves

from axialseg.build import build
from axialseg.costs.synthetic_scene import STUFF, THINGS, perfect_outputs, scene
from axialseg.metrics.panoptic_quality import match_segments
from axialseg.metrics.segment_overlap import segment_overlap
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.cityscapes_classes import CITYSCAPES
from axialseg.panoptic.coco_classes import COCO
from axialseg.panoptic.panoptic_map import segments_from_panoptic_map

SIZE = (129, 257)


@pytest.mark.parametrize("categories", [CITYSCAPES, COCO])
def test_scene(categories: Categories) -> None:
    segments = scene(categories, SIZE)
    assert segments.id_map.shape == SIZE
    assert segments.id_map.min() == 1  # all is labelled
    is_thing = categories.is_thing_table[segments.class_ids]
    assert is_thing.sum() == THINGS
    assert (~is_thing).sum() == STUFF
    assert len(np.unique(segments.id_map)) > THINGS  # few are wholly covered
    assert np.array_equal(segments.id_map, scene(categories, SIZE).id_map)
    assert not np.array_equal(segments.id_map, scene(categories, SIZE, 1).id_map)


def test_scene_without_stuff() -> None:
    things = Categories(tuple(c for c in CITYSCAPES.classes if c.is_thing), 255)
    segments = scene(things, (33, 33))
    assert len(segments.class_ids) == THINGS
    assert segments.id_map.min() == 0


@pytest.mark.parametrize(
    "model",
    [
        ["model=axial_deeplab_tiny"],
        ["model=max_deeplab_tiny"],
        ["model=kmax_tiny", "model.net.slots=24"],
    ],
)
@pytest.mark.parametrize("categories", [CITYSCAPES, COCO])
def test_perfect_heads_are_scored_as_perfect(model: list[str], categories: Categories) -> None:
    config = model_config(model)
    targets = build(config.targets)
    scenes = [scene(categories, SIZE, seed) for seed in range(2)]
    per_image = [targets(segments, categories) for segments in scenes]
    batch = {k: torch.from_numpy(np.stack([t[k] for t in per_image])) for k in per_image[0]}
    net = build_on_meta(config, categories.semantic_channels)
    like = net(torch.zeros(2, 3, *SIZE, device="meta"))
    outputs = perfect_outputs(like, batch, categories)
    assert type(outputs) is type(like)
    for one, other in zip(tree_leaves(outputs), tree_leaves(like), strict=True):
        assert (one.shape, one.dtype) == (other.shape, torch.float32)

    config.postprocess.stuff_area_limit = 0
    postprocess = build(config.postprocess, categories=categories)
    for result, segments in zip(postprocess(outputs, SIZE), scenes, strict=True):
        predicted = segments_from_panoptic_map(result.panoptic.numpy(), categories.ignore_class)
        matches = match_segments(segment_overlap(predicted, segments))
        # Parts of covered things are small, or share a centre.
        assert len(matches.target) >= 0.7 * len(np.unique(segments.id_map))
        assert matches.iou.mean() > 0.75  # heads are at stride 4
        assert len(matches.false) <= 0.2 * len(np.unique(segments.id_map))


def test_other_networks_are_refused() -> None:
    with pytest.raises(TypeError, match="not an output of a panoptic network"):
        perfect_outputs(torch.zeros(1), {}, CITYSCAPES)
