"""Crops: where they lie, what they hold, and that they equal the field's arithmetic."""

import albumentations
import numpy as np
import pytest
from PIL import Image

from axialseg.datasets.classification_transforms import CenterCrop, RandomResizedCrop
from axialseg.datasets.transforms import DrawnColor


def photo(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    large = Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(large)


def test_windows_have_the_area_and_the_ratio() -> None:
    crop = RandomResizedCrop([224, 224])
    rng = np.random.default_rng(0)
    height, width = 300, 400
    windows = [crop.window(height, width, rng) for _ in range(4000)]
    top, left, rows, columns = np.array(windows).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + rows <= height).all()
    assert (left + columns <= width).all()
    area, ratio = rows * columns / (height * width), columns / rows
    assert 0.079 < area.min() < 0.1
    assert 0.97 < area.max() <= 1
    assert 0.73 < ratio.min() < 0.76
    assert 1.32 < ratio.max() < 1.36
    # Small areas always fit: there they are uniform, and so are the logarithms of the ratios.
    small = area < 0.4
    assert abs(np.mean(area[small] < 0.24) - 0.5) < 0.04
    assert abs(np.mean(ratio[small] < 1) - 0.5) < 0.04
    assert len({window[:2] for window in windows}) > 3000


@pytest.mark.parametrize(
    ("size", "window"),
    [((10, 400), (0, 193, 10, 13)), ((400, 10), (193, 0, 13, 10)), ((1, 1), (0, 0, 1, 1))],
)
def test_an_image_that_no_window_fits_is_cut_in_the_middle(
    size: tuple[int, int], window: tuple[int, ...]
) -> None:
    crop = RandomResizedCrop([8, 8], min_area=0.9)
    assert crop.window(*size, np.random.default_rng(0)) == window
    assert crop(photo(*size), np.random.default_rng(0)).shape == (8, 8, 3)


def test_the_window_is_resized_with_a_filter_that_averages() -> None:
    image = photo(200, 300)
    crop = RandomResizedCrop([48, 64], flip_probability=0.0)
    for seed in range(5):
        top, left, rows, columns = crop.window(200, 300, np.random.default_rng(seed))
        window = Image.fromarray(image[top : top + rows, left : left + columns])
        expected = np.asarray(window.resize((64, 48), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(crop(image, np.random.default_rng(seed)), expected)
    checkerboard = np.indices((200, 200)).sum(0)[..., None] % 2 * np.full(3, 255, np.uint8)
    whole = RandomResizedCrop([20, 20], min_area=1.0, min_ratio=1.0, max_ratio=1.0)
    grey = whole(checkerboard.astype(np.uint8), np.random.default_rng(0))
    assert np.abs(grey.astype(int) - 127).max() < 20  # a filter without averaging gives 0 and 255


def test_half_of_the_crops_are_flipped() -> None:
    image = photo(60, 60)
    plain = RandomResizedCrop([32, 32], flip_probability=0.0)
    flipping = RandomResizedCrop([32, 32])
    flipped = 0
    for seed in range(200):
        one, other = (crop(image, np.random.default_rng(seed)) for crop in (plain, flipping))
        is_flipped = np.array_equal(one[:, ::-1], other)
        assert is_flipped or np.array_equal(one, other)
        flipped += is_flipped
    assert 75 < flipped < 125


def test_colour_is_changed_on_the_crop() -> None:
    def darken(rng: np.random.Generator) -> DrawnColor:
        assert rng.random() >= 0
        return DrawnColor(lambda image: image // 2, 0)

    image = photo(60, 60)
    for seed in range(4):
        one, other = (
            RandomResizedCrop([32, 32], color=color)(image, np.random.default_rng(seed))
            for color in (None, darken)
        )
        np.testing.assert_array_equal(one // 2, other)


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (256, 256), (224, 900), (60, 71)])
def test_centre_crop_is_that_of_the_resized_image(size: tuple[int, int]) -> None:
    image = photo(*size)
    crop = CenterCrop([224, 224])(image)
    assert crop.shape == (224, 224, 3)
    # As torchvision's Resize(256) and CenterCrop(224) do it on Pillow images.
    height, width = size
    if height <= width:
        resized_size = (int(256 * width / height), 256)
    else:
        resized_size = (256, int(256 * height / width))
    resized = Image.fromarray(image).resize(resized_size, Image.Resampling.BILINEAR)
    left, top = (round((side - 224) / 2.0) for side in resized_size)
    expected = np.asarray(resized)[top : top + 224, left : left + 224]
    np.testing.assert_array_equal(crop, expected)


def test_centre_crop_of_the_whole_shorter_side() -> None:
    image = photo(64, 96)
    np.testing.assert_array_equal(CenterCrop([64, 64], crop_share=1.0)(image), image[:, 16:80])


def test_centre_crop_that_is_no_square() -> None:
    assert CenterCrop([33, 65])(photo(200, 150)).shape == (33, 65, 3)


@pytest.mark.parametrize("size", [(375, 500), (60, 71), (900, 300)])
def test_place_of_a_pixel_in_the_centre_crop(size: tuple[int, int]) -> None:
    crop = CenterCrop([48, 64])
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(60):
        y, x = (int(rng.integers(side)) for side in size)
        image = np.zeros((*size, 3), np.uint8)
        rows, columns = (slice(max(v - 9, 0), v + 10) for v in (y, x))
        image[rows, columns] = 255
        light = crop(image)[..., 0].astype(float)
        row, column = crop.place(*size, (y, x))
        if not (0 <= row < 48 and 0 <= column < 64):
            continue
        inside += 1
        assert light[row, column] > 100
    assert inside > 10


def test_place_of_the_middle_and_the_corner() -> None:
    crop = CenterCrop([224, 224])
    assert crop.place(512, 512, (256, 256)) == (112, 112)
    assert crop.place(512, 1024, (0, 0)) == (-16, -144)


def test_listed_transforms_come_first() -> None:
    flip = albumentations.VerticalFlip(p=1.0)
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    settings = {"crop_size": [40, 40], "min_area": 1.0, "min_ratio": 1.0, "max_ratio": 1.0}
    crop = RandomResizedCrop(**settings, flip_probability=0.0, transforms=[flip])
    np.testing.assert_array_equal(crop(image, np.random.default_rng(0)), image[::-1])
