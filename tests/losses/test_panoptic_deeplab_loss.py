"""Loss terms and gradients against the authors' numbers."""

import pytest
import torch
from golden_data import arrays, assert_close, nchw, nhwc
from shipped_losses import PANOPTIC_DEEPLAB, weighted_terms
from torch import Tensor

from axialseg.decoders.panoptic_deeplab import PanopticHeads
from axialseg.losses.panoptic_deeplab_loss import PanopticDeepLabLoss
from axialseg.losses.top_k import average_top_k

TERMS = {"semantic": "semantic_loss", "center": "center_loss", "offset": "regression_loss"}


@pytest.mark.parametrize("share", ["1", "0.5", "0.2", "0.013"])
def test_average_top_k(share: str) -> None:
    data = arrays("losses")
    losses = torch.from_numpy(data["average_top_k|x"]).flatten(1)
    expected = data[f"average_top_k|y_{share}"]
    assert_close(average_top_k(losses, float(share)).numpy(), expected, share, 1e-6)


def targets(case: str) -> dict[str, Tensor]:
    data = arrays("losses")
    names = {
        "semantic": "semantic_gt",
        "semantic_pixel_weights": "semantic_loss_weight",
        "center": "instance_center_gt",
        "center_pixel_weights": "center_loss_weight",
        "offset_pixel_weights": "regression_loss_weight",
    }
    maps = {ours: torch.from_numpy(data[f"{case}|true|{name}"]) for ours, name in names.items()}
    maps["offset"] = nchw(data[f"{case}|true|instance_regression_gt"])
    return maps


def shipped_loss(**options: float) -> PanopticDeepLabLoss:
    return PanopticDeepLabLoss(ignore_class=255, **{**PANOPTIC_DEEPLAB, **options})


def predictions() -> PanopticHeads:
    data = arrays("losses")
    prefix = "panoptic_cityscapes|pred|"
    return PanopticHeads(
        nchw(data[f"{prefix}semantic_logits"]).requires_grad_(),
        torch.from_numpy(data[f"{prefix}center_heatmap"]).unsqueeze(1).requires_grad_(),
        nchw(data[f"{prefix}offset_map"]).requires_grad_(),
    )


@pytest.mark.parametrize(
    ("case", "share"),
    [("panoptic_cityscapes", 0.2), ("panoptic_cityscapes_topk1", 1.0), ("panoptic_all_void", 0.2)],
)
def test_terms_and_gradients(case: str, share: float) -> None:
    data = arrays("losses")
    truth = targets("panoptic_cityscapes")
    if case == "panoptic_all_void":
        truth["semantic"] = torch.from_numpy(data["panoptic_all_void|true|semantic_gt"])
        truth |= {name: torch.zeros_like(truth[name]) for name in truth if "weight" in name}
    outputs = predictions()
    loss = shipped_loss(semantic_top_k=share)
    losses = loss(outputs, truth)
    terms = weighted_terms(loss, losses)
    for ours, theirs in TERMS.items():
        assert_close(terms[ours].detach().numpy(), data[f"{case}|loss|{theirs}"], ours, 1e-5)
    assert torch.equal(losses.total, torch.stack(list(terms.values())).sum(0))
    losses.total.mean().backward()
    gradients = {
        "semantic_logits": outputs.semantic.grad,
        "center_heatmap": outputs.center.grad,
        "offset_map": outputs.offset.grad,
    }
    for name, gradient in gradients.items():
        assert gradient is not None
        actual = nhwc(gradient)
        actual = actual[..., 0] if name == "center_heatmap" else actual
        assert_close(actual, data[f"{case}|grad|{name}"], name, floor=1e-9)


def test_loss_is_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        losses = shipped_loss()(predictions(), targets("panoptic_cityscapes"))
    expected = shipped_loss()(predictions(), targets("panoptic_cityscapes"))
    for term in (losses.total, *losses.terms.values()):
        assert term.dtype == torch.float32
    torch.testing.assert_close(losses, expected)


def test_a_weight_changes_the_sum_and_no_term() -> None:
    truth = targets("panoptic_cityscapes")
    losses = shipped_loss()(predictions(), truth)
    other = shipped_loss(center_weight=0.0, offset_weight=1.0)(predictions(), truth)
    for name, term in losses.terms.items():
        assert torch.equal(other.terms[name], term)
        assert (term > 0).all()
    torch.testing.assert_close(other.total, losses.terms["semantic"] + losses.terms["offset"])


def test_types_of_the_loader_give_the_same_loss() -> None:
    wide = targets("panoptic_cityscapes")
    wide["offset"] = wide["offset"].round()
    types = {"semantic": torch.uint8, "offset": torch.int16}
    types |= {"center_pixel_weights": torch.bool, "offset_pixel_weights": torch.bool}
    small = wide | {name: wide[name].to(dtype) for name, dtype in types.items()}
    for name, values in small.items():
        assert torch.equal(values.to(wide[name].dtype), wide[name])
    results = []
    for truth in (wide, small):
        outputs = predictions()
        losses = shipped_loss()(outputs, truth)
        losses.total.sum().backward()
        results.append([*losses.terms.values(), *(head.grad for head in outputs[:3])])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
