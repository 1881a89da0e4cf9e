"""Folders of labelme: a JSON file for each photograph, with polygons, boxes, circles or masks.

Source: the files that labelme 3 to 5 write. Shapes of one `group_id` and label are one object.
Points and lines have no area and are left out.
"""

import base64
import binascii
import math
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from axialseg.data_import.painting import Shape, paint
from axialseg.data_import.polygons import DAMAGED, polygon_mask
from axialseg.data_import.source import (
    SourceImage,
    files_by_name,
    find_photograph,
    refuse_without_images,
)
from axialseg.errors import UserError
from axialseg.formats.coco_annotations import spread_color
from axialseg.formats.damaged_image import DAMAGE
from axialseg.formats.json_file import read_json
from axialseg.formats.strict_values import StrictValues
from axialseg.panoptic.categories import contiguous_categories
from axialseg.panoptic.panoptic_map import PanopticSegments

LINES = "points and lines, which have no area, left out"
MISSING = "annotated photographs that are not there, left out"
EMBEDDED = "photographs taken from the JSON file"
BARE = "images without a shape, left out"
GROUPED = "shapes united with others of their group_id"
CIRCLE_POINTS = 90


class LabelmeFolder:
    """All JSON files of labelme below a folder."""

    def __init__(
        self,
        folder: Path,
        photographs: Path | None,
        things: Sequence[str] | None,
        rest: str | None,
    ) -> None:
        """Reads the files.

        Args:
            folder: is searched with all folders in it.
            photographs: their folder; None looks beside the JSON files.
            things: names of the things; None: all labels are things.
            rest: name of the stuff class of all pixels without a shape; None leaves them void.

        Raises:
            UserError: a file is not one of labelme's, or no photograph is found.
        """
        self.counts: Counter[str] = Counter()
        self.images: list[SourceImage] = []
        self._shapes: list[list[dict[str, Any]]] = []
        folders = [photographs or folder]
        by_name = files_by_name(folders)
        labels: set[str] = set()
        missing = ""
        for path in sorted(folder.rglob("*.json")):
            content = read_json(path)
            if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
                raise UserError(f"{path} is not a file of labelme (it has no shapes); remove it.")
            shapes = [_shape(row, n, path) for n, row in enumerate(content["shapes"], start=1)]
            labels |= {shape["label"] for shape in shapes}
            if not shapes and rest is None:
                self.counts[BARE] += 1
                continue
            image = self._photograph(path, content, folder, folders, by_name)
            if image is None:
                self.counts[MISSING] += 1
                missing = str(content.get("imagePath"))
                continue
            self.images.append(image)
            self._shapes.append(shapes)
        refuse_without_images(self.images, folder, missing)
        names = sorted(labels | ({rest} if rest else set()))
        for name in things or ():
            if name not in names:
                raise UserError(f"things=[...] names {name}, but the labels are {names}.")
        self.categories = contiguous_categories(
            (n, name, name != rest and (things is None or name in things), spread_color(n))
            for n, name in enumerate(names, start=1)
        )
        self._ids = {category.name: category.class_id for category in self.categories.classes}
        self._rest = self._ids[rest] if rest else None

    def segments(self, index: int, size: tuple[int, int]) -> PanopticSegments | None:
        """The segments of image `index`."""
        masks: list[Shape] = []
        groups: dict[tuple[Any, str], int] = {}
        for row in self._shapes[index]:
            mask = self._mask(row, size)
            if mask is None:
                self.counts[LINES] += 1
                continue
            key = (row["group"], row["label"])
            if row["group"] is not None and key in groups:
                place = groups[key]
                masks[place] = masks[place]._replace(mask=masks[place].mask | mask)
                self.counts[GROUPED] += 1
                continue
            groups[key] = len(masks)
            masks.append(Shape(mask, self._ids[row["label"]], False))
        return paint(masks, size, self.categories, self._rest, self.counts)

    def _photograph(
        self,
        path: Path,
        content: dict[str, Any],
        folder: Path,
        folders: Sequence[Path],
        by_name: dict[str, list[Path]],
    ) -> SourceImage | None:
        """The photograph of a JSON file: beside it, by its name, or inside."""
        height, width = content.get("imageHeight"), content.get("imageWidth")
        size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        named = str(content.get("imagePath") or path.with_suffix(".jpg").name)
        name = PurePosixPath(named.replace("\\", "/")).name
        try:
            file = find_photograph(named, [path.parent, *folders], by_name)
        except FileNotFoundError:
            data = content.get("imageData")
            if not isinstance(data, str):
                return None
            try:
                inside = base64.b64decode(data, validate=True)
            except binascii.Error:
                return None
            self.counts[EMBEDDED] += 1
            below = path.parent.relative_to(folder) / (name or f"{path.stem}.jpg")
            return SourceImage(below.as_posix(), None, inside, size, None)
        resolved = file.resolve()
        root = next((f for f in (*folders, folder) if resolved.is_relative_to(f.resolve())), None)
        below = resolved.relative_to(root.resolve()) if root else Path(file.name)
        return SourceImage(below.as_posix(), file, None, size, None)

    def _mask(self, row: dict[str, Any], size: tuple[int, int]) -> NDArray[np.bool_] | None:
        """The mask of a shape; None if its kind has no area."""
        kind, points = row["kind"], row["points"]
        if kind == "mask":
            return self._pasted(row, size)
        if kind == "rectangle" and len(points) == 2:
            (left, top), (right, bottom) = points
            points = [(left, top), (right, top), (right, bottom), (left, bottom)]
        elif kind == "circle" and len(points) == 2:
            (x, y), edge = points
            radius = math.dist((x, y), edge)
            turns = np.linspace(0, 2 * np.pi, CIRCLE_POINTS, endpoint=False)
            points = [(x + radius * math.cos(t), y + radius * math.sin(t)) for t in turns]
        elif kind not in ("polygon", "rectangle", "rotation"):
            return None
        return polygon_mask([[c for point in points for c in point]], size, self.counts)

    def _pasted(self, row: dict[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
        """A mask that the file holds as a picture, with its top left corner."""
        mask = np.zeros(size, bool)
        try:
            content = base64.b64decode(row["mask"], validate=True)
            with Image.open(BytesIO(content)) as picture:
                pixels = np.asarray(picture.convert("L")) > 0
            left, top = (round(c) for c in row["points"][0])
            part = mask[max(top, 0) :, max(left, 0) :]
            own = pixels[max(-top, 0) :, max(-left, 0) :][: part.shape[0], : part.shape[1]]
            part[: own.shape[0], : own.shape[1]] = own
        except (*DAMAGE, TypeError, binascii.Error):
            self.counts[DAMAGED] += 1
        return mask


def is_labelme(path: Path) -> bool:
    """Whether a JSON file is one of labelme's; raises a UserError if it is not JSON."""
    content = read_json(path)
    return isinstance(content, dict) and "shapes" in content


def _shape(row: Any, number: int, path: Path) -> dict[str, Any]:
    """The parts of a shape that are needed, checked."""
    values = StrictValues(path)
    place = f"shape {number}"
    if not isinstance(row, dict):
        raise UserError(f"{path}: {place} is not an object; write the file anew with labelme.")
    label = values.text(row.get("label"), "label", place)
    points = row.get("points") or []
    try:
        pairs = [(float(x), float(y)) for x, y in points]
    except (TypeError, ValueError, OverflowError) as error:
        raise values.refusal(points, "points", place, "a list of x and y") from error
    if not all(math.isfinite(c) for pair in pairs for c in pair):
        raise values.refusal(points, "points", place, "finite numbers")
    return {
        "label": label,
        "points": pairs,
        "kind": row.get("shape_type") or "polygon",
        "group": row.get("group_id"),
        "mask": row.get("mask"),
    }
