"""Predictions in the formats of the official scorers and servers.

| format | files | taken by |
|---|---|---|
| `panoptic` | `predictions.json`, `predictions/*.png` | COCO, Cityscapes and Mapillary (panoptic) |
| `coco_instances` | `coco_instances.json` | COCO (instance segmentation) |
| `cityscapes_labels` | `cityscapes_labels/*.png` | Cityscapes (pixel level) |
| `cityscapes_instances` | `cityscapes_instances/*.txt`, masks | Cityscapes (instance level) |

An image's files are written under its number as soon as it is predicted, and get their names when
all are there. So no two images share a file, whichever process writes it. The draft stays whole
when its files are in place: an evaluation that ends after that may be done once more.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as rle

from axialseg.evaluation.image_score import plain_id
from axialseg.evaluation.unfinished import writing
from axialseg.formats.coco_panoptic import (
    below,
    color_like_ids,
    official_categories,
    segments_info,
    write_id_png,
)
from axialseg.machine.whole_file import whole_file
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments, segments_from_panoptic_map


class ExportedImage(NamedTuple):
    """What is exported of an image.

    Attributes:
        position: of the image in its data set.
        image_id: as in the official files.
        file_name: of the image.
        segments: predicted, at the image's own size.
        scores: float64 ``[P]`` of the segments.
        semantic: class ids ``[H, W]``.
    """

    position: int
    image_id: int | str
    file_name: str
    segments: PanopticSegments
    scores: NDArray[np.float64]
    semantic: NDArray[np.integer]

    @staticmethod
    def of(prediction: Any, categories: Categories) -> "ExportedImage":
        """Of an `axialseg.inference.predict.PanopticPrediction`."""
        return ExportedImage(
            prediction.position,
            prediction.image_id,
            prediction.file_name,
            segments_from_panoptic_map(prediction.panoptic, categories.ignore_class),
            prediction.scores(),
            prediction.semantic,
        )


class Export(Protocol):
    """A format."""

    def write(self, folder: Path, image: ExportedImage) -> Any:
        """Writes an image's files into a folder; gives what the format's tables say about it."""
        ...

    def finish(self, folder: Path, images: list[tuple[int, str, Any]]) -> list[str]:
        """Arranges all files.

        Args:
            folder: that `write` wrote into.
            images: number of each image, its distinct name, and what `write` gave.

        Returns:
            Names of the files and folders in `folder` that make up the result.
        """
        ...


class PanopticExport:
    """COCO's panoptic format, which Cityscapes and Mapillary have as well."""

    def __init__(self, categories: Categories) -> None:
        self.categories = categories

    def write(self, folder: Path, image: ExportedImage) -> Any:
        """See `Export`."""
        ids = color_like_ids(image.segments.class_ids, self.categories)
        write_id_png(folder / f"{image.position}.png", image.segments, ids)
        rows = segments_info(image.segments, ids, self.categories)
        for row, score in zip(rows, image.scores.tolist(), strict=True):
            row["score"] = score
        height, width = image.segments.id_map.shape
        facts = {"file_name": str(below(image.file_name)), "height": height, "width": width}
        return {"id": plain_id(image.image_id), **facts}, rows

    def finish(self, folder: Path, images: list[tuple[int, str, Any]]) -> list[str]:
        """See `Export`."""
        listed, annotations = [], []
        for index, name, (facts, rows) in images:
            _rename(folder / f"{index}.png", folder / "predictions" / f"{name}.png")
            listed.append(facts)
            annotations.append(
                {"image_id": facts["id"], "file_name": f"{name}.png", "segments_info": rows}
            )
        content = {"images": listed, "annotations": annotations}
        content["categories"] = official_categories(self.categories)
        _write_anew(folder / "predictions.json", json.dumps(content))
        return ["predictions", "predictions.json"]


class CocoInstancesExport:
    """COCO's list of detected instances: the things, run-length coded, with their scores."""

    def __init__(self, categories: Categories) -> None:
        self.categories = categories

    def write(self, folder: Path, image: ExportedImage) -> Any:
        """See `Export`."""
        rows = []
        for row, class_id, score in _things(image, self.categories):
            mask = rle.encode(np.asfortranarray(image.segments.id_map == row + 1, np.uint8))
            rows.append(
                {
                    "image_id": plain_id(image.image_id),
                    "category_id": self.categories.by_class_id[class_id].official_id,
                    "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()},
                    "score": score,
                }
            )
        return rows

    def finish(self, folder: Path, images: list[tuple[int, str, Any]]) -> list[str]:
        """See `Export`."""
        name = "coco_instances.json"
        _write_anew(folder / name, json.dumps([row for *_, rows in images for row in rows]))
        return [name]


class CityscapesLabelsExport:
    """Cityscapes' pixel-level results: a grey PNG of label ids for each image."""

    def __init__(self, categories: Categories) -> None:
        size = max(categories.semantic_channels, categories.ignore_class + 1)
        self.label = np.zeros(size, np.uint8)  # void is "unlabeled"
        for category in categories.classes:
            self.label[category.class_id] = category.official_id

    def write(self, folder: Path, image: ExportedImage) -> Any:
        """See `Export`."""
        Image.fromarray(self.label[image.semantic]).save(folder / f"{image.position}.png")

    def finish(self, folder: Path, images: list[tuple[int, str, Any]]) -> list[str]:
        """See `Export`."""
        for index, name, _ in images:
            _rename(folder / f"{index}.png", folder / "cityscapes_labels" / f"{name}.png")
        return ["cityscapes_labels"]


class CityscapesInstancesExport:
    """Cityscapes' instance-level results: a text file for each image, a PNG for each instance."""

    def __init__(self, categories: Categories) -> None:
        self.categories = categories

    def write(self, folder: Path, image: ExportedImage) -> Any:
        """See `Export`."""
        masks = folder / "cityscapes_instances" / "masks"
        masks.mkdir(parents=True, exist_ok=True)
        lines = []
        for row, class_id, score in _things(image, self.categories):
            name = f"{image.position}_{row}.png"
            mask = Image.fromarray(image.segments.id_map == row + 1)
            mask.save(masks / name)  # one bit a pixel
            label = self.categories.by_class_id[class_id].official_id
            lines.append(f"masks/{name} {label} {score!r}\n")
        return "".join(lines)

    def finish(self, folder: Path, images: list[tuple[int, str, Any]]) -> list[str]:
        """See `Export`."""
        for _, name, lines in images:
            target = folder / "cityscapes_instances" / f"{name}.txt"
            target.parent.mkdir(parents=True, exist_ok=True)
            up = "../" * name.count("/")
            _write_anew(target, lines.replace("masks/", f"{up}masks/"))
        return ["cityscapes_instances"]


FORMATS: dict[str, Callable[[Categories], Export]] = {
    "panoptic": PanopticExport,
    "coco_instances": CocoInstancesExport,
    "cityscapes_labels": CityscapesLabelsExport,
    "cityscapes_instances": CityscapesInstancesExport,
}


def distinct_names(file_names: Sequence[str]) -> list[str]:
    """A name without suffix for each image, in its folders; numbered where two have the same."""
    names: dict[str, None] = {}
    for file_name in file_names:
        stem = name = str(below(file_name).with_suffix(""))
        number = 1
        while name in names:
            number += 1
            name = f"{stem}_{number}"
        names[name] = None
    return list(names)


def put_in_place(draft: Path, output: Path, names: Sequence[str]) -> None:
    """Puts results of a draft in the place of earlier ones; the draft keeps them as well.

    Both are the same files where the disk knows links. Tables come last: where one is, the files
    are those that it lists.

    Raises:
        UserError: the folder cannot be written.
    """
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
        for name in reversed(names):
            if (output / name).is_dir():
                shutil.rmtree(output / name)
            else:
                (output / name).unlink(missing_ok=True)
        for name in names:
            if (draft / name).is_dir():
                shutil.copytree(draft / name, output / name, copy_function=_link)
            else:
                _link(draft / name, output / name)


def _link(source: str | Path, target: str | Path) -> None:
    """Gives a file a second name, or copies it where there are no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write_anew(path: Path, text: str) -> None:
    """Writes a new file, not into one that is in place already."""
    path.unlink(missing_ok=True)
    path.write_text(text)


def write_zip(path: Path, folder: Path, names: Sequence[str]) -> None:
    """Packs a result for upload, as the servers want it: table and folder bear the zip's name.

    Raises:
        UserError: the file cannot be written.
    """
    with (
        writing(path.parent),
        whole_file(path) as draft,
        zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name in names:
            inside = f"{path.stem}{(folder / name).suffix}"
            if (folder / name).is_file():
                archive.write(folder / name, inside, zipfile.ZIP_DEFLATED)
            for file in sorted((folder / name).rglob("*")):
                if file.is_file():
                    archive.write(file, f"{inside}/{file.relative_to(folder / name)}")


def _rename(source: Path, target: Path) -> None:
    """Gives a file its name, unless a process that was killed has done so."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.exists():
        source.rename(target)


def _things(image: ExportedImage, categories: Categories) -> list[tuple[int, int, float]]:
    """Row, class id and score of each predicted thing."""
    rows = zip(image.segments.class_ids.tolist(), image.scores.tolist(), strict=True)
    things = set(categories.thing_ids)
    return [
        (row, class_id, score) for row, (class_id, score) in enumerate(rows) if class_id in things
    ]
