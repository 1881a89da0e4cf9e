"""MaX-DeepLab's post-processing against the authors' maps."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from golden_data import arrays, assert_close, facts, nchw, our_panoptic
from torch import Tensor

from axialseg.panoptic.categories import Categories, Category
from axialseg.panoptic.cityscapes_classes import CITYSCAPES
from axialseg.panoptic.coco_classes import COCO
from axialseg.postprocess import max_deeplab
from axialseg.postprocess.max_deeplab import MaskWisePostProcess, PixelWisePostProcess

CASES = [
    "pixelwise", "no_area_limit", "semantic_variant", "no_detections", "pixel_threshold_099",
    "batch2", "ties", "maskwise", "cityscapes",
]  # fmt: skip
FREE = {"class_threshold": 0.0, "pixel_threshold": 0.0}


class Heads(NamedTuple):
    mask_logits: Tensor
    class_logits: Tensor


def heads(case: str) -> Heads:
    data = arrays("post_processing")
    classes = torch.from_numpy(data[f"mx/{case}|in|class_logits"])
    return Heads(nchw(data[f"mx/{case}|in|mask_logits"]), classes)


def post_process(case: str) -> Any:
    args = facts("post_processing")[f"mx/{case}"]["args"]
    categories: Categories = CITYSCAPES if case == "cityscapes" else COCO
    assert list(categories.thing_ids) == args["thing_class_ids"]
    common = {name: args[name] for name in ("thing_area_limit", "stuff_area_limit")}
    pixel_threshold = args["pixel_confidence_threshold"]
    config = args["maskwise_postprocessing_config"]
    if config is None:
        threshold = args["transformer_class_confidence_threshold"]
        return PixelWisePostProcess(categories, threshold, pixel_threshold, **common)
    return MaskWisePostProcess(
        categories,
        config["transformer_class_confidence_threshold_thing"],
        config["transformer_class_confidence_threshold_stuff"],
        pixel_threshold,
        config["overlapping_threshold"],
        config["reorder_class_weight"],
        config["reorder_mask_weight"],
        **common,
    )


KMAX_CASES = [
    "coco", "coco_config_area_limits", "coco_no_detections",
    "coco_thing_between_thresholds", "coco_ties", "coco_empty_masks",
    "cityscapes", "cityscapes_config_area_limits",
]  # fmt: skip


@pytest.mark.parametrize("case", KMAX_CASES)
def test_maps_of_kmax_are_the_authors(case: str) -> None:
    data, args = arrays("kmax_post_processing"), facts("kmax_post_processing")[case]["args"]
    process = MaskWisePostProcess(
        CITYSCAPES if case.startswith("cityscapes") else COCO,
        args["transformer_class_confidence_threshold_thing"],
        args["transformer_class_confidence_threshold_stuff"],
        args["pixel_confidence_threshold"],
        args["overlapping_threshold"],
        args["reorder_class_weight"],
        args["reorder_mask_weight"],
        args["thing_area_limit"],
        args["stuff_area_limit"],
    )
    classes = torch.from_numpy(data[f"{case}|in|class_logits"])
    outputs = Heads(nchw(data[f"{case}|in|mask_logits"]), classes)
    (result,) = process(outputs, tuple(args["image_shape"]))
    golden = {
        "panoptic": result.panoptic,
        "mask_id_plus_one": result.instance,
        "semantic_pred": result.semantic,
    }
    for key, actual in golden.items():
        theirs = data[f"{case}|out|{key}"][0]
        if key == "panoptic":
            theirs = our_panoptic(theirs, args["label_divisor"])
        np.testing.assert_array_equal(actual.numpy(), theirs, key)
    for name in ("instance_score", "semantic_score"):
        expected = data[f"{case}|out|{name}"][0]
        assert_close(getattr(result, name).numpy(), expected, name, 1e-5)


@pytest.mark.parametrize("at_a_time", [1 << 24, 16 * 81 * 7, 1])
@pytest.mark.parametrize("case", CASES)
def test_maps_are_the_authors(case: str, at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        max_deeplab, "_LOGITS_ON_CPU", at_a_time
    )  # one tile, of 23 x 23, of 1 pixel
    data = arrays("post_processing")
    results = post_process(case)(heads(case), (65, 81))
    expected = {
        key: data[f"mx/{case}|out|{key}"]
        for key in ("panoptic", "mask_id_plus_one", "semantic", "instance_score", "semantic_score")
    }
    divisor = facts("post_processing")[f"mx/{case}"]["args"]["label_divisor"]
    expected["panoptic"] = our_panoptic(expected["panoptic"], divisor)
    assert len(results) == len(expected["panoptic"])
    for index, result in enumerate(results):
        np.testing.assert_array_equal(result.panoptic.numpy(), expected["panoptic"][index])
        if case == "no_detections":
            continue  # the original leaves its other maps empty
        np.testing.assert_array_equal(result.instance.numpy(), expected["mask_id_plus_one"][index])
        for name in ("instance_score", "semantic_score"):
            assert_close(getattr(result, name).numpy(), expected[name][index], name, 1e-5)
        if case == "semantic_variant":
            np.testing.assert_array_equal(result.semantic.numpy(), expected["semantic"][index])


def test_semantic_map_is_not_filtered() -> None:
    expected = arrays("post_processing")["mx/semantic_variant|out|semantic"][0]
    data = arrays("post_processing")
    for part in ("mask_logits", "class_logits"):  # the goldens share their input
        first, second = (data[f"mx/{case}|in|{part}"] for case in ("pixelwise", "semantic_variant"))
        np.testing.assert_array_equal(first, second)
    result = post_process("pixelwise")(heads("pixelwise"), (65, 81))[0]
    np.testing.assert_array_equal(result.semantic.numpy(), expected)


def test_any_size() -> None:
    outputs = Heads(torch.randn(2, 5, 1, 3), torch.randn(2, 5, 134))
    for size in ((1, 1), (2, 9), (5, 1)):
        for result in PixelWisePostProcess(COCO, **FREE)(outputs, size):
            assert result.panoptic.shape == size
        for result in MaskWisePostProcess(COCO)(outputs, size):
            assert result.panoptic.shape == size


@pytest.mark.parametrize("process", [PixelWisePostProcess(COCO, **FREE), MaskWisePostProcess(COCO)])
def test_batch_equals_single_images(process: Any) -> None:
    torch.manual_seed(0)
    batch = Heads(torch.randn(3, 7, 9, 13) * 4, torch.randn(3, 7, 134) * 4)
    together = process(batch, (33, 49))
    assert len(together) == 3
    for index, joint in enumerate(together):
        single = Heads(*(part[index : index + 1] for part in batch))
        (alone,) = process(single, (33, 49))
        assert all(torch.equal(a, b) for a, b in zip(alone[:5], joint[:5], strict=True))
        torch.testing.assert_close(alone.removed, joint.removed, rtol=0, atol=0)


def test_removed_segments_are_counted_by_class() -> None:
    ids = {"cat": 2, "dog": 5, "sky": 1, "path": 4}
    classes = Categories(
        tuple(
            Category(number, name, number in (2, 5), number, (0, 0, 0))
            for name, number in sorted(ids.items(), key=lambda item: item[1])
        ),
        0,
    )
    masks = torch.full((5, 1, 8), -20.0)
    masks[0, 0, :3] = masks[1, 0, 3] = masks[2, 0, 4] = masks[3, 0, 5:] = 20.0
    # cat, dog, sky, path, and a cat that is not sure of itself; things come first.
    logits = torch.full((5, 5), -20.0)
    logits[0, 0] = logits[1, 1] = logits[2, 2] = logits[3, 3] = 20.0
    logits[4, :] = torch.tensor([0.5, -20.0, 0.0, -20.0, 0.4])
    limits = {"thing_area_limit": 2, "stuff_area_limit": 2}
    (pixel,) = PixelWisePostProcess(classes, **limits)(Heads(masks[None], logits[None]), (1, 8))
    expected = {"thing_area_limit": {5: 1}, "stuff_area_limit": {1: 1}}
    assert by_class(pixel.removed) == {**expected, "class_threshold": {2: 1}}
    (mask,) = MaskWisePostProcess(classes, **limits)(Heads(masks[None], logits[None]), (1, 8))
    assert by_class(mask.removed) == {**expected, "thing_threshold": {2: 1}, "stuff_threshold": {}}


def by_class(removed: dict[str, Tensor]) -> dict[str, dict[int, int]]:
    return {
        name: {class_id: int(counts[class_id]) for class_id in counts.nonzero().flatten().tolist()}
        for name, counts in removed.items()
    }


@pytest.mark.parametrize("points", [(1, 1), (1, 9), (12, 7), (33, 33)])
@pytest.mark.parametrize("scale", [0.0, 1.0, 50.0])
def test_slots_that_are_left_out_are_nowhere_the_best(
    points: tuple[int, int], scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(max_deeplab, "_LOGITS_ON_CPU", 4_000)
    torch.manual_seed(points[1])
    logits = scale * torch.randn(1, 40, *points)
    logits[:, 20:25] = logits[:, :5]  # equally good ones
    size = (4 * points[0] - 3, 4 * points[1] - 2)
    confidence = torch.randn(40, len(COCO) + 1) + 9 * torch.eye(40, len(COCO) + 1)
    confidence[::3] = 0.0
    upsampling = max_deeplab.Upsampling(logits[0], size)
    best = torch.empty(size, dtype=torch.long)
    for tile in upsampling.tiles(40):
        everywhere = upsampling.tile(tile).argmax(-1)
        best[max_deeplab.pixels_of(tile)] = everywhere
        assert upsampling.may_be_best(tile)[everywhere.unique()].all()
    (result,) = PixelWisePostProcess(COCO)(Heads(logits, confidence[None]), size)
    classes = torch.tensor([*COCO.thing_ids, *COCO.stuff_ids])[confidence[:, :-1].argmax(1)]
    assert torch.equal(result.semantic.long(), classes[best])
