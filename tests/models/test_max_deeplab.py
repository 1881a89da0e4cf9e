"""A tiny MaX-DeepLab against the authors' numbers, and what its constructor checks."""

import numpy as np
import pytest
import torch
from golden_data import arrays, assert_close, in_float32, our_panoptic
from published_models import build_on_meta, model_config, published_on_meta
from published_models import manifest as read_manifest
from shipped_losses import MAX_DEEPLAB, weighted_terms
from tiny_max_deeplab import HEADS, NAME, OVERRIDES, check_heads, golden_image, golden_net
from torch import Tensor, nn
from training_step import check_gradients, check_statistics, check_weights

from axialseg.build import build
from axialseg.decoders.max_deeplab import MaskHeads
from axialseg.layers.drop_path import DropPath
from axialseg.losses import max_deeplab_loss
from axialseg.losses.matching import match_masks
from axialseg.losses.max_deeplab_loss import MaxDeepLabLoss
from axialseg.optim.adam import Adam
from axialseg.panoptic.coco_classes import COCO
from axialseg.postprocess.max_deeplab import PixelWisePostProcess

TERMS = {
    "pq_mask": "pq_style_loss_mask_dice_term",
    "pq_class": "pq_style_loss_class_term",
    "mask_id": "mask_id_cross_entropy_loss",
    "instance_discrimination": "instance_discrimination_loss",
    "semantic": "semantic_loss",
}
# The original's matching, found by its loss values: class probabilities are so small here that all
# costs are near-ties to it (it adds +-999 to them in float32).
MATCHING = torch.tensor([[5, 0, 10, 11, 2, 3, 1, 4], [1, 3, 7, 2, 8, 0, 11, 10]])
# With batch statistics this model multiplies rounding errors: a change of 1e-6 in each batch norm's
# output changes heads by 2e-3 and norms of gradients by up to 4e-2, and our own float32 and float64
# are 3e-4 and 1.4e-2 apart. The authors' numbers are float32.
ROUNDING = 1e-3
GRADIENT_ROUNDING = 0.02


@pytest.fixture
def manifest() -> dict:
    return read_manifest(NAME)


@pytest.fixture
def net() -> nn.Module:
    return golden_net()


def targets() -> dict[str, Tensor]:
    golden = arrays(NAME)
    names = {
        "semantic": "semantic_gt",
        "semantic_pixel_weights": "semantic_loss_weight",
        "thing_id_mask": "thing_id_mask_gt",
        "thing_id_class": "thing_id_class_gt",
    }
    return {ours: torch.tensor(golden[f"targets/{name}"]) for ours, name in names.items()}


def loss() -> MaxDeepLabLoss:
    return MaxDeepLabLoss(COCO.ignore_class, COCO.thing_ids, COCO.stuff_ids, **MAX_DEEPLAB)


def test_parameter_counts(net: nn.Module, manifest: dict) -> None:
    assert sum(p.numel() for p in net.parameters()) == manifest["trainable_parameters"]
    assert sum(b.numel() for b in net.buffers()) == manifest["non_trainable_parameters"]


def test_outputs_in_evaluation(net: nn.Module) -> None:
    golden = arrays(NAME)
    with torch.inference_mode():
        heads = net.eval()(golden_image()[:1])
    check_heads(heads, "before")
    result = PixelWisePostProcess(COCO, 0.15, 0.3, 20, 30)(heads, (65, 97))[0]
    maps = {"panoptic": result.panoptic, "instance": result.instance, "semantic": result.semantic}
    for name, actual in maps.items():
        theirs = golden[f"before/{name}_pred"][0]
        if name == "panoptic":
            theirs = our_panoptic(theirs, 256)
        np.testing.assert_array_equal(actual.numpy(), theirs)


def authors_heads() -> MaskHeads:
    golden = arrays(NAME)
    heads = {name: torch.tensor(golden[f"train_forward/{HEADS[name]}"]) for name in HEADS}
    for name in ("mask_logits", "pixel_embedding", "semantic"):
        heads[name] = heads[name].movedim(-1, 1)
    return MaskHeads(**heads)


def test_losses_of_the_authors_heads() -> None:
    """Crowds that are neither void nor of a mask are among the targets."""
    terms = weighted_terms(loss(), loss()(authors_heads(), targets(), MATCHING))
    for ours, theirs in TERMS.items():
        assert_close(terms[ours].numpy(), arrays(NAME)[f"train_loss/{theirs}"], ours, 1e-6)


def test_matching_of_the_authors_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours costs no more, and theirs no more than their rounding to float32 beside 999."""
    seen: list[tuple[Tensor, Tensor]] = []

    def watched(cost: Tensor, valid: Tensor) -> Tensor:
        seen.append((cost, match_masks(cost, valid)))
        return seen[0][1]

    monkeypatch.setattr(max_deeplab_loss, "match_masks", watched)
    loss()(authors_heads(), targets())
    ((cost, ours),) = seen
    gap = (total_cost(cost, MATCHING) - total_cost(cost, ours)).numpy()
    assert (gap >= -1e-7).all()
    assert (gap <= ours.shape[1] * np.spacing(np.float32(999))).all()


def total_cost(cost: Tensor, slots: Tensor) -> Tensor:
    return cost.gather(2, slots[..., None]).sum((1, 2))


def test_outputs_and_losses_in_training(net: nn.Module) -> None:
    heads = net.double().train()(golden_image().double())
    check_heads(heads, "train_forward", ROUNDING)
    terms = weighted_terms(loss(), loss()(in_float32(heads), targets(), MATCHING))
    for ours, theirs in TERMS.items():
        expected = arrays(NAME)[f"train_loss/{theirs}"]
        assert_close(terms[ours].detach().numpy(), expected, ours, ROUNDING)


def test_one_training_step(net: nn.Module, manifest: dict) -> None:
    # One value of the memory is 6e-5 below 0 before its ReLU; the original's rounding is above.
    last = net.transformers["extra"]["stage1"]["0"].feed_forward
    nudge = torch.zeros(2, 24, 12)
    nudge[0, 18, 4] = 1.2e-4
    last.register_forward_hook(lambda _module, _inputs, output: output + nudge)
    optimizer = Adam(net.parameters(), lr=1e-3)
    loss()(net.train()(golden_image()), targets(), MATCHING).total.mean().backward()
    check_gradients(net, manifest, GRADIENT_ROUNDING)
    optimizer.step()
    axial = ("_stage4/_block2", "_stage5/_block1", "_stage5/_block2", "_stage5_extra/_block1")
    recomputed = tuple(f"encoder/{block}/" for block in axial)
    check_statistics(net, manifest, recomputed, 1e-5)
    check_weights(net, manifest, 1e-3)


def test_all_is_trained() -> None:
    """The backbone's stacked decoder too, which other models leave frozen."""
    net = published_on_meta("max_deeplab_l_os16_coco")
    assert all(p.requires_grad for p in net.parameters())
    assert set(net.transformers["extra"]) == {"stage1", "stage5"}  # those at stride 16


@pytest.mark.parametrize("schedule", ["linear", "constant"])
@pytest.mark.parametrize("size", ["s", "l"])
def test_drop_path(size: str, schedule: str) -> None:
    """Which branches are dropped, and how often: by the stride in front of the block."""
    overrides = (f"model=max_deeplab_{size}", f"model.backbone.drop_path_schedule={schedule}")
    net = build_on_meta(model_config(overrides), 134)
    linear = {2: 1.0, 4: 0.95, 8: 0.9, 16: 0.85, 32: 0.8}
    first = {"s": 16, "l": 4}[size]  # smaller strides keep all
    keep = {
        stride: 1.0 if stride < first else 0.8 if schedule == "constant" else share
        for stride, share in linear.items()
    }
    expected: dict[str, float] = {}
    for stage, blocks in net.backbone.stages.items():
        number = int(stage.removeprefix("stage"))
        for block in range(len(blocks)):
            strided = block == 0 and number > 1
            expected[f"backbone.stages.{stage}.{block}"] = keep[2 ** (number - strided)]
    decoders = {"extra_stages": net.extra_stages, "backbone.stacked_decoder": None}
    decoders["backbone.stacked_decoder"] = net.backbone.stacked_decoder
    for name, decoder in decoders.items():
        for index, stride in enumerate([] if decoder is None else decoder.strides):
            for block in range(len(decoder.stages[index].blocks)):
                at = 32 if stride == 16 else stride  # blocks of the last stage, as it would be
                expected[f"{name}.stages.{index}.blocks.{block}"] = keep[at]
    found = {
        name.removesuffix(".drop_path"): module.keep_probability
        for name, module in net.named_modules()
        if isinstance(module, DropPath) and not name.startswith("transformers")
    }
    assert found == pytest.approx(expected)

    # A transformer's three branches are dropped as often as the block's in front of it.
    parts = {
        "backbone": "backbone.stages.{}",
        "decoder": "backbone.stacked_decoder.stages.{}.blocks",
        "extra": "extra_stages.stages.{}.blocks",
    }
    for part, place in parts.items():
        for stage, transformers in net.transformers[part].items():
            where = stage if part == "backbone" else int(stage.removeprefix("stage")) - 1
            for block, transformer in transformers.items():
                paths = [m for m in transformer.modules() if isinstance(m, DropPath)]
                assert len(paths) == 3
                same = expected[f"{place.format(where)}.{block}"]
                assert [m.keep_probability for m in paths] == pytest.approx([same] * 3)


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
