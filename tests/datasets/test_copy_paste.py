"""Panoptic copy-paste against the authors' numbers, on generated and on real images."""

import os
from pathlib import Path

import numpy as np
import pytest
from golden_data import arrays, facts
from numpy.typing import NDArray

from axialseg.datasets.coco import CocoPanoptic
from axialseg.datasets.copy_paste import drawn, labels_in_order, paste, paste_labels
from axialseg.datasets.datamodule import TrainingItems
from axialseg.datasets.generated.shapes import shapes_panoptic
from axialseg.datasets.sample import PanopticDataset
from axialseg.datasets.sampler import SampleKey
from axialseg.datasets.targets import MaxDeepLabTargets
from axialseg.datasets.transforms import TrainingCrop, TrainTransform, scale_candidates
from axialseg.panoptic.cityscapes_classes import CITYSCAPES
from axialseg.panoptic.coco_classes import COCO
from axialseg.panoptic.panoptic_map import PanopticSegments

FILE = "kmax_copy_paste"
# Those with the options of the configurations: all things, some stuff, no void.
CASES = ["coco", "coco_none_kept", "coco_all_kept", "cityscapes", "cityscapes_all_kept"]
REAL = Path(
    os.environ.get("COCO_SAMPLE", Path(__file__).resolve().parents[3] / "shared/coco_sample")
)


def crop_of(image: NDArray, label: NDArray, case: str) -> tuple[TrainingCrop, NDArray[np.int64]]:
    """The crop, and the original's label of each segment."""
    args = facts(FILE)[case]
    void = args["ignore_label"] * args["divisor"]
    is_own = label != args["padding_value"]
    values = np.unique(label[is_own & (label != void)])
    ids = np.where(is_own & (label != void), np.searchsorted(values, label) + 1, 0)
    classes = values // args["divisor"]
    is_thing = categories(case).is_thing_table[classes]
    crowds = is_thing & (values % args["divisor"] == 0)
    segments = PanopticSegments(ids.astype(np.int32), classes.astype(np.int64), crowds)
    return TrainingCrop(image.astype(np.uint8), is_own, segments), values


def categories(case: str):  # noqa: ANN201
    return CITYSCAPES if case.startswith("cityscapes") else COCO


@pytest.mark.parametrize("case", CASES)
def test_result_is_the_authors(case: str) -> None:
    data, args = arrays(FILE), facts(FILE)[case]
    divisor, void = args["divisor"], args["ignore_label"] * args["divisor"]
    base, base_values = crop_of(data[f"{case}|in|image"], data[f"{case}|in|label"], case)
    other, values = crop_of(data[f"{case}|in|pasted_image"], data[f"{case}|in|pasted_label"], case)
    labels = labels_in_order(other, categories(case))
    theirs = np.concatenate(([void], values, [args["padding_value"]]))  # the last one is -1
    unique = data[f"{case}|in|unique_labels_in_order_of_appearance"]
    np.testing.assert_array_equal(theirs[labels], unique)

    chosen = labels[data[f"{case}|in|random_keep_mask"].astype(bool)]
    result = paste_labels(base, other, categories(case), chosen)
    np.testing.assert_array_equal(result.image, data[f"{case}|out|image"].astype(np.uint8))
    instance = values % divisor
    renumbered = values - instance + np.where(instance > 0, divisor - 1 - instance, 0)
    table = np.concatenate(([void], base_values, renumbered))
    np.testing.assert_array_equal(table[result.segments.id_map], data[f"{case}|out|label"])


@pytest.mark.parametrize("name", ["0.3_1.7_0.1", "0.5_2_0.1", "0.15_0.85_0.1", "0.25_1_0.1"])
def test_scales_are_the_authors(name: str) -> None:
    smallest, largest, _ = map(float, name.split("_"))
    expected = arrays(FILE)[f"random_scale_factors|{name}"]
    np.testing.assert_allclose(scale_candidates(smallest, largest), expected, rtol=1e-6)
    if largest <= 1:
        whole = TrainTransform((9, 9), 2 * smallest, 2 * largest)
        np.testing.assert_allclose(whole.at_half_scale().scales, expected, rtol=1e-6)
        np.testing.assert_allclose(whole.scales.max(), 2 * largest)  # is left as it was


def test_every_number_of_labels_is_as_likely() -> None:
    rng = np.random.default_rng(0)
    draws = np.array([drawn(4, rng) for _ in range(4000)])
    np.testing.assert_allclose(np.bincount(draws.sum(1)) / 4000, 0.2, atol=0.03)
    np.testing.assert_allclose(draws.mean(0), 0.5, atol=0.03)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> PanopticDataset:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    return shapes_panoptic(folder, "train", train_images=6, val_images=1)


def real() -> PanopticDataset:
    if not REAL.is_dir():
        pytest.skip("needs real files of COCO")
    panoptic = "annotations/panoptic_val2017"
    return CocoPanoptic(REAL, "val2017", f"{panoptic}.json", panoptic, COCO)


@pytest.mark.parametrize("kind", ["shapes", pytest.param("real", marks=pytest.mark.external_data)])
def test_pasted_crops_hold_valid_ids(kind: str, shapes: PanopticDataset) -> None:
    dataset = shapes if kind == "shapes" else real()
    transform = TrainTransform((97, 129), 0.3, 1.7, resize_range=(97, 129))
    half, pasted_pixels = transform.at_half_scale(), 0
    for number in range(12):
        rng = np.random.default_rng(number)
        base = transform(dataset.read(number % len(dataset)), rng)
        other = half(dataset.read((number + 1) % len(dataset)), rng)
        before = base.image.copy(), base.segments.id_map.copy()
        result = paste(base, other, dataset.categories, rng)
        np.testing.assert_array_equal(base.image, before[0])
        np.testing.assert_array_equal(base.segments.id_map, before[1])
        ids, rows = result.segments.id_map, len(result.segments.class_ids)
        assert ids.dtype == np.int32
        assert ids.min() >= 0
        assert ids.max() <= rows == len(base.segments.class_ids) + len(other.segments.class_ids)
        assert not ids[~result.valid].any()
        is_pasted = ids > len(base.segments.class_ids)
        pasted_pixels += is_pasted.sum()
        np.testing.assert_array_equal(result.image[is_pasted], other.image[is_pasted])
        np.testing.assert_array_equal(result.image[~is_pasted], base.image[~is_pasted])
        np.testing.assert_array_equal(ids[~is_pasted], base.segments.id_map[~is_pasted])
        # Every thing of the pasted crop is whole.
        is_thing = dataset.categories.is_thing_table[other.segments.class_ids]
        things = np.isin(other.segments.id_map, 1 + np.flatnonzero(is_thing))
        np.testing.assert_array_equal(is_pasted & things, things)
        targets = MaxDeepLabTargets(slots=64)(result.segments, dataset.categories)
        classes = [*dataset.categories.thing_ids, *dataset.categories.stuff_ids]
        assert set(np.unique(targets["semantic"])) <= {*classes, dataset.categories.ignore_class}
    assert pasted_pixels > 0


def test_samples_follow_from_seed_and_position(shapes: PanopticDataset) -> None:
    transform = TrainTransform((65, 81), 0.75, 1.25)

    def item(seed: int, position: int, copy_paste: bool = True) -> dict:
        items = TrainingItems(shapes, transform, MaxDeepLabTargets(slots=32), seed, copy_paste)
        return items[SampleKey(position, 2)]

    first = item(0, 5)
    for name, value in item(0, 5).items():
        np.testing.assert_array_equal(value, first[name])
    for other in (item(1, 5), item(0, 6), item(0, 5, copy_paste=False)):
        assert (other["image"] != first["image"]).any()
