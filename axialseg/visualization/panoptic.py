"""Pictures for people: panoptic overlays, and image | ground truth | prediction.

All images are RGB uint8 ``[H, W, 3]``. Small images are enlarged so that class names are legible.
"""

import colorsys
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments
from axialseg.visualization.fonts import legible, text_font

Picture = NDArray[np.uint8]

SMALLEST_SIDE = 640  # the longer side of an overlay is at least this, in pixels
LARGEST_PANEL = 1024  # the longer side of a panel of `comparison` is at most this
OPACITY = 0.6
PAPER, INK = (255, 255, 255), (32, 32, 36)
# How far the colours of instances lie from that of their class: hue in turns, lightness.
SHADES = ((0, 0), (0.04, 0.12), (-0.04, -0.1), (0.07, -0.04), (-0.07, 0.1), (0.02, -0.16), (0, 0.2))


def panoptic_overlay(image: Picture, segments: PanopticSegments, categories: Categories) -> Picture:
    """Paints a segmentation over its image.

    Each class has its colour, each instance a shade of it and an outline; segments that are large
    enough bear their class's name. Void is dark and hatched; crowds are hatched in their colour.

    Args:
        image: uint8 ``[H, W, 3]``.
        segments: of the same size.
        categories: names and colours.

    Returns:
        uint8 ``[s H, s W, 3]``, s = 1, or for a small image the whole number that makes its longer
        side 640 pixels or a little more.
    """
    image, id_map = _enlarge(image, segments.id_map)
    segments = segments._replace(id_map=id_map)
    colors = segment_colors(segments, categories)
    is_thing = np.append(False, categories.is_thing_table[segments.class_ids])
    is_crowd = np.append(False, segments.is_crowd)
    width = max(1, round(max(id_map.shape) / 500))

    # The image is made nearly grey, so that the colours look as in the legend.
    grey = image.mean(axis=2, keepdims=True) * 0.75 + image * 0.25
    picture = grey * (1 - OPACITY) + colors[id_map] * OPACITY
    void = id_map == 0
    picture[void] = image[void] * 0.35
    picture[void & _stripes(id_map.shape, 6 * width, 1)] += 45
    crowd = is_crowd[id_map] & _stripes(id_map.shape, 6 * width, -1)
    picture[crowd] = picture[crowd] * 0.45 + 255 * 0.55
    outline = _outline(id_map, width)
    bright = outline & is_thing[id_map]
    picture[bright] = colors[id_map[bright]] * 0.4 + 255 * 0.6
    picture[outline & ~bright] *= 0.7
    picture = picture.clip(0, 255).astype(np.uint8)
    return _write_names(picture, segments, categories)


def comparison(
    image: Picture,
    ground_truth: PanopticSegments | None,
    prediction: PanopticSegments,
    categories: Categories,
) -> Picture:
    """Image, ground truth and prediction side by side, with captions and a legend of the classes.

    Args:
        image: uint8 ``[H, W, 3]``.
        ground_truth: of the same size; None has no panel.
        prediction: of the same size.
        categories: names and colours.
    """
    drawn = {"Ground truth": ground_truth, "Prediction": prediction}
    shown = {name: segments for name, segments in drawn.items() if segments is not None}
    image, id_maps = _shrink(image, [segments.id_map for segments in shown.values()])
    panels = {"Image": _enlarge(image, id_maps[0])[0]}
    for (name, segments), id_map in zip(shown.items(), id_maps, strict=True):
        panels[name] = panoptic_overlay(image, segments._replace(id_map=id_map), categories)
    height, width = panels["Image"].shape[:2]
    size = _font_size((height, width)) + 2
    gap = size
    total_width = len(panels) * (width + gap) + gap
    entries = _legend(list(shown.values()), categories)
    rows = _wrap(entries, total_width - 2 * gap, size)
    legend_top = 3 * gap + height + gap
    total_height = legend_top + round(len(rows) * 1.7 * size) + gap // 2

    sheet = Image.new("RGB", (total_width, total_height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (name, panel) in enumerate(panels.items()):
        left = gap + number * (width + gap)
        draw.text(
            (left + width // 2, 3 * gap // 2), name, INK, text_font(round(1.15 * size)), anchor="mm"
        )
        sheet.paste(Image.fromarray(panel), (left, 3 * gap))
    for number, row in enumerate(rows):
        top = legend_top + round(number * 1.7 * size)
        for left, entry in row:
            sheet.paste(Image.fromarray(_swatch(entry, size)), (gap + left, top))
            draw.text(
                (gap + left + round(1.5 * size), top + size // 2),
                entry.name,
                INK,
                text_font(size, entry.name),
                anchor="lm",
            )
    return np.asarray(sheet)


def segment_colors(segments: PanopticSegments, categories: Categories) -> Picture:
    """Colours of void and of each segment, uint8 ``[S + 1, 3]``: shades of the class's colour."""
    colors = [(0, 0, 0)]
    seen: dict[int, int] = {}
    for class_id in segments.class_ids.tolist():
        category = categories.by_class_id[class_id]
        number = seen[class_id] = seen.get(class_id, -1) + 1
        colors.append(_shade(category.color, number) if category.is_thing else category.color)
    return np.array(colors, np.uint8)


def _shade(color: tuple[int, int, int], number: int) -> tuple[int, int, int]:
    hue_shift, lightness_shift = SHADES[number % len(SHADES)]
    hue, lightness, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in color))
    lightness = min(max(lightness + lightness_shift, 0.2), 0.8)
    red, green, blue = colorsys.hls_to_rgb((hue + hue_shift) % 1, lightness, saturation)
    return round(255 * red), round(255 * green), round(255 * blue)


def _enlarge(image: Picture, id_map: NDArray[np.int32]) -> tuple[Picture, NDArray[np.int32]]:
    scale = -(-SMALLEST_SIDE // max(id_map.shape))
    size = (id_map.shape[1] * scale, id_map.shape[0] * scale)
    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    return image, id_map.repeat(scale, 0).repeat(scale, 1)


def _shrink(
    image: Picture, id_maps: list[NDArray[np.int32]]
) -> tuple[Picture, list[NDArray[np.int32]]]:
    scale = min(1.0, LARGEST_PANEL / max(image.shape))
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    small = [
        np.asarray(cv2.resize(id_map, size, interpolation=cv2.INTER_NEAREST), np.int32)
        for id_map in id_maps
    ]
    return image, small


def _stripes(shape: tuple[int, ...], period: int, slope: int) -> NDArray[np.bool_]:
    """Diagonal stripes, a third of the area, rising (slope 1) or falling (-1)."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (x + slope * y) % period < period / 3


def _outline(id_map: NDArray[np.int32], width: int) -> NDArray[np.bool_]:
    """Pixels that have another segment within `width` pixels."""
    values = id_map.astype(np.float32)
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    return np.asarray(cv2.dilate(values, kernel) != cv2.erode(values, kernel))


def _font_size(shape: tuple[int, ...]) -> int:
    return round(min(max(max(shape) / 38, 13), 40))


def _write_names(picture: Picture, segments: PanopticSegments, categories: Categories) -> Picture:
    """Writes the class's name into each segment that has room for it, the largest first."""
    sheet = Image.fromarray(picture)
    draw = ImageDraw.Draw(sheet)
    taken = np.zeros(segments.id_map.shape, np.float32)
    largest = _font_size(picture.shape)
    boxes = ndimage.find_objects(segments.id_map, max_label=len(segments.class_ids))
    for row in np.argsort(-segments.areas(), kind="stable").tolist():
        if boxes[row] is None:
            continue
        name = legible(categories.by_class_id[int(segments.class_ids[row])])
        if segments.is_crowd[row]:
            name += " (crowd)"
        for size in (largest, round(0.8 * largest)):
            font = text_font(size, name)
            width, height = round(font.getlength(name)) + 6, round(1.3 * size)
            place = _place_in(segments.id_map == row + 1, boxes[row], taken, width, height)
            if place is not None:
                x, y = place
                taken[y : y + height, x : x + width] = 1
                draw.text(
                    (x + width / 2, y + height / 2),
                    name,
                    (255, 255, 255),
                    font,
                    anchor="mm",
                    stroke_width=max(1, round(size / 9)),
                    stroke_fill=(0, 0, 0),
                )
                break
    return np.asarray(sheet)


def _place_in(
    mask: NDArray[np.bool_],
    box: tuple[slice, slice],
    taken: NDArray[np.float32],
    width: int,
    height: int,
) -> tuple[int, int] | None:
    """Top left corner (x, y) for a text of this size in a segment, None if there is no room."""
    rows, columns = box
    # The text may overlap the segment's sides a little, but never the image's or another text.
    top = max(0, rows.start - height)
    left = max(0, columns.start - width)
    window = np.s_[top : rows.stop + height, left : columns.stop + width]
    inside = mask[window].astype(np.float32)
    if inside.shape[0] < height or inside.shape[1] < width:
        return None
    cover = _box_mean(inside, width, height)
    cover[_box_mean(taken[window], width, height) > 0] = 0
    surroundings = _box_mean(inside, 2 * width, 3 * height)
    center_y, center_x = ndimage.center_of_mass(inside)
    y, x = np.ogrid[: inside.shape[0], : inside.shape[1]]
    distance = np.hypot(y - center_y, x - center_x) / np.hypot(*inside.shape)
    score = cover + 0.3 * surroundings - 0.2 * distance
    # Only centres that keep the whole text in the window.
    centers = np.s_[
        height // 2 : inside.shape[0] - height + height // 2 + 1,
        width // 2 : inside.shape[1] - width + width // 2 + 1,
    ]
    y, x = np.unravel_index(score[centers].argmax(), score[centers].shape)
    if cover[centers][y, x] <= 0.7:
        return None
    return left + int(x), top + int(y)


def _box_mean(values: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """Mean over a box around each pixel; what lies outside counts as 0."""
    mean = cv2.boxFilter(values, -1, (width, height), borderType=cv2.BORDER_CONSTANT)
    return np.asarray(mean, np.float32)


class _Entry(NamedTuple):
    name: str
    color: tuple[int, int, int]
    slope: int  # of the hatching, 0 for none


def _legend(both: list[PanopticSegments], categories: Categories) -> list[_Entry]:
    """Classes that occur, things first, then crowd and void where there are any."""
    present = {int(class_id) for segments in both for class_id in segments.class_ids}
    entries = [
        _Entry(legible(category), category.color, 0)
        for category in sorted(categories.classes, key=lambda category: not category.is_thing)
        if category.class_id in present
    ]
    if any(segments.is_crowd.any() for segments in both):
        entries.append(_Entry("crowd", (128, 128, 128), -1))
    if any((segments.id_map == 0).any() for segments in both):
        entries.append(_Entry("void", (60, 60, 60), 1))
    return entries


def _wrap(entries: list[_Entry], width: int, size: int) -> list[list[tuple[int, _Entry]]]:
    """Lines of (left edge, entry) that fit into `width` pixels."""
    lines: list[list[tuple[int, _Entry]]] = [[]]
    left = 0
    for entry in entries:
        needed = round(text_font(size, entry.name).getlength(entry.name) + 3 * size)
        if lines[-1] and left + needed > width:
            lines.append([])
            left = 0
        lines[-1].append((left, entry))
        left += needed
    return lines


def _swatch(entry: _Entry, size: int) -> Picture:
    swatch = np.full((size, size, 3), entry.color, np.uint8)
    if entry.slope:
        swatch[_stripes(swatch.shape, 6, entry.slope)] += 80
    return swatch
