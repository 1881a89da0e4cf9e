"""`data=patterns`: a small data set of ten classes in ImageNet's layout, generated once.

On disk it is ``train/<class>/*.JPEG`` and ``val/<class>/*.JPEG``, read by ImageNet's reader. What
an image shows is in `pattern_images.py`.
"""

from pathlib import Path

import cv2
import numpy as np

from axialseg.datasets.generated.make_once import make_once
from axialseg.datasets.generated.pattern_images import GENERATOR_VERSION, PATTERNS, paint_pattern
from axialseg.datasets.imagenet import ImageNet
from axialseg.errors import UserError

JPEG_QUALITY = 95


def patterns_imagenet(
    root: str | Path, split: str, seed: int = 0, train_images: int = 300, val_images: int = 50
) -> ImageNet:
    """The training or validation half of the generated data, written to `root` if it is not there.

    Args:
        root: folder of the data set; it must not exist, be empty, or be an earlier one of ours.
        split: `train` or `val`.
        seed: every image follows from it.
        train_images: number of training images of each class.
        val_images: number of validation images of each class.

    Raises:
        UserError: `root` holds other files or cannot be written, or `split` is unknown.
    """
    images = {"train": train_images, "val": val_images}
    if split not in images:
        raise UserError(f"data=patterns has no split '{split}'; use train or val.")

    def write(draft: Path) -> None:
        for number, (name, count) in enumerate(images.items()):
            for label, pattern in enumerate(PATTERNS):
                keys = [(seed, number, label, index) for index in range(count)]
                _write_class(draft / name / pattern, pattern, keys)

    facts = {"version": GENERATOR_VERSION, "seed": seed} | images
    make_once(Path(root), "patterns", facts, write)
    return ImageNet(root, split)


def _write_class(folder: Path, pattern: str, keys: list[tuple[int, int, int, int]]) -> None:
    """Writes a class's images; a key seeds the image of the same place."""
    folder.mkdir(parents=True)
    for number, key in enumerate(keys):
        image = paint_pattern(pattern, np.random.default_rng(key))
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        _, encoded = cv2.imencode(".JPEG", np.ascontiguousarray(image[..., ::-1]), options)
        (folder / f"{pattern}_{number:05d}.JPEG").write_bytes(encoded.tobytes())
