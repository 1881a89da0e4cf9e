"""Grouping and merging against the authors' results: integers exact."""

import numpy as np
import pytest
import torch
from golden_data import arrays, facts, nchw, our_panoptic

from axialseg.decoders.panoptic_deeplab import PanopticHeads
from axialseg.panoptic.categories import Categories, Category
from axialseg.panoptic.panoptic_map import CLASS_DIVISOR
from axialseg.postprocess.panoptic_deeplab import (
    PanopticDeepLabPostProcess,
    find_centers,
    group_pixels,
    merge,
)

CASES = [c for c, f in facts("post_processing").items() if f.get("kind") == "panoptic_deeplab"]


def categories(classes: int, things: list[int], ignore_class: int) -> Categories:
    ids = [i for i in range(classes) if i != ignore_class]
    return Categories(
        tuple(Category(i, f"class {i}", i in things, i, (0, 0, 0)) for i in ids), ignore_class
    )


def post_process(case: str, classes: int) -> PanopticDeepLabPostProcess:
    args = facts("post_processing")[case]["args"]
    keep = args["keep_k_centers"]
    return PanopticDeepLabPostProcess(
        categories(classes, args["thing_class_ids"], args["void_label"]),
        args["center_threshold"],
        args["nms_kernel_size"],
        None if keep == -1 else keep,
        args["stuff_area_limit"],
    )


def heads(case: str) -> PanopticHeads:
    data = arrays("post_processing")
    names = ("semantic_logits", "center_heatmap", "center_offsets")
    return PanopticHeads(*(nchw(data[f"{case}|in|{name}"]) for name in names))


@pytest.mark.parametrize("case", CASES)
def test_equals_the_authors(case: str) -> None:
    data = arrays("post_processing")
    out = "out_sorted_topk" if f"{case}|out_sorted_topk|panoptic" in data else "out"
    divisor = facts("post_processing")[case]["args"]["label_divisor"]
    outputs = heads(case)
    size = outputs.center.shape[-2:]
    results = post_process(case, outputs.semantic.shape[1])(outputs, (size[0], size[1]))
    for index, result in enumerate(results):
        for name in ("panoptic", "semantic", "instance"):
            expected = data[f"{case}|{out}|{name}"][index]
            if name == "panoptic":
                expected = our_panoptic(expected, divisor)
            np.testing.assert_array_equal(getattr(result, name).numpy(), expected, name)
        expected = data[f"{case}|{out}|instance_scores"][index]
        np.testing.assert_array_equal(result.instance_score.numpy(), expected)
    if out == "out":
        first = post_process(case, 0 or outputs.semantic.shape[1])
        centers = find_centers(
            outputs.center[0, 0], first.center_threshold, first.nms_kernel, first.keep_centers
        )
        np.testing.assert_array_equal(centers.numpy(), data[f"{case}|out|centers0"])


def test_batch_equals_single_images() -> None:
    cases = ["pd/basic", "pd/ties"]
    singles = [heads(case) for case in cases]
    batch = PanopticHeads(*(torch.cat(parts) for parts in zip(*singles, strict=True)))
    process = post_process("pd/basic", 19)
    together = process(batch, (33, 45))
    for single, result in zip(singles, together, strict=True):
        (alone,) = process(single, (33, 45))
        assert all(torch.equal(a, b) for a, b in zip(alone[:5], result[:5], strict=True))
        torch.testing.assert_close(alone.removed, result.removed, rtol=0, atol=0)


def test_removed_segments_are_counted_by_class() -> None:
    process = PanopticDeepLabPostProcess(
        categories(5, [3, 4], 0), center_threshold=0.5, nms_kernel=1, keep_centers=2,
        stuff_area_limit=4,
    )  # fmt: skip
    semantic = torch.tensor([[0, 1, 1, 2], [2, 2, 2, 3], [3, 3, 4, 4]])
    center, offset = torch.zeros(3, 4), torch.zeros(2, 3, 4)
    nothing = process.single(semantic, center, offset).removed
    assert {name: counts.tolist() for name, counts in nothing.items()} == {
        "stuff_area_limit": [0, 1, 0, 0, 0],  # not the void of class 0
        "center_threshold": [0, 0, 0, 1, 1],
        "keep_centers": [0, 0, 0, 0, 0],
    }
    center[1, 3], center[2, 1], center[2, 2], center[0, 1] = 0.9, 0.8, 0.7, 0.6
    found = process.single(semantic, center, offset).removed  # the authors keep less than 2 here
    assert found["center_threshold"].sum() == 0
    assert found["keep_centers"].tolist() == [0, 0, 0, 1, 1]


def plain_merge(
    semantic: np.ndarray, instance: np.ndarray, things: list[int], ignore: int, limit: int
) -> np.ndarray:
    """The rule of the original, instance by instance."""
    panoptic = np.full(semantic.shape, ignore * CLASS_DIVISOR)
    seen: dict[int, int] = {}
    is_thing = np.isin(semantic, things)
    flat = instance[is_thing & (instance > 0)]
    for number in dict.fromkeys(flat.tolist()):
        mask = (instance == number) & is_thing
        votes = np.bincount(semantic[mask])
        majority = int(votes.argmax())
        seen[majority] = seen.get(majority, 0) + 1
        panoptic[mask] = majority * CLASS_DIVISOR + seen[majority]
    for stuff in np.unique(semantic[~is_thing]):
        mask = (semantic == stuff) & (instance == 0)
        if mask.sum() >= limit:
            panoptic[mask] = stuff * CLASS_DIVISOR
    return panoptic


@pytest.mark.parametrize("seed", range(5))
def test_grouping_and_merging_equal_the_plain_form(seed: int) -> None:
    rng = np.random.default_rng(seed)
    semantic = rng.integers(0, 6, (6, 8)).repeat(5, 0).repeat(5, 1)
    things = [3, 4, 5]
    is_thing = torch.from_numpy(np.isin(semantic, things))
    centers = torch.from_numpy(rng.integers(0, 30, (int(rng.integers(0, 12)), 2)))
    offset = torch.from_numpy(rng.normal(0, 5, (2, 30, 40)).astype(np.float32))
    instance = group_pixels(centers, offset, is_thing)
    y, x = np.mgrid[:30, :40].astype(np.float32)
    if len(centers):
        target = np.stack([y, x]) + offset.numpy()
        differences = target[None] - centers.numpy()[:, :, None, None].astype(np.float32)
        plain = np.sqrt((differences**2).sum(1)).argmin(0) + 1
        np.testing.assert_array_equal(instance.numpy(), np.where(is_thing.numpy(), plain, 0))
    else:
        assert not instance.any()
    merged = merge(torch.from_numpy(semantic), instance, is_thing, 255, 40)
    expected = plain_merge(semantic, instance.numpy(), things, 255, 40)
    np.testing.assert_array_equal(merged.numpy(), expected)


@pytest.mark.parametrize("count", [1, 5, 300])
@pytest.mark.parametrize("error", [0.0, 3.0, 400.0])
def test_grouping_leaves_no_nearer_centre_out(count: int, error: float) -> None:
    """Bit for bit as all distances at once say, also for what points far away or nowhere."""
    generator = torch.Generator().manual_seed(count)
    size = (71, 130)
    centers = torch.stack(
        [torch.randint(0, side, (count,), generator=generator) // 3 * 3 for side in size], 1
    )
    offset = error * torch.randn(2, *size, generator=generator)
    offset[:, 3, 5:9] = torch.tensor([float("inf"), -float("inf"), float("nan"), 1e30])
    things = torch.rand(size, generator=generator) < 0.7
    things[3] = True
    target = things.nonzero() + offset[:, things].T
    squared = (centers.float() - target[:, None]).square()  # [P, K, 2]
    nearest = (squared[..., 0] + squared[..., 1]).sqrt().argmin(1)
    instance = group_pixels(centers, offset, things)
    assert torch.equal(instance[things], nearest + 1)
    assert not instance[~things].any()
