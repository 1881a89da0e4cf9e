"""`data=shapes`: a small panoptic data set, generated once, read by the COCO reader.

On disk it has COCO's own layout and folder names (`train2017/`, `val2017/`,
`annotations/panoptic_{train,val}2017.json` and PNG folders), so that nothing after this file knows
that the images are painted. Images are PNG, not JPEG: lossless files do not depend on the version
of a JPEG library, and scenes of this size decode as fast. What a scene holds is in
`shape_scenes.py`.
"""

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from axialseg.datasets.coco import CocoPanoptic
from axialseg.datasets.generated.make_once import make_once
from axialseg.datasets.generated.shape_scenes import CATEGORIES, GENERATOR_VERSION, paint_scene
from axialseg.errors import UserError
from axialseg.formats.coco_panoptic import color_like_ids, official_categories, segments_info
from axialseg.formats.id_png import rgb_from_ids


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
        UserError: `root` holds other files or cannot be written, or `split` is unknown.
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

    Args:
        root: folder of the data set.
        seed: every image follows from it.
        images: image folder -> number of images.

    Raises:
        UserError: `root` holds files that are not ours, or cannot be written.
    """
    stamp = {"version": GENERATOR_VERSION, "seed": seed} | images

    def write(draft: Path) -> None:
        for split, (name, count) in enumerate(images.items()):
            _write_split(draft, name, [(seed, split, index) for index in range(count)])

    make_once(root, "shapes", stamp, write)


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
