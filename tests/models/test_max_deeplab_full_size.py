"""MaX-DeepLab-S and L at full size against the authors' numbers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_data import arrays, assert_close, nhwc, our_panoptic, rule_image
from published_models import (
    MAX_DEEPLAB,
    Golden,
    check_tensors,
    filled_by_rule,
    manifest,
    model_config,
)
from torch import Tensor, nn

from axialseg.build import build
from axialseg.decoders.max_deeplab import MaskHeads
from axialseg.panoptic.coco_classes import COCO

FLIPS = 1e-3  # share of the pixels that may fall the other way


@pytest.mark.slow
@pytest.mark.parametrize("name", MAX_DEEPLAB)
def test_outputs_are_the_authors(name: str) -> None:
    golden = arrays.__wrapped__(name)  # unlike other goldens not kept for later tests
    shape = manifest(name)["golden_input"]
    size = (shape["height"], shape["width"])
    net = filled_by_rule(name)
    image = rule_image(shape["tag"], shape["batch"], *size)
    with torch.inference_mode():
        heads, encoder = outputs_and_features(net, image)
    decoder = {
        "decoder/semantic_logits": nhwc(heads.semantic),
        "decoder/pixel_space_normalized_feature": nhwc(heads.pixel_embedding),
        "decoder/transformer_class_logits": heads.class_logits.numpy(),
        "decoder/pixel_space_mask_logits": nhwc(heads.mask_logits),
    }
    compared = check_tensors(encoder | decoder, golden)
    compared |= check_maps(name, heads, golden, size)
    assert compared == set(golden)


def outputs_and_features(net: nn.Module, image: Tensor) -> tuple[MaskHeads, Golden]:
    """The heads, and what they read, by the names of the goldens."""
    seen: dict[str, Tensor] = {}
    raw_stages, extra_stages = net.backbone.raw_stages, net.extra_stages.forward

    def keep_stages(*arguments: object) -> dict[str, Tensor]:
        stages = raw_stages(*arguments)
        seen.update(stages)
        return stages

    def keep_input(records: dict[int, list[Tensor]], *arguments: object) -> dict[int, list[Tensor]]:
        seen["backbone_output"] = F.relu(records[16][-1])
        return extra_stages(records, *arguments)

    net.backbone.raw_stages, net.extra_stages.forward = keep_stages, keep_input
    features: list[Tensor] = []
    net.heads.register_forward_pre_hook(lambda _module, inputs: features.extend(inputs))
    heads = net(image)
    seen["feature_panoptic"], classes, masks, semantic = features
    # The auxiliary decoder of S reads what leaves the backbone; L has no such decoder.
    has_decoder = net.semantic_decoder is not None
    seen["feature_semantic"] = F.relu(seen["stage5"]) if has_decoder else semantic
    encoder = {f"encoder/{name}": nhwc(x) for name, x in seen.items()}
    encoder["encoder/transformer_class_feature"] = nhwc(classes)
    encoder["encoder/transformer_mask_feature"] = nhwc(masks)
    return heads, encoder


def check_maps(name: str, heads: MaskHeads, golden: Golden, size: tuple[int, int]) -> set[str]:
    node = model_config(MAX_DEEPLAB[name].overrides).postprocess
    result = build(node, categories=COCO)(heads, size)[0]
    maps = {
        "panoptic_pred": result.panoptic.numpy(),
        "semantic_pred": result.semantic.numpy(),
        "instance_pred": result.instance.numpy(),
    }
    for key, actual in maps.items():
        theirs = golden[f"output/{key}"][0]
        if key == "panoptic_pred":
            theirs = our_panoptic(theirs, 256)
        assert np.mean(actual != theirs) <= FLIPS, key
    same = maps["instance_pred"] == golden["output/instance_pred"][0]
    scores = {"instance_scores": result.instance_score, "semantic_scores": result.semantic_score}
    for key, score in scores.items():
        assert_close(score.numpy()[same], golden[f"output/{key}"][0][same], key)
    return {f"output/{key}" for key in (*maps, *scores)}
