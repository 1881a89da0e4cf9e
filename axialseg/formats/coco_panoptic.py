"""Writing COCO's panoptic format: one JSON table of segments, and one PNG of ids for each image.

Source: the format page of cocodataset.org ("Panoptic Segmentation") and cocodataset/panopticapi.
The PNGs are those of `id_png.py`; `coco_annotations.py` reads the format.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from axialseg.errors import UserError
from axialseg.formats.id_png import ID_LIMIT, rgb_from_ids
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments, segments_from_panoptic_map


class CocoPanopticWriter:
    """Writes predictions as the official scorer and its server take them.

    `<folder>/predictions.json` and `<folder>/predictions/*.png`, with official category ids. All
    is written aside and put in place by `close`, so that a run that breaks off leaves an earlier
    result as it was. In a `with` statement it closes itself, unless an error occurs.

    Args:
        folder: made if it does not exist.
        categories: the classes of the predictions.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path, categories: Categories) -> None:
        self._folder = Path(folder)
        self._categories = categories
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._names: set[str] = set()
        with _writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._draft = Path(tempfile.mkdtemp(prefix=".predictions-", dir=self._folder))
            (self._draft / "predictions").mkdir()

    def write(
        self, panoptic_map: NDArray[np.integer], image_id: int | str, file_name: str | Path
    ) -> None:
        """Adds one image.

        Args:
            panoptic_map: ``[H, W]``, class * 65536 + instance, at the image's original size.
            image_id: as in the annotation file.
            file_name: the image's, below the folder of the images; the PNG is called by it.

        Raises:
            UserError: the file cannot be written.
        """
        segments = segments_from_panoptic_map(panoptic_map, self._categories.ignore_class)
        ids = color_like_ids(segments.class_ids, self._categories)
        file_name = str(below(str(file_name)))
        name = self._free_name(file_name)
        pixels = rgb_from_ids(np.array([0, *ids]))[segments.id_map]
        place = self._draft / "predictions" / name
        with _writing(self._folder):
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place, compress_level=3)
        image_id = image_id if isinstance(image_id, str) else int(image_id)
        height, width = panoptic_map.shape
        self._images.append(
            {"id": image_id, "file_name": file_name, "height": height, "width": width}
        )
        self._annotations.append(
            {
                "image_id": image_id,
                "file_name": name,
                "segments_info": segments_info(segments, ids, self._categories),
            }
        )

    def close(self) -> Path:
        """Puts the result in place of an earlier one; returns the JSON file."""
        table, pngs = self._folder / "predictions.json", self._folder / "predictions"
        content = {
            "images": self._images,
            "annotations": self._annotations,
            "categories": official_categories(self._categories),
        }
        with _writing(self._folder):
            (self._draft / table.name).write_text(json.dumps(content))
            # The JSON goes first and comes last: where it is, the PNGs are those that it lists.
            table.unlink(missing_ok=True)
            if pngs.exists():
                pngs.rename(self._draft / "earlier")
            (self._draft / pngs.name).rename(pngs)
            os.replace(self._draft / table.name, table)
        self.discard()
        return table

    def discard(self) -> None:
        """Throws away what was written since the start."""
        shutil.rmtree(self._draft, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.discard()

    def _free_name(self, file_name: str) -> str:
        """A PNG name not used yet; images of several suffixes may share their stem."""
        stem = str(below(file_name).with_suffix(""))
        name, number = f"{stem}.png", 1
        while name in self._names:
            number += 1
            name = f"{stem}_{number}.png"
        self._names.add(name)
        return name


def below(file_name: str) -> PurePosixPath:
    """The name of an image as one below any folder: what would lead out of it is left out."""
    parts = PurePosixPath(file_name.replace("\\", "/")).parts
    return PurePosixPath(*(part for part in parts if part.strip("/") not in ("", "..")))


def color_like_ids(class_ids: NDArray[np.int64], categories: Categories) -> list[int]:
    """One id per segment, unique, never 0, and as a colour near that of its class."""
    ids: dict[int, None] = {}
    for class_id in class_ids.tolist():
        red, green, blue = categories.by_class_id[class_id].color
        number = red + 256 * green + 65536 * blue
        while number == 0 or number in ids:
            number = (number + 0x0A0A0A) % ID_LIMIT  # each channel a little brighter
        ids[number] = None
    return list(ids)


def segments_info(
    segments: PanopticSegments, ids: list[int], categories: Categories
) -> list[dict[str, Any]]:
    """The official table of one image: id, category_id, iscrowd, bbox (x, y, w, h), area.

    Args:
        segments: every row has pixels.
        ids: id of each row in the PNG.
        categories: gives the official category ids.
    """
    boxes = ndimage.find_objects(segments.id_map)
    columns = zip(
        ids,
        segments.class_ids.tolist(),
        segments.is_crowd.tolist(),
        boxes,
        segments.areas().tolist(),
        strict=True,
    )
    return [
        {
            "id": number,
            "category_id": categories.by_class_id[class_id].official_id,
            "iscrowd": int(is_crowd),
            "bbox": [x.start, y.start, x.stop - x.start, y.stop - y.start],
            "area": area,
        }
        for number, class_id, is_crowd, (y, x), area in columns
    ]


def official_categories(categories: Categories) -> list[dict[str, Any]]:
    """The `categories` list of a panoptic JSON file."""
    return [
        {
            "id": category.official_id,
            "name": category.name,
            "supercategory": "thing" if category.is_thing else "stuff",
            "isthing": int(category.is_thing),
            "color": list(category.color),
        }
        for category in categories.classes
    ]


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); free space there or give another "
            "folder."
        ) from error
