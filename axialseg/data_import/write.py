"""Writes a source as a data set in COCO panoptic format, as `data=coco_format` reads it.

Exif: photographs that are stored turned are written upright, because annotation tools show them so;
as stored if the annotation has that size and not the upright one. Either way the pixels are written
as PNG without Exif data. All other photographs are copied as they are.
"""

import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from axialseg.data_import.source import Source, SourceImage
from axialseg.datasets.image_file import UPRIGHT, exif_orientation, pixels_of
from axialseg.errors import UserError
from axialseg.formats.coco_panoptic import (
    below,
    color_like_ids,
    official_categories,
    segments_info,
)
from axialseg.formats.damaged_image import image_reading
from axialseg.formats.id_png import rgb_from_ids
from axialseg.formats.whole_file import read_file
from axialseg.panoptic.panoptic_map import PanopticSegments

TURNED = "photographs turned upright by their Exif data"
KEPT = "photographs with Exif data that turn them, kept as stored like their annotation"
OTHER_SIZE = "photographs of another size than their annotation, left out"
DAMAGED = "photographs that cannot be read, left out"
NOTHING = "images without any segment, left out"
SPLITS = ("train", "val")
REPORT = "import_report.json"

Say = Callable[[str], object]


class _Photograph(NamedTuple):
    """A photograph to be written: its bytes as they are, or its pixels."""

    content: bytes | None
    pixels: NDArray[np.uint8] | None
    size: tuple[int, int]


def write_panoptic(
    source: Source, folder: Path, val_share: float, seed: int, say: Say
) -> dict[str, int]:
    """Writes everything, or nothing.

    Args:
        source: what is imported.
        folder: of the result; must not exist, or be empty.
        val_share: share of the images for validation, where the source has no splits.
        seed: of the choice.
        say: is told how far it is.

    Returns:
        Number of images of each split.

    Raises:
        UserError: the folder is in use or cannot be written, or nothing is left to write.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty; give a new folder as to=<folder>.")
    with _draft(folder) as draft:
        counts = source.counts
        written: dict[str, list[tuple[SourceImage, dict[str, Any]]]] = {s: [] for s in SPLITS}
        names: set[str] = set()
        splits = _splits(source, val_share, seed)
        for index, image in enumerate(source.images):
            if index and index % 200 == 0:
                say(f"{index:,} of {len(source.images):,} images")
            photograph = _photograph(image, counts)
            if photograph is None:
                continue
            segments = source.segments(index, photograph.size)
            if segments is None or not len(segments.class_ids):
                counts[NOTHING if segments is not None else OTHER_SIZE] += 1
                continue
            name = _free_name(image.name, photograph.content is None, names)
            split = splits[index]
            row = _write_image(draft, split, name, photograph, segments, source)
            written[split].append((image, row))
        if not any(written.values()):
            told = "; ".join(f"{count} {what}" for what, count in counts.items() if count)
            raise UserError(f"no image is left to import: {told}.")
        for split, rows in written.items():
            if rows:
                _write_table(draft, split, [row for _, row in rows], source)
        totals = {split: len(rows) for split, rows in written.items()}
        report = {"images": totals, "decided": {k: v for k, v in counts.items() if v}}
        (draft / REPORT).write_text(json.dumps(report, indent=1), encoding="utf-8")
    return totals


@contextmanager
def _draft(folder: Path) -> Any:
    """A folder beside the result's place, which takes that place at the end."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); give another folder as to=<folder>."
        ) from error
    try:
        yield draft
        draft.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        draft.rename(folder)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); free space there or give another "
            "folder as to=<folder>."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _splits(source: Source, val_share: float, seed: int) -> list[str]:
    """Split of each image: its own, or drawn."""
    images = source.images
    free = [index for index, image in enumerate(images) if image.split is None]
    count = round(val_share * len(free))
    if val_share > 0 and len(free) > 1:
        count = min(max(count, 1), len(free) - 1)
    chosen = set(random.Random(seed).sample(free, count))
    return [image.split or SPLITS[index in chosen] for index, image in enumerate(images)]


def _photograph(image: SourceImage, counts: Counter[str]) -> _Photograph | None:
    """What is to be written of a photograph; None leaves it out."""
    place = image.file or Path(image.name)
    try:
        with image_reading(place, "the images"):
            content = read_file(place) if image.content is None else image.content
            with Image.open(BytesIO(content)) as picture:
                stored = picture.height, picture.width
        orientation = exif_orientation(place, content)
        if orientation == UPRIGHT:
            if image.size not in (None, stored):
                counts[OTHER_SIZE] += 1
                return None
            return _Photograph(content, None, stored)
        upright = stored[::-1] if orientation > 4 else stored
        is_stored = image.size == stored != upright
        if image.size not in (None, stored, upright):
            counts[OTHER_SIZE] += 1
            return None
        counts[KEPT if is_stored else TURNED] += 1
        with image_reading(place, "the images"):
            pixels = pixels_of(content, apply_exif=not is_stored)
        return _Photograph(None, pixels, stored if is_stored else upright)
    except UserError:
        counts[DAMAGED] += 1
        return None


def _free_name(name: str, as_png: bool, names: set[str]) -> str:
    """A name below the folder of the images that no other has, also not for its id PNG."""
    path = below(name)
    suffix = ".png" if as_png else path.suffix
    stem, number = str(path.with_suffix("")), 1
    free = stem
    while free in names:
        number += 1
        free = f"{stem}_{number}"
    names.add(free)
    return f"{free}{suffix}"


def _write_image(
    draft: Path,
    split: str,
    name: str,
    photograph: _Photograph,
    segments: PanopticSegments,
    source: Source,
) -> dict[str, Any]:
    """Writes a photograph and its id PNG; gives its rows of the table."""
    ids = color_like_ids(segments.class_ids, source.categories)
    colors = rgb_from_ids(np.array([0, *ids]))[segments.id_map]
    png = str(PurePosixPath(name).with_suffix(".png"))
    image_file = draft / f"{split}2017" / name
    png_file = draft / "annotations" / f"panoptic_{split}2017" / png
    for file in (image_file, png_file):
        file.parent.mkdir(parents=True, exist_ok=True)
    if photograph.content is not None:
        image_file.write_bytes(photograph.content)
    elif photograph.pixels is not None:
        Image.fromarray(photograph.pixels).save(image_file)
    Image.fromarray(colors).save(png_file)
    height, width = photograph.size
    return {
        "image": {"file_name": name, "height": height, "width": width},
        "annotation": {
            "file_name": png,
            "segments_info": segments_info(segments, ids, source.categories),
        },
    }


def _write_table(draft: Path, split: str, rows: list[dict[str, Any]], source: Source) -> None:
    numbered = list(enumerate(rows, start=1))
    content = {
        "images": [{"id": n} | row["image"] for n, row in numbered],
        "annotations": [{"image_id": n} | row["annotation"] for n, row in numbered],
        "categories": official_categories(source.categories),
    }
    file = draft / "annotations" / f"panoptic_{split}2017.json"
    file.write_text(json.dumps(content), encoding="utf-8")
