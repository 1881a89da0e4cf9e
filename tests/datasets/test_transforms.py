"""Resizing, cropping and padding against deeplab2's deterministic pieces."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from axialseg.datasets.color_policy import ColorPolicy
from axialseg.datasets.resampling import resample_ids, resample_image, source_positions
from axialseg.datasets.sample import PanopticSample
from axialseg.datasets.transforms import (
    DrawnColor,
    EvalTransform,
    TrainTransform,
    range_size,
    scale_candidates,
    scaled_size,
)
from axialseg.panoptic.panoptic_map import PanopticSegments

GOLDENS = Path(__file__).parents[1] / "goldens" / "deeplab2"
ARRAYS = np.load(GOLDENS / "targets.npz")
SETTINGS = json.loads((GOLDENS / "targets.json").read_text())


def whole(size: tuple[int, ...], target: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns that resize a whole image."""
    return tuple(source_positions(s, t, 0, t) for s, t in zip(size[:2], target, strict=True))


def sample_of(height: int, width: int, seed: int = 0) -> PanopticSample:
    """A noise image in which every pixel is its own segment."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    id_map = np.arange(1, height * width + 1, dtype=np.int32).reshape(height, width)
    count = height * width
    segments = PanopticSegments(id_map, np.ones(count, np.int64), np.zeros(count, bool))
    return PanopticSample(image, segments, 1, "1.png", "1.png")


@pytest.mark.parametrize("scale", ["0.5", "0.607143", "0.7", "1.2", "1.5", "2"])
def test_scaling_equals_deeplab2(scale: str) -> None:
    image, label = ARRAYS["scale|in|image"], ARRAYS["scale|in|label"][..., 0]
    golden = ARRAYS[f"scale|out|image_{scale}"]
    exact = {str(round(float(s), 6)).removesuffix(".0"): s for s in scale_candidates(0.5, 2.0)}
    size = scaled_size(*image.shape[:2], exact.get(scale, np.float32(scale)))
    assert size == golden.shape[:2]
    rows, columns = whole(image.shape, size)

    np.testing.assert_allclose(resample_image(image, rows, columns), golden, rtol=0, atol=1e-4)
    rounded = resample_image(image.astype(np.uint8), rows, columns)
    assert rounded.dtype == np.uint8
    assert np.abs(rounded - golden).max() <= 0.5 + 1e-4
    ids = resample_ids(label, rows, columns)
    np.testing.assert_array_equal(ids, ARRAYS[f"scale|out|label_{scale}"][..., 0])


@pytest.mark.parametrize(("largest", "key"), [(2.0, "0.5_2_0.1"), (1.5, "0.5_1.5_0.1")])
def test_scale_candidates_equal_deeplab2(largest: float, key: str) -> None:
    golden = ARRAYS[f"random_scale_factors|{key}"]
    candidates = scale_candidates(0.5, largest)
    assert candidates.dtype == np.float32
    np.testing.assert_allclose(candidates, golden, rtol=1.2e-7)
    assert scale_candidates(1.0, 1.0).tolist() == [1.0]


def test_range_size_equals_deeplab2() -> None:
    checked = 0
    for h, w, shorter, longer, factor, new_h, new_w in ARRAYS[
        "resize_to_range|h_w_min_max_factor_newh_neww"
    ].tolist():
        if factor == 0 and shorter:
            assert range_size(h, w, shorter, longer) == (new_h, new_w)
            checked += 1
    assert checked > 20


@pytest.mark.parametrize("case", [n for n in SETTINGS if n.startswith("tg/") and "half" not in n])
def test_eval_transform_equals_deeplab2(case: str) -> None:
    settings = SETTINGS[case]
    resize = settings["kwargs"].get("min_resize_value")
    transform = EvalTransform(
        settings["crop_size"], resize_range=None if resize is None else (resize[0], resize[0])
    )
    prepared, size = transform(ARRAYS[f"{case}|in|image"])
    golden = ARRAYS[f"{case}|out|resized_image"]
    padded = ARRAYS[f"{case}|out|image"]
    assert size == golden.shape[:2]
    assert prepared.image.shape == padded.shape
    assert np.abs(prepared.image[: size[0], : size[1]] - golden).max() <= 0.5 + 1e-4
    assert np.abs(prepared.image - padded).max() <= 0.5 + 1e-4  # 127 for 127.5
    assert prepared.valid[: size[0], : size[1]].all()
    assert prepared.valid.sum() == size[0] * size[1]


@pytest.mark.parametrize(
    ("size", "padded"),
    [((60, 97), (97, 97)), ((98, 97), (129, 97)), ((97, 129), (97, 129)), ((65, 130), (97, 161))],
)
def test_eval_transform_pads_to_the_crop_or_the_stride(
    size: tuple[int, int], padded: tuple[int, int]
) -> None:
    image = np.full((*size, 3), 9, np.uint8)
    prepared, resized = EvalTransform((97, 97), stride=32)(image)
    assert resized == size
    assert prepared.valid.shape == padded
    assert (prepared.image[: size[0], : size[1]] == 9).all()


@pytest.mark.parametrize("target", [(150, 211), (41, 60), (97, 131), (1, 7)])
def test_window_equals_window_of_the_whole(target: tuple[int, int]) -> None:
    sample = sample_of(97, 131)
    rows, columns = whole(sample.image.shape, target)
    image = resample_image(sample.image, rows, columns)
    ids = resample_ids(sample.segments.id_map, rows, columns)
    rng = np.random.default_rng(1)
    for _ in range(20):
        (top, left) = (int(rng.integers(n)) for n in target)
        height = int(rng.integers(1, target[0] - top + 1))
        width = int(rng.integers(1, target[1] - left + 1))
        part = slice(top, top + height), slice(left, left + width)
        y = source_positions(97, target[0], top, height)
        x = source_positions(131, target[1], left, width)
        np.testing.assert_array_equal(resample_image(sample.image, y, x), image[part])
        np.testing.assert_array_equal(resample_ids(sample.segments.id_map, y, x), ids[part])


def test_padding_equals_deeplab2() -> None:
    image = ARRAYS["scale|in|image"]
    golden = ARRAYS["pad|out|image_off2_3_to45x60"]
    segments = PanopticSegments(
        np.ones(image.shape[:2], np.int32), np.array([1]), np.zeros(1, bool)
    )
    sample = PanopticSample(image.astype(np.uint8), segments, 1, "1.png", "1.png")
    transform = TrainTransform((45, 60), 1.0, 1.0, flip_probability=0.0)
    crops = (transform(sample, np.random.default_rng(seed)) for seed in range(400))
    crop = next(c for c in crops if np.argwhere(c.valid)[0].tolist() == [2, 3])
    assert np.abs(crop.image - golden).max() == 0.5  # 127 for 127.5
    np.testing.assert_array_equal(crop.valid, (golden != 127.5).any(-1))
    np.testing.assert_array_equal(crop.segments.id_map > 0, crop.valid)


def test_train_crop_is_a_window_of_the_scaled_image() -> None:
    sample = sample_of(70, 90)
    transform = TrainTransform((65, 65), 0.5, 2.0, flip_probability=0.0)
    seen = set()
    for seed in range(40):
        crop = transform(sample, np.random.default_rng(seed))
        own = np.argwhere(crop.valid)
        (top, left), (bottom, right) = own.min(0), own.max(0) + 1
        assert crop.valid.sum() == (bottom - top) * (right - left)
        assert (crop.image[~crop.valid] == 127).all()
        ids = crop.segments.id_map[top:bottom, left:right]
        image = crop.image[top:bottom, left:right]
        for scale in transform.scales:
            size = scaled_size(70, 90, scale)
            expected = resample_ids(sample.segments.id_map, *whole((70, 90), size))
            places = np.argwhere(expected == ids[0, 0])
            for y, x in places.tolist():
                part = slice(y, y + ids.shape[0]), slice(x, x + ids.shape[1])
                if np.array_equal(expected[part], ids):
                    scaled = resample_image(sample.image, *whole((70, 90), size))
                    if np.array_equal(scaled[part], image):
                        seen.add((seed, float(scale)))
    assert {seed for seed, _ in seen} == set(range(40))
    assert len({scale for _, scale in seen}) >= 12


def test_flip_mirrors_everything() -> None:
    sample = sample_of(40, 50)
    plain = TrainTransform((65, 65), 1.0, 1.0, flip_probability=0.0)
    flipped = TrainTransform((65, 65), 1.0, 1.0, flip_probability=1.0)
    a = plain(sample, np.random.default_rng(3))
    b = flipped(sample, np.random.default_rng(3))
    np.testing.assert_array_equal(a.image[:, ::-1], b.image)
    np.testing.assert_array_equal(a.valid[:, ::-1], b.valid)
    np.testing.assert_array_equal(a.segments.id_map[:, ::-1], b.segments.id_map)


def test_resize_range_comes_before_the_random_scale() -> None:
    sample = sample_of(48, 64)
    transform = TrainTransform((65, 65), 1.0, 1.0, resize_range=(65, 65), flip_probability=0.0)
    crop = transform(sample, np.random.default_rng(0))
    assert crop.valid.sum() == 49 * 65
    with_range, _ = EvalTransform((65, 65), resize_range=(65, 65))(sample.image)
    np.testing.assert_array_equal(crop.image[crop.valid], with_range.image[with_range.valid])


def test_all_chance_comes_from_the_generator() -> None:
    sample = sample_of(70, 90)
    transform = TrainTransform((65, 65), 0.5, 2.0)
    first = transform(sample, np.random.default_rng([0, 5]))
    again = transform(sample, np.random.default_rng([0, 5]))
    other = transform(sample, np.random.default_rng([0, 6]))
    np.testing.assert_array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)
    assert np.array_equal(sample.image, sample_of(70, 90).image)  # the source is left alone


class DrawnBy:
    """A colour transform that always draws the same operations."""

    def __init__(self, *names: str) -> None:
        self.policy = ColorPolicy(1.0, [[(name, 1.0, 3.0) for name in names]])

    def __call__(self, rng: np.random.Generator) -> DrawnColor:
        return self.policy(rng)


@pytest.mark.parametrize(
    "names",
    [
        ("Brightness", "Color"),
        ("Sharpness", "Color"),
        ("Sharpness", "Sharpness"),
        ("Solarize", "Equalize"),
        ("Sharpness", "Equalize"),
        ("Contrast", "AutoContrast"),
    ],
)
def test_colours_change_as_on_the_whole_scaled_image(names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(7)
    image = cv2.resize(rng.integers(60, 200, (9, 12, 3), np.uint8), (90, 70))
    sample = sample_of(70, 90)._replace(image=image)
    color = DrawnBy(*names)
    for scale in (0.5, 1.5):
        size = scaled_size(70, 90, np.float32(scale))
        scaled = resample_image(image, *whole(image.shape, size))
        expected = color(rng).change(scaled)
        plain = TrainTransform((65, 65), scale, scale)
        changed = TrainTransform((65, 65), scale, scale, color=color)
        for seed in range(6):
            a = plain(sample, np.random.default_rng(seed))
            b = changed(sample, np.random.default_rng(seed))
            np.testing.assert_array_equal(a.valid, b.valid)
            np.testing.assert_array_equal(a.segments.id_map, b.segments.id_map)
            places = np.argwhere(a.valid)
            (top, left), (bottom, right) = places.min(0), places.max(0) + 1
            before, after = (crop.image[top:bottom, left:right] for crop in (a, b))
            found = [
                (y, x, flip)
                for y in range(size[0] - before.shape[0] + 1)
                for x in range(size[1] - before.shape[1] + 1)
                for flip in (1, -1)
                if np.array_equal(window(scaled, y, x, flip, before.shape), before)
            ]
            assert found
            assert any(np.array_equal(window(expected, *f, before.shape), after) for f in found)
            assert not np.array_equal(before, after)
            assert (b.image[~b.valid] == 127).all()


def window(image: np.ndarray, y: int, x: int, flip: int, shape: tuple[int, ...]) -> np.ndarray:
    return image[y : y + shape[0], x : x + shape[1]][:, ::flip]
