"""The published Panoptic-DeepLab models at full size against the authors' numbers.

The goldens are deeplab2's, unchanged but for `output/semantic_logits`, of which only some channels
are kept. Weights follow from the variables' names (`golden_data.unit`), so no file holds them.
"""

import resource
import sys

import numpy as np
import pytest
import torch
from decoded_records import decoded
from golden_data import SUFFIX, TOLERANCE, arrays, assert_close, nhwc, our_panoptic, rule_image
from published_models import (
    KMAX,
    MAX_DEEPLAB,
    PUBLISHED,
    Golden,
    check_tensors,
    filled_by_rule,
    manifest,
    model_config,
    published_on_meta,
)
from torch import Tensor

from axialseg.build import build
from axialseg.checkpoints.tensorflow.deeplab2 import variable_names
from axialseg.decoders.panoptic_deeplab import PanopticHeads
from axialseg.panoptic.cityscapes_classes import CITYSCAPES
from axialseg.panoptic.coco_classes import COCO
from axialseg.postprocess.panoptic_deeplab import PanopticDeepLabPostProcess, find_centers

ALWAYS = "max_deeplab_s_backbone_os16_cityscapes"  # the smallest, and it has every kind of layer
PEAK_MEMORY = 6e9  # bytes, of the whole process
FLIPS = 1e-3  # share of the pixels that may fall the other way, if it is a near-tie


@pytest.mark.parametrize("name", [*PUBLISHED, *MAX_DEEPLAB, *KMAX])
def test_variables_are_the_authors(name: str) -> None:
    net = published_on_meta(name)
    facts = manifest(name)
    sizes = {ours: tensor.numel() for ours, tensor in net.state_dict().items()}
    names = variable_names(net)
    assert set(names) == set(sizes)
    assert len(set(names.values())) == len(names)
    theirs = {row[0].removesuffix(SUFFIX): int(np.prod(row[1])) for row in facts["variables"]}
    assert {names[ours]: size for ours, size in sizes.items()} == theirs
    assert sum(p.numel() for p in net.parameters()) == facts["trainable_parameters"]
    assert sum(b.numel() for b in net.buffers()) == facts["non_trainable_parameters"]


@pytest.mark.parametrize(
    "name", [n if n == ALWAYS else pytest.param(n, marks=pytest.mark.slow) for n in PUBLISHED]
)
def test_outputs_are_the_authors(name: str) -> None:
    golden = arrays.__wrapped__(name)  # unlike other goldens not kept for later tests
    shape = manifest(name)["golden_input"]
    size = (shape["height"], shape["width"])
    image = rule_image(shape["tag"], shape["batch"], *size)
    net = filled_by_rule(name)
    stages: dict[str, Tensor] = {}
    for stage, module in [("stage1", net.backbone.stem), *net.backbone.stages.items()]:
        module.register_forward_hook(lambda _m, _i, y, stage=stage: stages.update({stage: y}))
    with torch.inference_mode():
        heads = net(image)
        full = heads.resized(size)
        # The original's backbone ends with its stacked decoder, although no head reads that.
        last = decoded(net.backbone, stages)[16 if "os16" in name else 32][-1]
    encoder = {f"encoder/{stage}": nhwc(x) for stage, x in stages.items()}
    encoder["encoder/backbone_output"] = nhwc(last.relu())
    compared = check_tensors(encoder, golden)
    compared |= check_tensors(by_golden_name("decoder", heads), golden)
    compared |= check_tensors(by_golden_name("output", full), golden)
    compared |= check_panoptic(name, full, golden)
    assert compared == set(golden)
    if sys.platform == "linux":
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < PEAK_MEMORY


def by_golden_name(prefix: str, heads: PanopticHeads) -> Golden:
    return {
        f"{prefix}/semantic_logits": nhwc(heads.semantic),
        f"{prefix}/center_heatmap": nhwc(heads.center),
        f"{prefix}/offset_map": nhwc(heads.offset),
    }


def check_panoptic(name: str, heads: PanopticHeads, golden: Golden) -> set[str]:
    """Compares the maps; a pixel may differ only where two classes or two centres tie."""
    is_coco = name.endswith("coco")
    post_process: PanopticDeepLabPostProcess = build(
        model_config(PUBLISHED[name].overrides).postprocess,
        categories=COCO if is_coco else CITYSCAPES,
    )
    height, width = heads.center.shape[-2:]
    result = post_process(heads, (height, width))[0]
    centers = find_centers(
        heads.center[0, 0], 0.1, post_process.nms_kernel, post_process.keep_centers
    ).numpy()
    at_centers = golden["output/instance_center_pred"][0]
    np.testing.assert_array_equal(centers, np.argwhere(at_centers > 0))

    semantic, their_semantic = result.semantic.numpy(), golden["output/semantic_pred"][0]
    y, x = np.nonzero(semantic != their_semantic)
    logits = heads.semantic[0].numpy()
    gap = logits[semantic[y, x], y, x] - logits[their_semantic[y, x], y, x]
    assert gap.max(initial=0) <= TOLERANCE * np.abs(logits).max()

    instance, their_instance = result.instance.numpy(), golden["output/instance_pred"][0]
    y, x = np.nonzero((instance != their_instance) & (instance > 0) & (their_instance > 0))
    target = np.stack([y, x], 1) + heads.offset[0].numpy()[:, y, x].T
    ours, theirs = (centers[i[y, x] - 1] - target for i in (instance, their_instance))
    gap = np.linalg.norm(theirs, axis=1) - np.linalg.norm(ours, axis=1)
    assert gap.max(initial=0) <= TOLERANCE * max(height, width)

    maps = {"semantic_pred": semantic, "instance_pred": instance}
    maps["panoptic_pred"] = result.panoptic.numpy()
    for key, actual in maps.items():
        theirs = golden[f"output/{key}"][0]
        if key == "panoptic_pred":
            theirs = our_panoptic(theirs, 256 if is_coco else 1000)
        assert np.mean(actual != theirs) <= FLIPS, key
    same = instance == their_instance
    scores, their_scores = result.instance_score.numpy(), golden["output/instance_scores"][0]
    assert_close(scores[same], their_scores[same], "instance scores")
    return {f"output/{key}" for key in (*maps, "instance_center_pred", "instance_scores")}
