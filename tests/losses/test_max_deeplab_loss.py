"""MaX-DeepLab's loss and its matching against the authors' numbers."""

from itertools import permutations

import numpy as np
import pytest
import torch
from golden_data import arrays, assert_close, facts, nchw, nhwc
from shipped_losses import MAX_DEEPLAB, weighted_terms
from torch import Tensor

from axialseg.decoders.max_deeplab import MaskHeads
from axialseg.losses.mask_targets import subsample
from axialseg.losses.matching import match_masks
from axialseg.losses.max_deeplab_loss import MaxDeepLabLoss

TERMS = {
    "pq_mask": "pq_style_loss_mask_dice_term",
    "pq_class": "pq_style_loss_class_term",
    "mask_id": "mask_id_cross_entropy_loss",
    "instance_discrimination": "instance_discrimination_loss",
    "semantic": "semantic_loss",
}
HEADS = {
    "mask_logits": "pixel_space_mask_logits",
    "class_logits": "transformer_class_logits",
    "pixel_embedding": "pixel_space_normalized_feature",
    "semantic": "semantic_logits",
}
CASES = [
    "max_more_slots_than_masks", "max_fewer_slots_than_masks", "max_cityscapes_like",
    "max_all_void", "max_coco_full_size_vocabulary", "max_coco_clear_matching",
]  # fmt: skip


def loss_of(case: str) -> MaxDeepLabLoss:
    args = facts("losses")[case]
    ids = (args[name] for name in ("ignore_label", "thing_class_ids", "stuff_class_ids"))
    return MaxDeepLabLoss(*ids, **MAX_DEEPLAB)


def outputs(case: str) -> MaskHeads:
    data = arrays("losses")
    heads = {}
    for ours, theirs in HEADS.items():
        value = data[f"{case}|pred|{theirs}"]
        heads[ours] = torch.tensor(value) if ours == "class_logits" else nchw(value)
    return MaskHeads(**{name: head.requires_grad_() for name, head in heads.items()})


def targets(case: str) -> dict[str, Tensor]:
    names = {
        "semantic": "semantic_gt",
        "semantic_pixel_weights": "semantic_loss_weight",
        "thing_id_mask": "thing_id_mask_gt",
        "thing_id_class": "thing_id_class_gt",
    }
    data = arrays("losses")
    return {ours: torch.tensor(data[f"{case}|true|{name}"]) for ours, name in names.items()}


def golden_matching(case: str) -> Tensor:
    """The stored matching, of the masks that occur."""
    data = arrays("losses")
    matching = torch.tensor(data[f"{case}|matching"]).long()
    # Rows without a mask have one constant cost.
    present = torch.tensor(np.abs(data[f"{case}|hungarian_weights"]).min(-1) < 900)
    assert len(present) == 1
    slots = torch.where(matching.sum(-1) > 0, matching.argmax(-1), -1)
    return slots[present][None]


@pytest.mark.parametrize("case", CASES)
def test_terms_and_gradients(case: str) -> None:
    data = arrays("losses")
    loss, heads = loss_of(case), outputs(case)
    # Of near-ties in float32 the original took one that is not the best.
    matching = golden_matching(case) if case == "max_coco_full_size_vocabulary" else None
    losses = loss(heads, targets(case), matching)
    terms = weighted_terms(loss, losses)
    for ours, theirs in TERMS.items():
        expected = data[f"{case}|loss|{theirs}"]
        assert_close(terms[ours].detach().numpy(), expected, ours, 1e-5, floor=1e-8)
    total = losses.total
    assert_close(total.detach().numpy(), data[f"{case}|loss|total_loss"], "total", 1e-5)
    total.mean().backward()
    for ours, theirs in HEADS.items():
        gradient = getattr(heads, ours).grad
        actual = gradient.numpy() if ours == "class_logits" else nhwc(gradient)
        assert_close(actual, data[f"{case}|grad|{theirs}"], ours, floor=1e-9)


def test_best_matching_is_no_worse_than_the_stored_one() -> None:
    case = "max_coco_full_size_vocabulary"
    cost = torch.tensor(arrays("losses")[f"{case}|hungarian_weights"])
    present = cost.abs().amin(-1) < 900
    rows = cost[present][None]
    ours = match_masks(rows, torch.ones(rows.shape[:2], dtype=torch.bool))
    theirs = golden_matching(case)
    totals = [rows.gather(2, slots[..., None]).sum() for slots in (ours, theirs)]
    assert totals[0] <= totals[1] + 1e-7
    assert len(set(ours[0].tolist())) == len(ours[0])


@pytest.mark.parametrize("number", range(5))
def test_matchings_cost_what_the_authors_do(number: int) -> None:
    data = arrays("losses")
    cost = torch.tensor(data[f"hungarian/{number}|weights"])
    slots = match_masks(cost, torch.ones(cost.shape[:2], dtype=torch.bool))
    matched = cost.gather(2, slots.clamp(min=0)[..., None]).squeeze(2) * (slots >= 0)
    expected = (data[f"hungarian/{number}|matching"] * data[f"hungarian/{number}|weights"]).sum(
        (1, 2)
    )
    np.testing.assert_allclose(matched.sum(1).numpy(), expected, rtol=1e-6)


def test_matching_tries_all() -> None:
    cost = torch.rand(1, 3, 4)
    best = min(
        float(sum(cost[0, row, slot] for row, slot in enumerate(order)))
        for order in permutations(range(4), 3)
    )
    slots = match_masks(cost, torch.tensor([[True, True, True]]))
    assert float(cost.gather(2, slots[..., None]).sum()) == pytest.approx(best)
    slots = match_masks(cost, torch.tensor([[False, True, False]]))
    assert slots.tolist() == [[-1, int(cost[0, 1].argmin()), -1]]


@pytest.mark.parametrize("head", ["mask_logits", "class_logits"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_give_a_loss_that_says_so(head: str, value: float) -> None:
    case = "max_more_slots_than_masks"
    heads = MaskHeads(*(x.detach().clone() for x in outputs(case)))
    getattr(heads, head)[0, 0] = value
    total = loss_of(case)(heads, targets(case)).total
    assert not torch.isfinite(total[0])
    assert torch.isfinite(total[1])  # the other image is not to blame


def test_loss_is_float32_under_autocast() -> None:
    case = "max_more_slots_than_masks"
    loss, heads, truth = loss_of(case), outputs(case), targets(case)
    with torch.autocast("cpu", torch.bfloat16):
        losses = loss(heads, truth)
    for term in (losses.total, *losses.terms.values()):
        assert term.dtype == torch.float32
    torch.testing.assert_close(losses, loss(heads, truth))


def test_a_weight_changes_the_sum_and_no_term() -> None:
    case = "max_more_slots_than_masks"
    loss, heads, truth = loss_of(case), outputs(case), targets(case)
    losses = loss(heads, truth)
    loss.weights = dict.fromkeys(loss.weights, 0.0) | {"pq_mask": 2.0, "semantic": 5.0}
    other = loss(heads, truth)
    assert all(torch.equal(other.terms[name], term) for name, term in losses.terms.items())
    expected = 2 * losses.terms["pq_mask"] + 5 * losses.terms["semantic"]
    torch.testing.assert_close(other.total, expected)


def test_subsampling_keeps_the_corners() -> None:
    x = torch.arange(2 * 9 * 13).view(2, 9, 13)
    assert torch.equal(subsample(x, (3, 4)), x[:, ::4, ::4])
    assert torch.equal(subsample(x, (9, 13)), x)
    assert torch.equal(subsample(x, (1, 1)), x[:, :1, :1])
    assert subsample(x[:, :8, :12], (2, 3)).shape == (2, 2, 3)


def test_an_image_without_things() -> None:
    case = "max_more_slots_than_masks"
    loss, truth = loss_of(case), targets(case)
    truth["semantic"][truth["thing_id_mask"] >= 0] = loss.stuff_ids[0]
    truth["thing_id_mask"].fill_(-1)
    truth["thing_id_class"].fill_(-1)
    heads = outputs(case)
    total, terms = loss(heads, truth)
    assert all(term.isfinite().all() for term in terms.values())
    assert (terms["instance_discrimination"] == 0).all()
    assert (terms["mask_id"] > 0).all()
    total.sum().backward()
    assert all(head.grad is not None and head.grad.isfinite().all() for head in heads)
    assert not heads.pixel_embedding.grad.any()


def test_a_slot_with_one_class_twice_is_unmatched() -> None:
    """By hand: ten masks, six slots; the slot of the left-over masks gets one class twice.

    The authors call it unmatched, for its largest class count is not 1, and give its whole
    cross-entropy, "no object" included, the unmatched share and the void share as weight.
    """
    classes = [1, 3, 0, 2, 4, 1, 5, 6, 7, 8]
    slots = [-1, 1, -1, 0, -1, -1, 2, 3, 4, 5]  # the fourth mask has slot 0
    rng = np.random.default_rng(19)
    mask_logits = rng.normal(size=(6, 12 * 8)).astype(np.float32)
    class_logits = rng.normal(size=(6, 11)).astype(np.float32)
    thing = np.repeat(np.arange(12) - 1, 8)  # 8 pixels each; the first 8 and the last 8 are void
    thing[thing > 9] = -1
    targets = {
        "semantic": torch.tensor(np.where(thing >= 0, np.array(classes)[thing] + 1, 0)),
        "semantic_pixel_weights": torch.ones(12 * 8),
        "thing_id_mask": torch.tensor(thing),
    }
    targets = {name: value.view(1, 12, 8) for name, value in targets.items()}
    targets["thing_id_class"] = torch.tensor([classes]) + 1
    heads = MaskHeads(
        mask_logits=torch.tensor(mask_logits).view(1, 6, 12, 8),
        class_logits=torch.tensor(class_logits[None]).requires_grad_(),
        pixel_embedding=torch.randn(1, 4, 12, 8),
        semantic=torch.randn(1, 11, 12, 8),
    )
    loss = MaxDeepLabLoss(0, range(1, 10), [10], **MAX_DEEPLAB)
    term = loss(heads, targets, torch.tensor([slots])).terms["pq_class"]
    term.sum().backward()

    probability = np.exp(mask_logits) / np.exp(mask_logits).sum(0)
    void = thing < 0
    expected, gradient = 0.0, np.zeros((6, 11))
    for slot in range(6):
        labels = np.zeros(11)
        for class_index, place in zip(classes, slots, strict=True):
            labels[class_index] += max(place, 0) == slot
        if slot == 0:
            assert labels.tolist() == [1, 2, 1, 0, 1, 0, 0, 0, 0, 0, 0]
            labels[10] = 1  # no object
            share, weight = 0.25, probability[0, void].sum() / (probability[0].sum() + 1e-5)
        else:
            own = thing == slots.index(slot)
            area = (own.sum() + probability[slot, ~void].sum()) / 2 + 1e-5
            share, weight = 0.75, probability[slot, own].sum() / area
        log_sum = np.log(np.exp(class_logits[slot]).sum())
        factor = share * weight / 6
        expected += factor * (labels.sum() * log_sum - labels @ class_logits[slot])
        # TensorFlow's gradient of a cross-entropy takes several classes for one.
        gradient[slot] = factor * (np.exp(class_logits[slot] - log_sum) - labels)
    assert float(term.detach()) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(heads.class_logits.grad[0].numpy(), gradient, atol=1e-6)
