"""The checkpoints in the folder of a run, and their checksums, compared before they are read.

A file of `torch.save` is a zip archive with a checksum for each tensor. Neither torch nor Lightning
compares them, so training would go on with a flipped bit. `check_whole` compares them.
"""

import logging
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from axialseg.errors import UserError

log = logging.getLogger(__name__)

LAST = "last.ckpt"


def load_plain(path: Path, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """What `torch.save` has written, as long as it is tensors and plain values.

    Raises:
        UserError: the file is damaged or holds anything else.
    """
    try:
        content = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" not in str(error):
            raise UserError(f"{path} is damaged; copy it again") from None
        raise UserError(
            f"{path} is refused: it holds more than tensors and plain values, and reading such a "
            "file can run code of whoever made it; name a checkpoint that this program has written"
        ) from None
    except Exception:  # damaged bytes can make unpickling raise anything
        raise UserError(f"{path} is damaged; copy it again") from None
    return content if isinstance(content, dict) else {}


def check_whole(path: Path) -> None:
    """Reads the whole file and compares its checksums.

    Raises:
        UserError: it is missing, truncated or damaged.
    """
    if not path.is_file():
        raise UserError(f"the checkpoint {path} does not exist; correct its name")
    try:
        with zipfile.ZipFile(path) as archive:
            # torch compresses nothing: what is compressed may be a bomb.
            is_plain = all(m.compress_type == zipfile.ZIP_STORED for m in archive.infolist())
            is_whole = is_plain and archive.testzip() is None
    except Exception:  # damaged bytes can make zipfile raise many things
        is_whole = False
    if not is_whole:
        raise UserError(f"{path} is not a whole checkpoint: it is truncated or damaged")


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that a run's folder goes on from, or is evaluated with.

    This is `last.ckpt`. Where that is lost or damaged, as after a copy without links, it is the
    newest whole `step_<n>.ckpt`, and a warning says so.

    Args:
        folder: of the run.

    Returns:
        The file; None if there is no checkpoint at all.

    Raises:
        UserError: there are checkpoints, but none is whole.
    """
    place = folder / "checkpoints"
    last = place / LAST
    steps = step_files(place)
    if last.is_file():
        steps = [file for file in steps if not file.samefile(last)]
    elif steps:
        log.warning("%s is missing or no file; %s is read in its place", last, steps[0])
    elif not os.path.lexists(last):
        return None
    reasons = []
    for file in [last] * last.is_file() + steps:
        try:
            check_whole(file)
        except UserError as error:
            reasons.append(str(error))
        else:
            if reasons:
                log.warning("%s; %s is read in its place", "; ".join(reasons), file)
            return file
    reason = "; ".join(reasons) or f"{last} is a broken link or no file"
    raise UserError(
        f"{place} holds no checkpoint that can be read: {reason}. Copy it again, or move this "
        "folder away to start from step 0."
    )


def step_files(place: Path) -> list[Path]:
    """The files `step_<n>.ckpt` of a folder, the largest step first."""
    files = [file for file in place.glob("step_*.ckpt") if re.fullmatch(r"step_\d+", file.stem)]
    return sorted(files, key=step_of, reverse=True)


def step_of(file: Path) -> int:
    """The n of `step_<n>.ckpt`."""
    return int(file.stem.removeprefix("step_"))
