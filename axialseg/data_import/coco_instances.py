"""COCO's instance format: one JSON file of polygons or run lengths, as most tools write it.

Source: the format page of cocodataset.org ("Object Detection"). CVAT, Label Studio, Roboflow and
labelme2coco write it with small liberties: numbers as texts, paths of their own, categories that
never occur. There may be a file for each split; its name or folder then has train, val or valid in
it.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from axialseg.data_import.painting import Shape, paint
from axialseg.data_import.polygons import polygon_mask, run_length_mask
from axialseg.data_import.source import (
    SourceImage,
    files_by_name,
    find_photograph,
    refuse_without_images,
)
from axialseg.errors import UserError
from axialseg.formats.coco_annotations import spread_color
from axialseg.formats.json_file import read_json
from axialseg.formats.strict_values import StrictValues
from axialseg.panoptic.categories import Categories, contiguous_categories
from axialseg.panoptic.panoptic_map import PanopticSegments

MISSING = "photographs that are listed but not there, left out"
BARE = "images without a shape, left out"
SHAPELESS = "objects without a shape (a box alone), left out"


class CocoInstances:
    """Instance annotations of one file, or of one for each split."""

    def __init__(
        self,
        files: Sequence[tuple[Path, str | None]],
        photographs: Path | None,
        things: Sequence[str] | None,
        rest: str | None,
    ) -> None:
        """Reads the files.

        Args:
            files: (JSON file, split), the split train, val or None.
            photographs: their folder; None looks beside the JSON file.
            things: names of the things; None: all classes are things.
            rest: name of the stuff class of all pixels without a shape; None leaves them void.

        Raises:
            UserError: a file is not of this format, or no photograph is found.
        """
        self.counts: Counter[str] = Counter()
        self.images: list[SourceImage] = []
        self._objects: list[list[dict[str, Any]]] = []
        listed: dict[int, str] = {}
        contents = [(path, split, _content(path)) for path, split in files]
        for path, _, content in contents:
            for official_id, name in _named_categories(path, content):
                if listed.setdefault(official_id, name) != name:
                    raise UserError(
                        f"{path} calls category {official_id} {name}, another file calls it "
                        f"{listed[official_id]}; export all splits with the same classes."
                    )
        self.categories, self._rest = _categories(listed, things, rest, files[0][0])
        missing = ""
        for path, split, content in contents:
            missing = self._add(path, split, content, photographs) or missing
        refuse_without_images(self.images, files[0][0], missing)

    def segments(self, index: int, size: tuple[int, int]) -> PanopticSegments | None:
        """The segments of image `index`; None where nothing is drawn and the rest is void."""
        shapes = []
        for row in self._objects[index]:
            drawn = row["segmentation"]
            if isinstance(drawn, dict):
                mask = run_length_mask(drawn, size, self.counts)
            else:
                mask = polygon_mask(drawn, size, self.counts)
            class_id = self.categories.by_official_id[row["category_id"]].class_id
            shapes.append(Shape(mask, class_id, row["iscrowd"]))
        return paint(shapes, size, self.categories, self._rest, self.counts)

    def _add(
        self, path: Path, split: str | None, content: dict[str, Any], photographs: Path | None
    ) -> str:
        """Adds the images of a file; gives the name of one that is missing."""
        values = StrictValues(path)
        objects = self._objects_by_image(values, content)
        beside = (path.parent, path.parent / "images", path.parent.parent / "images")
        folders = [photographs] if photographs else [f for f in beside if f.is_dir()]
        by_name = files_by_name(folders[:1] if photographs else folders[1:] or folders)
        missing = ""
        seen: set[Any] = set()
        for number, row in enumerate(content["images"], start=1):
            place = f"image {number}"
            if row.get("id") in seen:
                raise UserError(
                    f"{path} lists two images of the id {row['id']}; give each one of its own."
                )
            seen.add(row.get("id"))
            name = row.get("file_name")
            if not isinstance(name, str):
                raise values.refusal(name, "file_name", place, "the name of a file")
            own = objects.get(str(row.get("id")), [])
            if not own and self._rest is None:
                self.counts[BARE] += 1
                continue
            try:
                file = find_photograph(name, folders, by_name)
            except FileNotFoundError:
                self.counts[MISSING] += 1
                missing = name
                continue
            height, width = row.get("height"), row.get("width")
            has_size = isinstance(height, int) and isinstance(width, int)
            size = (height, width) if has_size else None
            self.images.append(SourceImage(_below(file, folders), file, None, size, split))
            self._objects.append(own)
        return missing

    def _objects_by_image(
        self, values: StrictValues, content: dict[str, Any]
    ) -> dict[str, list[dict[str, Any]]]:
        """Image id as a text -> its objects with a shape."""
        objects: dict[str, list[dict[str, Any]]] = {}
        for number, row in enumerate(content["annotations"], start=1):
            place = f"annotation {number}"
            if not isinstance(row, dict) or "image_id" not in row:
                raise UserError(f"{values.path}: {place} has no image_id; export it anew.")
            drawn = row.get("segmentation")
            if not drawn or not isinstance(drawn, list | dict):
                self.counts[SHAPELESS] += 1
                continue
            if isinstance(drawn, list) and not isinstance(drawn[0], list):
                drawn = [drawn]  # some tools write a single polygon without its list
            category = values.whole(row.get("category_id"), "category_id", place)
            if category not in self.categories.by_official_id:
                raise values.refusal(category, "category_id", place, "one of its categories")
            is_crowd = values.flag(row.get("iscrowd", 0), "iscrowd", place)
            objects.setdefault(str(row["image_id"]), []).append(
                {"segmentation": drawn, "category_id": category, "iscrowd": is_crowd}
            )
        return objects


def _content(path: Path) -> dict[str, Any]:
    content = read_json(path)
    parts = ("images", "annotations", "categories")
    is_right = isinstance(content, dict) and all(isinstance(content.get(p), list) for p in parts)
    if not is_right or not all(isinstance(row, dict) for row in content["images"]):
        raise UserError(
            f"{path} is not a COCO instance file; give a JSON file with images, annotations and "
            "categories."
        )
    if any(isinstance(r, dict) and "segments_info" in r for r in content["annotations"][:1]):
        raise UserError(
            f"{path} is in COCO's panoptic format already; train on it with data=coco_format."
        )
    found: dict[str, Any] = content
    return found


def _named_categories(path: Path, content: dict[str, Any]) -> list[tuple[int, str]]:
    values = StrictValues(path)
    rows = []
    for number, row in enumerate(content["categories"], start=1):
        place = f"category {number}"
        if not isinstance(row, dict):
            raise UserError(f"{path}: {place} is not an object; export it anew.")
        official_id = values.whole(row.get("id"), "id", place)
        rows.append((official_id, values.text(row.get("name"), "name", place)))
    return rows


def _categories(
    listed: dict[int, str], things: Sequence[str] | None, rest: str | None, path: Path
) -> tuple[Categories, int | None]:
    """The classes, and the class id of the rest."""
    names = list(listed.values())
    for name in things or ():
        if name not in names:
            raise UserError(
                f"things=[...] names {name}, but {path} has the classes {', '.join(names)}."
            )
    if not listed:
        raise UserError(f"{path} lists no category; export it with its classes.")
    rows = [
        (number, name, things is None or name in things, spread_color(place))
        for place, (number, name) in enumerate(sorted(listed.items()))
    ]
    if rest is None:
        return contiguous_categories(rows), None
    known = next((number for number, name in listed.items() if name == rest), None)
    number = max(listed) + 1 if known is None else known
    rows = [row for row in rows if row[0] != number]
    categories = contiguous_categories([*rows, (number, rest, False, (110, 110, 110))])
    return categories, categories.by_official_id[number].class_id


def _below(file: Path, folders: Sequence[Path]) -> str:
    """The path of a photograph below the innermost folder that holds it."""
    path = file.resolve()
    roots = [folder.resolve() for folder in folders]
    holding = [root for root in roots if path.is_relative_to(root)]
    if not holding:  # through a link
        return file.name
    return path.relative_to(max(holding, key=lambda root: len(root.parts))).as_posix()
