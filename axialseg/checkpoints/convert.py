"""TensorFlow checkpoints into .safetensors with our names and layouts."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from axialseg.checkpoints.load_report import LoadReport, compare
from axialseg.checkpoints.own_weights import STEPS, write_safetensors
from axialseg.checkpoints.tensorflow.tensor_bundle import find_prefix
from axialseg.checkpoints.tensorflow.tensorflow_weights import open_tensorflow_weights
from axialseg.errors import UserError

_BLOCK_BYTES = 1 << 20


def convert(path: Path, output: Path, net: nn.Module, facts: Mapping[str, str]) -> LoadReport:
    """Converts one checkpoint; the output appears only when it is complete.

    The file's metadata are `facts`, ``source_sha256`` (of the checkpoint's files, the index first),
    ``global_step`` and ``sha256`` (`digest` of the tensors, compared whenever they are read).

    Args:
        path: Prefix, file or folder of the TensorFlow checkpoint.
        output: File to write.
        net: The model of the checkpoint; its weights may be on the meta device.
        facts: What else to note in the file, for instance where the checkpoint is from.

    Returns:
        What was converted, what the model has beyond it, and what was not converted.

    Raises:
        UserError: The checkpoint is damaged or is not of this model, or the output cannot be
            written.
    """
    stored = open_tensorflow_weights(path, net)
    report = compare({name: tuple(value.shape) for name, value in net.state_dict().items()}, stored)
    differing = [name for name in report.initialised if name in stored.tensors]
    if differing:
        raise UserError(
            f"{stored.source} is of another number of classes than the model ({differing[0]}); "
            "choose the model that it was made with"
        )
    tensors = {name: stored.tensors[name].read() for name in report.loaded}
    metadata = {
        "format": "pt",
        **facts,
        "source_sha256": _sha256_of_files(find_prefix(path)),
        STEPS: str(stored.steps),
    }
    write_safetensors(tensors, output, metadata)
    return report


def _sha256_of_files(prefix: Path) -> str:
    """As of ``cat <prefix>.index <prefix>.data-* | sha256sum``."""
    total = hashlib.sha256()
    shards = sorted(prefix.parent.glob(f"{prefix.name}.data-*"))
    for file in [prefix.with_name(f"{prefix.name}.index"), *shards]:
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                total.update(block)
    return total.hexdigest()
