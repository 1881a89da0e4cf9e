"""The published checkpoints by name, and the folder where downloaded ones are kept."""

import difflib
from pathlib import Path
from typing import NamedTuple

import yaml

from axialseg.errors import UserError
from axialseg.machine.cache_folder import cache_folder as cache_folder  # its home for who downloads

TABLE_PATH = Path(__file__).with_name("published.yaml")


class PublishedCheckpoint(NamedTuple):
    """One row of `published.yaml`.

    Attributes:
        name: Name of the archive without its ending.
        url: Address of the archive, a .tar.gz with a TensorFlow checkpoint.
        model: Our configuration of the model; for a pre-trained backbone, one that uses it.
        data: Our configuration of the data set that it was trained on.
        output_stride: Output stride of the backbone; None for a pre-trained backbone.
        input_size: Height and width in pixels that `pq` was measured at; None as above.
        pq: Panoptic quality in % on the validation set; None as above.
        weights_mb: Size of the weights in float32; an archive that holds the state of the optimiser
            too is three times as large. The authors do not publish the size of the archives.
        source: Page of the deeplab2 repository that gives the address and the number.
        experiment: Our experiment of that row, with its crop and thresholds; None if there is none.
    """

    name: str
    url: str
    model: str
    data: str
    output_stride: int | None
    input_size: tuple[int, int] | None
    pq: float | None
    weights_mb: int
    source: str
    experiment: str | None = None


def published_checkpoints() -> dict[str, PublishedCheckpoint]:
    """Reads the table of published checkpoints, by name."""
    table = yaml.safe_load(TABLE_PATH.read_text(encoding="utf-8"))
    checkpoints = {}
    for name, row in table.items():
        size = row.pop("input_size")
        checkpoints[name] = PublishedCheckpoint(
            name=name, input_size=(size[0], size[1]) if size else None, **row
        )
    return checkpoints


def published_checkpoint(name: str) -> PublishedCheckpoint:
    """Looks up a published checkpoint.

    Raises:
        UserError: There is none of that name.
    """
    checkpoints = published_checkpoints()
    if name not in checkpoints:
        nearest = difflib.get_close_matches(name, checkpoints, n=3, cutoff=0.3)
        names = ", ".join(nearest or sorted(checkpoints))
        raise UserError(f"There is no published checkpoint {name!r}; choose one of: {names}.")
    return checkpoints[name]


def cached_checkpoint(name: str, cache_dir: Path) -> Path:
    """Returns the converted file of a published checkpoint that was downloaded before.

    Raises:
        UserError: There is no published checkpoint of that name, or it is not in the cache.
    """
    path = converted_path(published_checkpoint(name).name, cache_dir)
    if not path.is_file():
        raise UserError(
            f"The published checkpoint {name} is not in {cache_dir}; "
            f"fetch it with `python -m axialseg download {name}`."
        )
    return path


def converted_path(name: str, cache_dir: Path) -> Path:
    """Returns where the converted file of a published checkpoint belongs in the cache."""
    return cache_dir / f"{name}.safetensors"
