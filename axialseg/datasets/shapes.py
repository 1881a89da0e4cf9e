"""`data=shapes`: a small panoptic data set, generated once, read by the COCO reader.

On disk it has COCO's own layout and folder names (`train2017/`, `val2017/`,
`annotations/panoptic_{train,val}2017.json` and PNG folders), so that nothing after this file knows
that the images are painted. Images are PNG, not JPEG: lossless files do not depend on the version
of a JPEG library, and scenes of this size decode as fast. What a scene holds is in
`shape_scenes.py`.
"""

import json
import logging
import tempfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from axialseg.datasets.coco import CocoPanoptic
from axialseg.datasets.file_lock import file_lock
from axialseg.datasets.shape_scenes import CATEGORIES, GENERATOR_VERSION, paint_scene
from axialseg.errors import UserError
from axialseg.formats.coco_panoptic import color_like_ids, official_categories, segments_info
from axialseg.formats.id_png import rgb_from_ids

STAMP = "shapes.json"
MADE_BY = "axialseg shapes"

log = logging.getLogger(__name__)


def shapes_panoptic(
    root: str | Path, split: str, seed: int = 0, train_images: int = 512, val_images: int = 64
) -> CocoPanoptic:
    """The training or validation half of the generated data, written to `root` if it is not there.

    Args:
        root: folder of the data set; it must not exist, be empty, or be an earlier one of ours.
        split: `train` or `val`.
        seed: every image follows from it.
        train_images: number of training images.
        val_images: number of validation images.

    Raises:
        UserError: `root` holds other files or can not be written, or `split` is unknown.
    """
    if split not in ("train", "val"):
        raise UserError(f"data=shapes has no split '{split}'; use train or val.")
    generate_shapes(Path(root), seed, {"train2017": train_images, "val2017": val_images})
    return CocoPanoptic(
        root,
        image_folder=f"{split}2017",
        annotation_file=f"annotations/panoptic_{split}2017.json",
        panoptic_folder=f"annotations/panoptic_{split}2017",
        categories=CATEGORIES,
    )


def generate_shapes(root: Path, seed: int, images: dict[str, int]) -> None:
    """Makes sure that `root` holds the data of this seed, size and generator version.

    All is written to a folder beside `root`, which is renamed at the end, so that `root` is never
    half full. Of several processes that start together one does the work and the others wait.

    Args:
        root: folder of the data set.
        seed: every image follows from it.
        images: image folder -> number of images.

    Raises:
        UserError: `root` holds files that are not ours, or can not be written.
    """
    stamp = {"made_by": MADE_BY, "version": GENERATOR_VERSION, "seed": seed} | images
    if _stamp_of(root) == stamp:
        return
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(root.parent / f".{root.name}.lock"):
            if _stamp_of(root) != stamp:
                _refuse_foreign(root)
                log.info("Generating the shapes data set in %s", root)
                _replace(root, seed, images, stamp)
    except OSError as error:
        raise UserError(
            f"{root} can not be written ({error.strerror}); give a writable folder with data.root."
        ) from error


def _replace(root: Path, seed: int, images: dict[str, int], stamp: dict[str, object]) -> None:
    """Writes the data set aside, then puts it in place of whatever is at `root`."""
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as folder:
        draft = Path(folder) / "new"
        draft.mkdir()
        for split, (name, count) in enumerate(images.items()):
            _write_split(draft, name, [(seed, split, index) for index in range(count)])
        (draft / STAMP).write_text(json.dumps(stamp))
        if root.exists():
            root.rename(Path(folder) / "outdated")
        draft.rename(root)


def _stamp_of(root: Path) -> dict[str, object] | None:
    """The stamp of a finished data set of ours, else None."""
    try:
        stamp = json.loads((root / STAMP).read_text())
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) and stamp.get("made_by") == MADE_BY else None


def _refuse_foreign(root: Path) -> None:
    """Raises a UserError if something is at `root` that must not be replaced."""
    is_free = not root.exists() or (root.is_dir() and not any(root.iterdir()))
    if not is_free and _stamp_of(root) is None:
        raise UserError(
            f"{root} holds files that data=shapes did not write; give another folder as data.root."
        )


def _write_split(root: Path, folder: str, keys: list[tuple[int, int, int]]) -> None:
    """Writes one image folder with its annotations; a key seeds the scene of the same place."""
    name = f"panoptic_{folder}"
    (root / folder).mkdir()
    (root / "annotations" / name).mkdir(parents=True)
    images, annotations = [], []
    for number, key in enumerate(keys, start=1):
        image, segments = paint_scene(np.random.default_rng(key))
        ids = color_like_ids(segments.class_ids, CATEGORIES)
        file_name = f"{number:012d}.png"
        _write_png(root / folder / file_name, image)
        colors = rgb_from_ids(np.array([0, *ids]))
        _write_png(root / "annotations" / name / file_name, colors[segments.id_map])
        height, width = segments.id_map.shape
        images.append({"id": number, "file_name": file_name, "height": height, "width": width})
        annotations.append(
            {
                "image_id": number,
                "file_name": file_name,
                "segments_info": segments_info(segments, ids, CATEGORIES),
            }
        )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": official_categories(CATEGORIES),
    }
    (root / "annotations" / f"{name}.json").write_text(json.dumps(content))


def _write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Writes an RGB image ``[H, W, 3]``; raises OSError if the file system refuses."""
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))
    path.write_bytes(encoded.tobytes())
