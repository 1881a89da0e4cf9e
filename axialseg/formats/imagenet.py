"""ImageNet's own lists: names of the classes, and the classes of the validation images.

Two publications of the same data are read, where their files lie beside ``train/`` and ``val/``:
the official development kit (``ILSVRC2012_devkit_t12/data``: `meta.mat` and the ground truth as
numbers of its own, which are not the labels), and Kaggle's (``LOC_synset_mapping.txt`` and
``LOC_val_solution.csv``).
"""

import csv
from pathlib import Path

from scipy.io import loadmat

from axialseg.errors import UserError

DEVKIT = "ILSVRC2012_devkit_t12/data"
DEVKIT_CLASSES = f"{DEVKIT}/meta.mat"
DEVKIT_VALIDATION = f"{DEVKIT}/ILSVRC2012_validation_ground_truth.txt"
DEVKIT_IMAGE = "ILSVRC2012_val_{:08d}"
KAGGLE_CLASSES = "LOC_synset_mapping.txt"
KAGGLE_VALIDATION = "LOC_val_solution.csv"


def class_names(root: Path) -> dict[str, str]:
    """WordNet id -> the class's words, of whichever list there is; empty if there is none.

    Args:
        root: folder of the data set.

    Raises:
        UserError: the list cannot be read.
    """
    if (root / KAGGLE_CLASSES).is_file():
        lines = (line.partition(" ") for line in _lines(root / KAGGLE_CLASSES))
        return {wordnet_id: words for wordnet_id, _, words in lines}
    if (root / DEVKIT_CLASSES).is_file():
        return dict(_devkit_classes(root).values())
    return {}


def validation_classes(root: Path) -> dict[str, str]:
    """File name without its ending -> WordNet id, of each validation image; empty without a list.

    Args:
        root: folder of the data set.

    Raises:
        UserError: the list cannot be read.
    """
    if (root / KAGGLE_VALIDATION).is_file():
        rows = csv.DictReader(_lines(root / KAGGLE_VALIDATION))
        try:  # the class, and boxes after it
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
        except (KeyError, IndexError, AttributeError) as error:
            raise _unreadable(root / KAGGLE_VALIDATION) from error
    if (root / DEVKIT_VALIDATION).is_file():
        classes = _devkit_classes(root)
        try:
            numbers = [int(line) for line in _lines(root / DEVKIT_VALIDATION)]
            return {
                DEVKIT_IMAGE.format(place): classes[number][0]
                for place, number in enumerate(numbers, start=1)
            }
        except (ValueError, KeyError) as error:
            raise _unreadable(root / DEVKIT_VALIDATION) from error
    return {}


def _devkit_classes(root: Path) -> dict[int, tuple[str, str]]:
    """Number in the development kit -> (WordNet id, words) of the classes without sub-classes."""
    path = root / DEVKIT_CLASSES
    if not path.is_file():
        raise UserError(
            f"{path} does not exist, and the ground truth beside it has no meaning without it; "
            "unpack the whole development kit."
        )
    try:
        synsets = loadmat(path, squeeze_me=True, variable_names=["synsets"])["synsets"]
        return {
            int(synset["ILSVRC2012_ID"]): (str(synset["WNID"]), str(synset["words"]))
            for synset in synsets
            if int(synset["num_children"]) == 0
        }
    except Exception as error:  # damaged bytes can make it raise anything
        raise _unreadable(path) from error


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path) from error


def _unreadable(path: Path) -> UserError:
    return UserError(
        f"{path} cannot be read as ImageNet publishes it; unpack or download it again."
    )
