"""deeplab2's tiny kMaX-DeepLab in our words, its weights by the rule and its golden heads."""

from typing import Any

import numpy as np
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
from axialseg.decoders.max_deeplab import KMaxHeads, SlotHeads

NAME = "tiny_kmax"
# deeplab2's overrides for its tiny model.
OVERRIDES = (
    "model=kmax_axial_r50",
    "model.backbone.stem.channels=[8,8,16]",
    "model.backbone.stage_blocks=[1,2,2,2]",
    "model.backbone.stage_channels=[16,32,64,128]",
    "model.backbone.drop_path_keep=1.0",
    "model.net.slots=24",
    "model.net.pixel_decoder.widths=[32,16,8,8]",
    "model.net.pixel_decoder.blocks=[1,2,1,1]",
    "model.net.transformer.channels=16",
    "model.net.transformer.feed_forward_channels=40",
    "model.net.transformer.keep_probability=1.0",
    "model.net.embedding_channels=12",
    "model.net.pixel_head_channels=16",
    "model.net.semantic_head_channels=16",
    "model.net.semantic_decoder.channels=24",
    "model.net.semantic_decoder.projections=[12,8]",
    "model.net.semantic_decoder.context.channels=24",
    "model.net.semantic_decoder.context.rates=[1,2,3]",
    "+model.net.semantic_decoder.context.dropout=0.0",
    "model.loss.sampled_pixels=200",
)
HEADS = {
    "mask_logits": "pixel_space_mask_logits",
    "class_logits": "transformer_class_logits",
    "pixel_embedding": "pixel_space_normalized_feature",
    "semantic": "semantic_logits",
}


def tiny_model(*overrides: str) -> Any:
    """The `model` node of its configuration."""
    return model_config((*OVERRIDES, *overrides))


def tiny_net(*overrides: str) -> nn.Module:
    """The model as initialised; overrides make it another."""
    torch.manual_seed(0)
    model = tiny_model(*overrides)
    net: nn.Module = build(
        model.net, backbone=build(model.backbone), semantic_channels=134, class_channels=134
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


def check_heads(heads: KMaxHeads, prefix: str, limit: float = TOLERANCE) -> None:
    """Compares with the goldens ``before/``, ``after/`` or ``train_forward/``.

    The assignments come first: a single pixel with another slot changes all that follows.
    """
    golden = arrays(NAME)
    for i, auxiliary in enumerate(heads.auxiliary):
        ours = auxiliary.mask_logits.argmax(1).numpy()
        what = f"{prefix}/aux{i}"
        np.testing.assert_array_equal(ours, golden[f"{what}/assignment"], what)
        native = golden[f"{what}/native_mask_logits"]
        assert_close(nhwc(auxiliary.mask_logits), native, f"{what} mask logits", limit)
        resized = auxiliary.resized((heads.mask_logits.shape[-2], heads.mask_logits.shape[-1]))
        _check(resized, f"{what}/", limit)
    _check(heads, f"{prefix}/", limit)


def _check(heads: KMaxHeads | SlotHeads, prefix: str, limit: float) -> None:
    golden = arrays(NAME)
    for ours, theirs in HEADS.items():
        if hasattr(heads, ours) and f"{prefix}{theirs}" in golden:
            head = getattr(heads, ours).detach()
            actual = head.numpy() if ours == "class_logits" else nhwc(head)
            assert_close(actual, golden[f"{prefix}{theirs}"], f"{prefix}{theirs}", limit)
