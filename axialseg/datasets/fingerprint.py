"""Whether two runs had the same data, without reading all of them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from axialseg.errors import UserError

READ = 16  # samples; more would cost the start of a run its seconds


def fingerprint(dataset: Any) -> dict[str, Any]:
    """Facts that differ where data sets differ.

    Args:
        dataset: a reader with `categories`, a length and `read`.

    Returns:
        ``images``, their number, and ``fingerprint``, 16 hexadecimal digits over the classes, the
        bytes of the annotation file if there is one for all images, and 16 samples from all over
        the data set: names, pixels and annotation. A change in any other file goes unseen.
    """
    digest = hashlib.sha256(f"{len(dataset)} {dataset.categories!r}".encode())
    for file in _annotation_files(dataset):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    count = min(len(dataset), READ)
    for index in np.linspace(0, len(dataset) - 1, count).round().astype(int):
        try:
            sample = dataset.read(int(index))
        except UserError:  # training says which file is damaged, if it gets there
            digest.update(b"damaged")
            continue
        digest.update(Path(sample.file_name).name.encode())
        digest.update(np.ascontiguousarray(sample.image).tobytes())
        segments = getattr(sample, "segments", None)
        truth = getattr(sample, "label", None) if segments is None else segments.id_map.tobytes()
        digest.update(truth if isinstance(truth, bytes) else repr(truth).encode())
        if segments is not None:
            digest.update(repr(segments.class_ids.tolist()).encode())
    return {"images": len(dataset), "fingerprint": digest.hexdigest()[:16]}


def _annotation_files(dataset: Any) -> Iterator[Path]:
    """Those of the reader, or of the one below a change of classes or a split."""
    file = getattr(dataset, "annotation_file", None)
    if file is not None and Path(file).is_file():
        yield Path(file)
    for name in ("original", "whole"):
        below = getattr(dataset, name, None)
        if below is not None:
            yield from _annotation_files(below)
