"""A tiny MaX-DeepLab against the authors' numbers, and what its constructor checks."""

import numpy as np
import pytest
import torch
from golden_data import arrays, assert_close, load_weights, nhwc, rule_image, rule_weights
from published_models import manifest as read_manifest
from published_models import model_config
from torch import Tensor, nn

from axialseg.build import build
from axialseg.decoders.max_deeplab import MaxDeepLabOutput
from axialseg.panoptic.coco_classes import COCO
from axialseg.postprocess.max_deeplab import PixelWisePostProcess

NAME = "tiny_max_deeplab_s"
# deeplab2's overrides for its tiny model, in our words.
OVERRIDES = (
    "model=max_deeplab_s",
    "model.backbone.stem.channels=[8,8,16]",
    "model.backbone.stage_blocks=[1,2,2,2]",
    "model.backbone.stage_channels=[16,32,64,128]",
    "model.backbone.drop_path_keep=1.0",
    "model.net.slots=12",
    "model.net.memory_slots=16",
    "model.net.memory_channels=24",
    "model.net.slot_channels=20",
    "model.net.transformer_channels={stage5:32,decoder:32}",
    "model.net.transformer.feed_forward_channels=40",
    "model.net.embedding_channels=12",
    "model.net.pixel_head_channels=16",
    "model.net.semantic_head_channels=16",
    "model.net.semantic_decoder.channels=24",
    "model.net.semantic_decoder.projections=[12,8]",
    "~model.net.semantic_decoder.context",
    "+model.net.semantic_decoder.context._target_=axialseg.decoders.context.PointwiseContext",
    "+model.net.semantic_decoder.context._partial_=true",
    "+model.net.semantic_decoder.context.channels=24",
)
HEADS = {
    "mask_logits": "pixel_space_mask_logits",
    "class_logits": "transformer_class_logits",
    "pixel_embedding": "pixel_space_normalized_feature",
    "semantic": "semantic_logits",
}


@pytest.fixture
def manifest() -> dict:
    return read_manifest(NAME)


@pytest.fixture
def net(manifest: dict) -> nn.Module:
    model = model_config(OVERRIDES)
    net: nn.Module = build(model.net, backbone=build(model.backbone), semantic_channels=134)
    load_weights(net, rule_weights(manifest))
    return net


def image(manifest: dict) -> Tensor:
    shape = manifest["golden_input"]
    return rule_image(shape["tag"], shape["batch"], shape["height"], shape["width"])


def check_heads(heads: MaxDeepLabOutput, prefix: str) -> None:
    golden = arrays(NAME)
    for ours, theirs in HEADS.items():
        head = getattr(heads, ours)
        actual = head.detach().numpy() if ours == "class_logits" else nhwc(head)
        assert_close(actual, golden[f"{prefix}/{theirs}"], theirs)


def test_parameter_counts(net: nn.Module, manifest: dict) -> None:
    assert sum(p.numel() for p in net.parameters()) == manifest["trainable_parameters"]
    assert sum(b.numel() for b in net.buffers()) == manifest["non_trainable_parameters"]


def test_outputs_in_evaluation(net: nn.Module, manifest: dict) -> None:
    golden = arrays(NAME)
    with torch.inference_mode():
        heads = net.eval()(image(manifest)[:1])
    check_heads(heads, "before")
    result = PixelWisePostProcess(COCO, 0.15, 0.3, 20, 30, divisor=256)(heads, (65, 97))[0]
    maps = {"panoptic": result.panoptic, "instance": result.instance, "semantic": result.semantic}
    for name, actual in maps.items():
        np.testing.assert_array_equal(actual.numpy(), golden[f"before/{name}_pred"][0])


def test_all_is_trained() -> None:
    """The backbone's stacked decoder too, which other models leave frozen."""
    model = model_config(("model=max_deeplab_l",))
    with torch.device("meta"):
        net = build(model.net, backbone=build(model.backbone), semantic_channels=134)
    assert all(p.requires_grad for p in net.parameters())
    keep = {
        name: module.memory_drop_path.keep_probability
        for name, module in net.transformers.named_modules()
        if hasattr(module, "memory_drop_path")
    }
    assert keep["backbone.stage4.0"] == pytest.approx(0.9)  # as the block in front of each
    assert keep["backbone.stage4.1"] == pytest.approx(0.85)
    assert keep["backbone.stage5.2"] == keep["extra.stage5.0"] == pytest.approx(0.8)
    assert set(net.transformers["extra"]) == {"stage1", "stage5"}  # those at stride 16


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+model.net.transformer_channels.stage7=32", "stage7"),
        ("model.net.memory_slots=8", "12 slots"),
        ("model.net.transformer.heads=5", "5 heads"),
    ],
)
def test_what_the_constructor_refuses(override: str, message: str) -> None:
    model = model_config((*OVERRIDES, override))
    backbone = build(model.backbone)
    with pytest.raises(Exception, match=message):
        build(model.net, backbone=backbone, semantic_channels=134)
