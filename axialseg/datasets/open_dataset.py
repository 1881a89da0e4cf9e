"""Opens a panoptic data set as the settings of `data` want it, for training and for the doctor."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from axialseg.datasets.changed_classes import ChangedDataset
from axialseg.errors import UserError
from axialseg.panoptic.class_changes import ClassChanges


def open_dataset(
    factory: Callable[..., Any],
    root: str | Path,
    classes: ClassChanges | None = None,
    apply_exif: bool = False,
    skip_invalid: bool = False,
) -> Any:
    """The data set under a root folder.

    Args:
        factory: opens it; takes `root`, and of the last two what its files know.
        root: folder of the data set.
        classes: changes them; None leaves them.
        apply_exif: turns photographs as their Exif data say.
        skip_invalid: leaves wrong images out.

    Raises:
        UserError: a file is missing, or the data set does not know an option that is set.
    """
    options = {"apply_exif": apply_exif, "skip_invalid": skip_invalid}
    wanted = {name: True for name, is_set in options.items() if is_set}
    known = inspect.signature(factory).parameters
    for name in wanted:
        if name not in known:
            target = getattr(factory, "func", factory)
            raise UserError(f"{target.__name__} does not know data.{name}; leave it out.")
    dataset = factory(root=Path(root).expanduser(), **wanted)
    return ChangedDataset(dataset, classes) if classes else dataset
