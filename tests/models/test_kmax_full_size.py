"""kMaX-DeepLab at full size against the authors' numbers."""

import numpy as np
import pytest
import torch
from golden_data import arrays, assert_close, nhwc, our_panoptic, rule_image
from published_models import KMAX, Golden, check_tensors, filled_by_rule, manifest, model_config
from torch import Tensor, nn

from axialseg.build import build
from axialseg.decoders.max_deeplab import KMaxHeads
from axialseg.panoptic.cityscapes_classes import CITYSCAPES
from axialseg.panoptic.coco_classes import COCO

SCORES = 3e-4  # a softmax of large logits


@pytest.mark.slow
@pytest.mark.parametrize("name", KMAX)
def test_outputs_are_the_authors(name: str) -> None:
    golden = arrays.__wrapped__(name)  # unlike other goldens not kept for later tests
    shape = manifest(name)["golden_input"]
    size = (shape["height"], shape["width"])
    net = filled_by_rule(name)
    image = rule_image(shape["tag"], shape["batch"], *size)
    with torch.inference_mode():
        heads, features = outputs_and_features(net, image)
    # First the assignments: a single pixel with another slot changes all that follows.
    compared = set()
    for i, auxiliary in enumerate(heads.auxiliary):
        key = f"transformer_decoder/block{i}/assignment"
        ours = auxiliary.mask_logits.argmax(1).numpy()
        np.testing.assert_array_equal(ours, golden[key], key)
        compared.add(key)
    decoder = {
        "decoder/semantic_logits": nhwc(heads.semantic),
        "decoder/pixel_space_normalized_feature": nhwc(heads.pixel_embedding),
        "decoder/transformer_class_logits": heads.class_logits.numpy(),
        "decoder/pixel_space_mask_logits": nhwc(heads.mask_logits),
    }
    compared |= check_tensors(features | decoder, golden)
    low = manifest(name)["output_low_limits"]
    names = {
        "thing_area_limit": "thing_area_limit",
        "stuff_area_limit": "stuff_area_limit",
        "pixel_threshold": "pixel_confidence_threshold",
        "thing_threshold": "transformer_class_confidence_threshold_thing",
        "stuff_threshold": "transformer_class_confidence_threshold_stuff",
    }
    compared |= check_maps(name, heads, golden, size, "output", {})
    lower = {ours: low[theirs] for ours, theirs in names.items()}
    compared |= check_maps(name, heads, golden, size, "output_low_limits", lower)
    assert compared == set(golden)


def outputs_and_features(net: nn.Module, image: Tensor) -> tuple[KMaxHeads, Golden]:
    """The heads, and what they read, by the names of the goldens."""
    seen: Golden = {}
    raw_stages = net.backbone.raw_stages

    def keep_stages(*arguments: object) -> dict[str, Tensor]:
        stages = raw_stages(*arguments)
        seen.update({f"encoder/{name}": nhwc(x) for name, x in stages.items()})
        return stages

    def keep_pixels(_module: nn.Module, _inputs: object, outputs: list[Tensor]) -> None:
        names = [f"decoder_stage{i}" for i in range(1, len(outputs))]
        for name, x in zip([*names, "decoder_output"], outputs, strict=True):
            seen[f"pixel_decoder/{name}"] = nhwc(x)

    def keep_slots(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen["transformer_decoder/transformer_class_feature"] = nhwc(inputs[1])
        seen["transformer_decoder/transformer_mask_feature"] = nhwc(inputs[2])

    net.backbone.raw_stages = keep_stages
    net.pixel_decoder.register_forward_hook(keep_pixels)
    net.heads.register_forward_pre_hook(keep_slots)
    for i, transformer in enumerate(net.transformers):

        def keep_block(_module: nn.Module, _inputs: object, output: tuple, i: int = i) -> None:
            block = f"transformer_decoder/block{i}"
            centers, heads = output
            seen[f"{block}/cluster_centers"] = nhwc(centers)
            seen[f"{block}/aux_pixel_space_mask_logits"] = nhwc(heads.mask_logits)
            seen[f"{block}/aux_pixel_space_normalized_feature"] = nhwc(heads.pixel_embedding)
            seen[f"{block}/aux_transformer_class_logits"] = heads.class_logits.numpy()

        transformer.register_forward_hook(keep_block)
    return net(image), seen


def check_maps(
    name: str,
    heads: KMaxHeads,
    golden: Golden,
    size: tuple[int, int],
    part: str,
    limits: dict[str, float],
) -> set[str]:
    model = model_config(KMAX[name].overrides)
    node = model.postprocess
    node.update(limits)
    is_coco = name.endswith("coco")
    categories, divisor = (COCO, 256) if is_coco else (CITYSCAPES, 1000)
    result = build(node, categories=categories)(heads, size)[0]
    maps = {
        "panoptic_pred": result.panoptic.numpy(),
        "semantic_pred": result.semantic.numpy(),
        "instance_pred": result.instance.numpy(),
    }
    compared = set()
    for key, actual in maps.items():
        if f"{part}/{key}" not in golden:
            continue  # not all maps are stored
        compared.add(f"{part}/{key}")
        theirs = golden[f"{part}/{key}"][0]
        if key == "panoptic_pred":
            theirs = our_panoptic(theirs, divisor)
        np.testing.assert_array_equal(actual, theirs, f"{part}/{key}")
    scores = {"instance_scores": result.instance_score, "semantic_scores": result.semantic_score}
    for key, score in scores.items():
        if f"{part}/{key}" not in golden:
            continue
        compared.add(f"{part}/{key}")
        assert_close(score.numpy(), golden[f"{part}/{key}"][0], f"{part}/{key}", SCORES)
    return compared
