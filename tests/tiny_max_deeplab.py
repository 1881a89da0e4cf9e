"""deeplab2's tiny MaX-DeepLab in our words, its weights by the rule and its golden heads."""

import torch
from golden_data import (
    TOLERANCE,
    arrays,
    assert_close,
    load_weights,
    nhwc,
    rule_image,
    rule_weights,
)
from published_models import manifest as read_manifest
from published_models import model_config
from torch import Tensor, nn

from axialseg.build import build
from axialseg.decoders.max_deeplab import MaskHeads

NAME = "tiny_max_deeplab_s"
# deeplab2's overrides for its tiny model.
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


def tiny_net(*overrides: str, channels: int = 134, class_channels: int = 134) -> nn.Module:
    """The model as initialised; overrides make it another."""
    torch.manual_seed(0)
    model = model_config((*OVERRIDES, *overrides))
    net: nn.Module = build(
        model.net,
        backbone=build(model.backbone),
        semantic_channels=channels,
        class_channels=class_channels,
    )
    return net


def golden_net() -> nn.Module:
    """The model with the weights of the rule."""
    net = tiny_net()
    load_weights(net, rule_weights(read_manifest(NAME)))
    return net


def golden_image() -> Tensor:
    """The golden input ``[2, 3, 65, 97]``."""
    shape = read_manifest(NAME)["golden_input"]
    return rule_image(shape["tag"], shape["batch"], shape["height"], shape["width"])


def check_heads(heads: MaskHeads, prefix: str, limit: float = TOLERANCE) -> None:
    """Compares the heads with the goldens ``before/`` or ``train_forward/``."""
    golden = arrays(NAME)
    for ours, theirs in HEADS.items():
        head = getattr(heads, ours)
        actual = head.detach().numpy() if ours == "class_logits" else nhwc(head)
        assert_close(actual, golden[f"{prefix}/{theirs}"], theirs, limit)


def assert_golden_heads(net: nn.Module) -> None:
    """The outputs of the authors' model in evaluation."""
    with torch.inference_mode():
        check_heads(net.eval()(golden_image()[:1]), "before")
