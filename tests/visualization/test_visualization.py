from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from axialseg.panoptic.categories import contiguous_categories
from axialseg.panoptic.cityscapes_classes import CITYSCAPES
from axialseg.panoptic.panoptic_map import PanopticSegments
from axialseg.visualization import fonts
from axialseg.visualization.curves import save_curves
from axialseg.visualization.panoptic import (
    comparison,
    panoptic_overlay,
    segment_colors,
)

CAR, ROAD = 13, 0


def scene(height: int = 96, width: int = 128) -> tuple[NDArray[np.uint8], PanopticSegments]:
    """Two cars on a road, a crowd of cars, void at the top, and a car of 2 x 2 pixels."""
    id_map = np.full((height, width), 1, np.int32)
    id_map[: height // 4] = 0
    id_map[height // 3 : height // 2, : width // 3] = 2
    id_map[height // 3 : height // 2, width // 3 : 2 * width // 3] = 3
    id_map[height // 3 : height // 2, 2 * width // 3 :] = 4
    id_map[-4:-2, 4:6] = 5
    image = np.full((height, width, 3), 200, np.uint8)
    crowd = np.array([False, False, False, True, False])
    return image, PanopticSegments(id_map, np.array([ROAD, CAR, CAR, CAR, CAR]), crowd)


def test_small_images_are_enlarged_and_large_ones_kept() -> None:
    image, segments = scene()
    overlay = panoptic_overlay(image, segments, CITYSCAPES)
    assert overlay.shape == (480, 640, 3)
    assert overlay.dtype == np.uint8
    assert panoptic_overlay(*scene(300, 700), CITYSCAPES).shape == (300, 700, 3)
    assert (image == 200).all()
    assert segments.id_map.shape == (96, 128)


def test_what_can_be_told_apart() -> None:
    image, segments = scene()
    overlay = panoptic_overlay(image, segments, CITYSCAPES).astype(int)
    id_map = segments.id_map.repeat(5, 0).repeat(5, 1)
    # Medians leave out names, outlines and hatching.
    void, road, first, second = (np.median(overlay[id_map == k], 0) for k in range(4))
    for one, other in ((first, second), (void, road), (road, first)):
        assert np.abs(one - other).max() > 20
    assert void.max() < 100
    # Things of one class touch: their common border is drawn, bright.
    border = overlay[170:230, 640 // 3 - 3 : 640 // 3 + 3]
    assert border.mean(axis=2).max() > max(first.mean(), second.mean()) + 40
    # Crowds are hatched: two brightnesses in turn, unlike the plain car.
    assert overlay[id_map == 4].std(0).max() > 1.5 * overlay[id_map == 3].std(0).max()


def names_drawn(segments: PanopticSegments, number: int) -> bool:
    """Whether segment `number` bears a name: only text is pure white."""
    overlay = panoptic_overlay(np.zeros((*segments.id_map.shape, 3), "u1"), segments, CITYSCAPES)
    scale = overlay.shape[0] // segments.id_map.shape[0]
    inside = segments.id_map.repeat(scale, 0).repeat(scale, 1) == number
    return bool((overlay[inside] == 255).all(axis=1).any())


def test_names_in_large_segments_only() -> None:
    _, segments = scene()
    assert [names_drawn(segments, number) for number in range(6)] == [False, *[True] * 4, False]


def test_segments_without_pixels_and_empty_tables() -> None:
    image, segments = scene()
    gone = segments._replace(id_map=np.where(segments.id_map == 3, 1, segments.id_map))
    assert panoptic_overlay(image, gone, CITYSCAPES).shape == (480, 640, 3)
    nothing = PanopticSegments(
        np.zeros((96, 128), np.int32), np.zeros(0, np.int64), np.zeros(0, bool)
    )
    assert panoptic_overlay(image, nothing, CITYSCAPES).max() < 200
    assert comparison(image, segments, nothing, CITYSCAPES).ndim == 3


@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (700, 9), (9, 700)])
def test_odd_shapes(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    segments = PanopticSegments(np.ones(shape, np.int32), np.array([CAR]), np.array([False]))
    sheet = comparison(image, segments, segments, CITYSCAPES)
    assert sheet.dtype == np.uint8


def test_comparison_shows_three_equal_panels_and_a_legend() -> None:
    image, segments = scene()
    sheet = comparison(image, segments, segments, CITYSCAPES)
    assert sheet.shape[1] > 3 * 640
    assert sheet.shape[0] > 480 + 40
    truth, predicted = (
        sheet[100:500, left : left + 500] for left in (640 + 2 * 19 + 50, 2 * 640 + 3 * 19 + 50)
    )
    assert (truth == predicted).all()
    legend = sheet[480 + 3 * 19 :].reshape(-1, 3)
    for class_id in (CAR, ROAD):
        assert (legend == CITYSCAPES.by_class_id[class_id].color).all(axis=1).any()
    assert not (legend == CITYSCAPES.by_class_id[5].color).all(axis=1).any()


def test_large_panels_are_shrunk() -> None:
    image, segments = scene(1024, 2048)
    assert 3 * 1024 < comparison(image, segments, segments, CITYSCAPES).shape[1] < 3400


def test_instances_get_shades_and_stuff_keeps_its_colour() -> None:
    _, segments = scene()
    colors = segment_colors(segments, CITYSCAPES)
    assert colors.shape == (6, 3)
    assert len(np.unique(colors[2:], axis=0)) == 4
    assert tuple(colors[1]) == CITYSCAPES.by_class_id[ROAD].color


def test_curves(tmp_path: Path) -> None:
    rows = [{"step": k, "train/loss": 1 / (k + 1), "val/PQ": float("nan")} for k in range(300)]
    rows += [{"step": k, "val/PQ": k / 10} for k in (100, 200, 299)]
    panels = {"Loss": ["train/loss", "train/absent"], "PQ (%)": ["val/PQ"]}
    save_curves(rows, panels, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1440, 480)
        drawn = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    blue = (np.abs(drawn.astype(int) - (31, 119, 180)) < 8).all(axis=1)
    assert blue.sum() > 200
    save_curves([], panels, tmp_path / "empty.png")
    assert (tmp_path / "empty.png").is_file()


def test_without_ground_truth_there_is_no_panel_for_it() -> None:
    image, segments = scene()
    sheet = comparison(image, None, segments, CITYSCAPES)
    assert 2 * 640 < sheet.shape[1] < 3 * 640
    with_truth = comparison(image, segments, segments, CITYSCAPES)
    # Image and prediction are those of the full sheet.
    gap = (sheet.shape[1] - 2 * 640) // 3
    top = 3 * gap
    own = sheet[top : top + 480, gap : gap + 640]
    np.testing.assert_array_equal(own, with_truth[top : top + 480, gap : gap + 640])
    left, last = 2 * gap + 640, 3 * gap + 2 * 640
    np.testing.assert_array_equal(
        sheet[top : top + 480, left : left + 640], with_truth[top : top + 480, last : last + 640]
    )


CHINESE = contiguous_categories(
    [(1, "\u6c7d\u8f66", True, (0, 0, 200)), (2, "road", False, (9, 9, 9))]
)


def test_names_that_no_font_has_are_numbers_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fonts, "_system_fonts", tuple)
    monkeypatch.setattr(fonts, "_TOLD", set())
    fonts.font_file.cache_clear()
    assert [fonts.legible(category) for category in CHINESE.classes] == ["class 1", "road"]
    assert fonts.legible(CHINESE.classes[0]) == "class 1"
    (record,) = caplog.records
    assert (
        "the class name \u6c7d\u8f66: pictures call such a class by its number"
        in record.getMessage()
    )
    assert fonts.font_file("Stra\u00dfe \u0436") == fonts.text_font(9).path
    fonts.font_file.cache_clear()


def test_a_font_of_the_system_is_taken_for_what_the_default_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # DejaVu has a Latin x, a font of matplotlib's for mathematics has the sign asked for.
    path = f"{mpl.get_data_path()}/fonts/ttf/STIXSizOneSymReg.ttf"
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_system_fonts", lambda: (str(tmp_path / "broken.ttf"), path))
    only_there = fonts._characters(path) - fonts._characters(fonts._default())
    text = chr(min(only_there))
    fonts.font_file.cache_clear()
    assert fonts.font_file(text) == path
    assert fonts.text_font(12, text).path == path
    fonts.font_file.cache_clear()
