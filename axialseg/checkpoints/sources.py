"""What a user may name as a checkpoint: a file, a folder, an archive or a published name."""

import difflib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from axialseg.checkpoints.archive import extract_archive
from axialseg.checkpoints.own_weights import SUFFIXES, open_own_weights
from axialseg.checkpoints.published import (
    cache_folder,
    cached_checkpoint,
    published_checkpoints,
)
from axialseg.checkpoints.run_checkpoints import newest_checkpoint
from axialseg.checkpoints.stored_weights import StoredWeights
from axialseg.checkpoints.tensorflow.tensorflow_weights import open_tensorflow_weights
from axialseg.errors import UserError

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz")


@contextmanager
def opened_weights(source: str | Path, net: nn.Module) -> Iterator[StoredWeights]:
    """Opens what the user has named, for as long as the context lasts.

    Args:
        source: .ckpt, .pth or .safetensors; the folder of a run; a TensorFlow checkpoint by its
            prefix, one of its files, its folder or a .tar.gz; or the name of a published checkpoint
            in the cache.
        net: see `StoredWeights`.

    Raises:
        UserError: there is no such thing, or it is incomplete or damaged.
    """
    path = find_source(source)
    if path.is_file() and path.name.endswith(SUFFIXES):
        yield open_own_weights(path, net)
        return
    with unpacked(path) as folder:
        stored = open_tensorflow_weights(folder, net)
        yield stored._replace(source=str(path)) if is_archive(path) else stored


def find_source(source: str | Path) -> Path:
    """The path that is meant; nothing is downloaded.

    Args:
        source: see `opened_weights`.

    Raises:
        UserError: there is no such file and no such published checkpoint, or that is not in the
            cache.
    """
    path = Path(source).expanduser()
    if (path / "checkpoints").is_dir():
        newest = newest_checkpoint(path)
        if newest is None:
            raise UserError(f"{source} holds no checkpoint of a run; name a file")
        return newest
    if path.exists() or path.with_name(f"{path.name}.index").is_file():
        return path
    names = published_checkpoints()
    if str(source) in names:
        return cached_checkpoint(str(source), cache_folder())
    near = difflib.get_close_matches(str(source), names, n=1, cutoff=0.7)
    hint = f"did you mean the published {near[0]}?" if near else "correct its name"
    raise UserError(f"the checkpoint {source} does not exist; {hint}")


def is_archive(path: Path) -> bool:
    """Whether the name says that a file is a packed TensorFlow checkpoint."""
    return path.is_file() and path.name.endswith(ARCHIVE_SUFFIXES)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The folder with an archive's content while the context lasts; other paths are themselves.

    Args:
        path: archive, or anything else.

    Raises:
        UserError: the archive is damaged, or there is no room.
    """
    if not is_archive(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix=".axialseg-") as folder:
        target = Path(folder) / "checkpoint"
        extract_archive(path, target)
        yield target
