"""Class weights in the losses of both families."""

from typing import Any

import pytest
import torch
from torch import Tensor

from axialseg.decoders.max_deeplab import MaskHeads
from axialseg.decoders.panoptic_deeplab import PanopticHeads
from axialseg.losses.class_weights import weight_table
from axialseg.losses.max_deeplab_loss import MaxDeepLabLoss
from axialseg.losses.panoptic_deeplab_loss import PanopticDeepLabLoss

THINGS, STUFF, VOID = (2, 4), (1, 3), 0


def semantic() -> Tensor:
    return torch.arange(5).repeat_interleave(5).view(1, 5, 5)  # a row of each class, void first


def panoptic_terms(weights: list[float] | None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    heads = PanopticHeads(
        torch.randn(1, 5, 5, 5, generator=generator), torch.zeros(1, 1, 5, 5),
        torch.zeros(1, 2, 5, 5),
    )  # fmt: skip
    targets = {
        name: torch.ones(1, 5, 5) for name in ("semantic_pixel_weights", "center_pixel_weights")
    }
    targets |= {"center": torch.zeros(1, 5, 5), "offset": torch.zeros(1, 2, 5, 5)}
    targets |= {"semantic": semantic(), "offset_pixel_weights": torch.ones(1, 5, 5)}
    loss = PanopticDeepLabLoss(VOID, 1.0, 1.0, 200.0, 0.01, THINGS, STUFF, weights)
    return loss(heads, targets).terms


def mask_terms(weights: list[float] | None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    heads = MaskHeads(
        torch.randn(1, 6, 5, 5, generator=generator),
        torch.randn(1, 6, 5, generator=generator),
        torch.randn(1, 8, 5, 5, generator=generator),
        torch.randn(1, 5, 5, 5, generator=generator),
    )
    things = torch.full((1, 5, 5), -1)
    things[:, 2], things[:, 4] = 0, 1
    targets = {"semantic": semantic(), "semantic_pixel_weights": torch.ones(1, 5, 5)}
    targets |= {"thing_id_mask": things, "thing_id_class": torch.tensor([[2, 4, -1, -1, -1, -1]])}
    loss = MaxDeepLabLoss(VOID, THINGS, STUFF, 3.0, 0.3, 1.0, 1.0, 0.75, 0.3, 1.0, weights)
    return loss(heads, targets).terms


def test_table_is_in_order_of_class_ids() -> None:
    table = weight_table([1.0, 2.0, 3.0, 4.0], (*THINGS, *STUFF), 7)
    assert table is not None
    assert table.tolist() == [1, 1, 2, 3, 4, 1, 1, 1]
    assert weight_table(None, THINGS, VOID) is None
    with pytest.raises(ValueError, match="4 class weights"):
        weight_table([1.0], (*THINGS, *STUFF), VOID)


@pytest.mark.parametrize("terms", [panoptic_terms, mask_terms])
def test_ones_change_nothing(terms: Any) -> None:
    for name, value in terms([1.0] * 4).items():
        assert torch.equal(value, terms(None)[name]), name


@pytest.mark.parametrize(
    ("terms", "weighted"),
    [(panoptic_terms, {"semantic"}), (mask_terms, {"semantic", "pq_class"})],
)
def test_each_class_counts_by_its_weight(terms: Any, weighted: set[str]) -> None:
    plain, double = terms(None), terms([2.0] * 4)
    for name in plain:
        if name == "pq_class":  # "no object" keeps its weight
            assert plain[name] < double[name] < 2 * plain[name]
        else:
            assert torch.allclose(double[name], plain[name] * (1 + (name in weighted)))
    single = [terms([float(n == k) for n in range(4)])["semantic"] for k in range(4)]
    # Each alone is the mean over its own row, and rows are equally long.
    assert torch.allclose(sum(single) / 4, plain["semantic"])
