"""kMaX-DeepLab's loss against the authors' numbers, with their samples of pixels."""

import numpy as np
import pytest
import torch
from golden_data import arrays, assert_close, facts, nchw, nhwc, unit
from torch import Tensor

from axialseg.decoders.max_deeplab import KMaxHeads, SlotHeads
from axialseg.losses import kmax_deeplab_loss
from axialseg.losses.kmax_deeplab_loss import KMaxDeepLabLoss, gumbel_noise, sample_logits
from axialseg.losses.mask_targets import mask_rows
from axialseg.losses.max_deeplab_loss import MaxDeepLabLoss

FILE = "kmax_losses"
TERMS = {
    "pq_mask": "pq_style_loss_mask_dice_term",
    "pq_class": "pq_style_loss_class_term",
    "mask_id": "mask_id_cross_entropy_loss",
    "instance_discrimination": "instance_discrimination_loss",
}
HEADS = {
    "mask_logits": "pixel_space_mask_logits",
    "class_logits": "transformer_class_logits",
    "pixel_embedding": "pixel_space_normalized_feature",
}
CASES = [
    "kmax_more_slots_than_masks", "kmax_fewer_slots_than_masks", "kmax_crowd", "kmax_all_void",
    "kmax_mostly_void", "kmax_original_discrimination", "kmax_cityscapes_like",
    "kmax_coco_clear_matching",
]  # fmt: skip


class OriginalDiscrimination(KMaxDeepLabLoss):
    """Things against the means of all masks, as MaX-DeepLab has it."""

    discrimination = MaxDeepLabLoss.discrimination


def loss_of(case: str) -> KMaxDeepLabLoss:
    args = facts(FILE)[case]
    kind = KMaxDeepLabLoss if args["instance_discrimination_sample_k"] else OriginalDiscrimination
    return kind(
        args["ignore_label"],
        args["thing_class_ids"],
        args["stuff_class_ids"],
        3.0,
        0.3,
        1.0,
        1.0,
        0.75,
        0.3,
        args["instance_discrimination_sample_k"],
        args["instance_discrimination_sample_temperature"],
        args["semantic_top_k_percent"],
    )


def head(case: str, kind: str, name: str) -> Tensor:
    value = arrays(FILE)[f"{case}|{kind}|{name}"]
    is_class = name.endswith("class_logits")
    return (torch.tensor(value) if is_class else nchw(value)).requires_grad_()


def outputs(case: str) -> KMaxHeads:
    count = facts(FILE)[case]["auxiliary_output_number"]
    main = {ours: head(case, "pred", theirs) for ours, theirs in HEADS.items()}
    auxiliary = [
        SlotHeads(*(head(case, "pred", f"aux{i}|{theirs}") for theirs in HEADS.values()))
        for i in range(count)
    ]
    semantic = head(case, "pred", "semantic_logits")
    return KMaxHeads(**main, semantic=semantic, auxiliary=tuple(auxiliary))


def targets(case: str) -> dict[str, Tensor]:
    names = {
        "semantic": "semantic_gt",
        "semantic_pixel_weights": "semantic_loss_weight",
        "thing_id_mask": "thing_id_mask_gt",
        "thing_id_class": "thing_id_class_gt",
    }
    data = arrays(FILE)
    return {ours: torch.tensor(data[f"{case}|true|{name}"]) for ours, name in names.items()}


def golden_matching(case: str, loss: KMaxDeepLabLoss) -> Tensor:
    """The stored slot of each mask, in our order of masks."""
    size = tuple(outputs(case).mask_logits.shape[-2:])
    truth = targets(case)
    args = facts(FILE)[case]
    rows = mask_rows(truth, size, loss.thing_ids, loss.stuff_ids, loss.ignore_class)
    matching = torch.tensor(arrays(FILE)[f"{case}|matching"]).long()
    slot_of_row = torch.where(matching.sum(-1) > 0, matching.argmax(-1), -1)
    present = torch.zeros_like(slot_of_row, dtype=torch.bool)
    step = (truth["semantic"].shape[-1] - 1) // max(size[1] - 1, 1)
    for b in range(len(present)):
        things = truth["thing_id_mask"][b, ::step, ::step].long()
        classes = truth["thing_id_class"][b]
        for number in things[things >= 0].unique().tolist():
            present[b, number] = bool(classes[number] >= 0)
        stuff = truth["semantic"][b, ::step, ::step][things < 0]
        for index, class_id in enumerate(loss.stuff_ids):
            present[b, args["max_thing_id"] + index] = bool((stuff == class_id).any())
    slots = torch.full(rows.valid.shape, -1)
    for b in range(len(present)):
        mine = slot_of_row[b][present[b]]
        assert len(mine) == int(rows.valid[b].sum())
        slots[b, : len(mine)] = mine
    return slots


@pytest.fixture
def given_noise(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lets the loss draw the numbers of a case, which is put into the list."""
    case: list[str] = []
    drawn: list[int] = []

    def numbers(like: Tensor) -> Tensor:
        drawn.append(len(drawn))
        return torch.tensor(arrays(FILE)[f"{case[0]}|sample_uniform|{drawn[-1]}"])

    monkeypatch.setattr(kmax_deeplab_loss, "uniform", numbers)
    return case


@pytest.mark.parametrize("case", CASES)
def test_terms_and_gradients(case: str, given_noise: list[str]) -> None:
    given_noise.append(case)
    data = arrays(FILE)
    loss, heads, truth = loss_of(case), outputs(case), targets(case)
    matched = loss.matched(heads, truth, golden_matching(case, loss))
    terms = loss.main_terms(heads, truth, matched)
    each = {"": loss.summed(terms, heads.mask_logits.shape[1])}
    for i, auxiliary in enumerate(heads.auxiliary):
        more = loss.auxiliary_terms(auxiliary, matched)
        each[f"aux_{i}"] = loss.summed(more, heads.mask_logits.shape[1])
    for prefix, losses in each.items():
        for ours, theirs in TERMS.items():
            expected = data[f"{case}|loss|{prefix}{theirs}"] / loss.weights[ours]
            actual = losses.terms[ours].detach().numpy()
            assert_close(actual, expected, f"{prefix} {ours}", 1e-5, floor=1e-8)
    actual = terms["semantic"].detach().numpy()
    assert_close(actual, data[f"{case}|loss|semantic_loss"], "semantic", 1e-5, floor=1e-8)
    total = torch.stack([losses.total for losses in each.values()]).sum(0)
    if not case.endswith("clear_matching"):  # of its auxiliary outputs one is stored
        assert_close(total.detach().numpy(), data[f"{case}|loss|total_loss"], "total", 1e-5)
    total.mean().backward()
    for prefix, part in (("", heads), ("aux0|", heads.auxiliary[0])):
        for ours, theirs in HEADS.items():
            gradient = getattr(part, ours).grad
            actual = gradient.numpy() if ours == "class_logits" else nhwc(gradient)
            expected = data[f"{case}|grad|{prefix}{theirs}"]
            assert_close(actual, expected, f"gradient of {prefix}{ours}", floor=1e-9)
    assert_close(nhwc(heads.semantic.grad), data[f"{case}|grad|semantic_logits"], "semantic")


def test_forward_sums_the_auxiliary_terms(given_noise: list[str]) -> None:
    case = "kmax_more_slots_than_masks"
    given_noise.append(case)
    losses = loss_of(case)(outputs(case), targets(case))
    expected = arrays(FILE)[f"{case}|loss|total_loss"]
    assert_close(losses.total.detach().numpy(), expected, "total", 1e-5)
    for ours, theirs in TERMS.items():
        summed = sum(arrays(FILE)[f"{case}|loss|aux_{i}{theirs}"] for i in range(2))
        actual = losses.terms[f"aux_{ours}"].detach().numpy() * loss_of(case).weights[ours]
        assert_close(actual, summed, ours, 1e-5)


@pytest.mark.parametrize("case", [c for c in CASES if c != "kmax_original_discrimination"])
def test_samples_are_the_authors(case: str) -> None:
    data, loss = arrays(FILE), loss_of(case)
    size = tuple(outputs(case).mask_logits.shape[-2:])
    rows = mask_rows(targets(case), size, loss.thing_ids, loss.stuff_ids, loss.ignore_class)
    logits = sample_logits(rows, loss.sample_temperature)
    np.testing.assert_allclose(logits.numpy(), data[f"{case}|sample_logits"], rtol=1e-6, atol=1e-6)
    for number in range(facts(FILE)[case]["auxiliary_output_number"] + 1):
        numbers = unit(f"noise/kmax_losses/{case}/{number}", tuple(logits.shape))
        numbers = np.maximum(numbers, np.float32(2.0**-25))
        np.testing.assert_array_equal(numbers, data[f"{case}|sample_uniform|{number}"])
        noisy = logits + gumbel_noise(torch.tensor(numbers))
        ours = noisy.argsort(dim=1, descending=True, stable=True)[:, : loss.sampled_pixels]
        theirs = data[f"{case}|sample_indices|{number}"]
        np.testing.assert_array_equal(np.sort(ours.numpy()), np.sort(theirs))
