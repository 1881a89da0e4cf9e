"""A tiny data set in ImageNet's layout."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

CLASSES = ("n01440764", "n02105855", "n15075141")
COLORS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))
TRAIN_IMAGES, VAL_IMAGES = 4, 2
# The development kit numbers the classes in an order of its own; their parents come after them.
DEVKIT_ORDER = (2, 0, 1)


def write_tree(root: Path, train_images: int = TRAIN_IMAGES, val_images: int = VAL_IMAGES) -> Path:
    """Noisy images in one colour a class; gives the root back."""
    for split, count in (("train", train_images), ("val", val_images)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                write_image(folder / f"{name}_{number}.JPEG", label, number)
    return root


def write_image(path: Path, label: int, number: int) -> None:
    rng = np.random.default_rng([label, number])
    size = (40 + 8 * (number % 2), 48)
    noise = rng.integers(-25, 25, (*size, 3))
    image = (np.array(COLORS[label]) + noise).clip(0, 255).astype(np.uint8)
    Image.fromarray(image).save(path, "JPEG", quality=95)


def flatten_val(root: Path) -> list[int]:
    """Moves the validation images into one folder with official names; gives their labels."""
    labels = []
    for number, path in enumerate(sorted((root / "val").glob("*/*")), start=1):
        labels.append(CLASSES.index(path.parent.name))
        path.rename(root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG")
    for name in CLASSES:
        (root / "val" / name).rmdir()
    return labels


def write_devkit(root: Path, labels: list[int]) -> None:
    """The development kit's files, as MATLAB writes them."""
    folder = root / "ILSVRC2012_devkit_t12/data"
    folder.mkdir(parents=True)
    names = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")
    rows = [
        (place + 1, CLASSES[label], f"name {label}, other name", "what it is", 0)
        for place, label in enumerate(DEVKIT_ORDER)
    ]
    rows.append((4, "n00000001", "all of them", "what it is", 3))
    savemat(
        folder / "meta.mat", {"synsets": np.array(rows, [(name, "O") for name in names])[:, None]}
    )
    numbers = [DEVKIT_ORDER.index(label) + 1 for label in labels]
    text = "".join(f"{number}\n" for number in numbers)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(text)


def write_kaggle(root: Path, labels: list[int]) -> None:
    """Kaggle's lists."""
    names = [f"{name} name {label}, other name\n" for label, name in enumerate(CLASSES)]
    (root / "LOC_synset_mapping.txt").write_text("".join(names))
    rows = [
        f"ILSVRC2012_val_{number:08d},{CLASSES[label]} 1 2 30 40 {CLASSES[label]} 5 6 7 8 \n"
        for number, label in enumerate(labels, start=1)
    ]
    text = "".join(["ImageId,PredictionString\n", *reversed(rows)])
    (root / "LOC_val_solution.csv").write_text(text)
