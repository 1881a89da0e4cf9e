"""`python -m axialseg convert`: a TensorFlow checkpoint into .safetensors with our names."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from axialseg.commands.command_line import compose_config, run_tool
from axialseg.config.mistakes import choices
from axialseg.errors import UserError

if TYPE_CHECKING:
    from torch import nn

USAGE = (
    "python -m axialseg convert <checkpoint or .tar.gz> <output>.safetensors "
    "[model=<name> key=value ...]"
)
SUMMARY = "Converts a TensorFlow checkpoint of deeplab2; TensorFlow is not needed."
EXAMPLES = (
    "python -m axialseg convert ckpt-60000 weights.safetensors",
    "python -m axialseg convert archive.tar.gz weights.safetensors",
    "python -m axialseg convert ckpt-60000 weights.safetensors model=max_deeplab_s",
)


class Candidate(NamedTuple):
    """A model that a checkpoint may be of.

    Attributes:
        name: its configuration.
        net: names and shapes, without memory for weights.
    """

    name: str
    net: "nn.Module"


def main() -> None:
    """The command."""
    run_tool(convert, SUMMARY, USAGE, EXAMPLES)


def convert(arguments: list[str]) -> None:
    """Converts one checkpoint.

    Args:
        arguments: the checkpoint, the output, and the model's configuration; without it, the model
            is found by the names and shapes of the variables.

    Raises:
        UserError: a wrong argument, file or model.
    """
    if len(arguments) < 2 or not arguments[1].endswith(".safetensors"):
        raise UserError(f"say what to convert, and to which file: {USAGE}")
    source, output, overrides = Path(arguments[0]), Path(arguments[1]), arguments[2:]
    chosen = any(line.startswith("model=") for line in overrides)
    if overrides and not chosen:
        raise UserError(f"{overrides[0]} needs the name of the model too: {USAGE}")

    # Only now: torch takes seconds, and a wrong command line shall not wait for it.
    from axialseg.checkpoints.convert import convert as convert_checkpoint
    from axialseg.checkpoints.sources import find_source, unpacked
    from axialseg.checkpoints.tensorflow.tensorflow_weights import head_channels

    with unpacked(find_source(source)) as path:
        channels = head_channels(path)
        candidate = _candidate(overrides, channels) if chosen else find_model(path, channels)
        facts = {"source": source.name, "model": candidate.name}
        details = [line for line in overrides if not line.startswith("model=")]
        if details:
            facts["overrides"] = " ".join(details)
        report = convert_checkpoint(path, output, candidate.net, facts)
    print(f"model={candidate.name}\n{report}\nwritten: {output}")


def find_model(path: Path, channels: tuple[int, int | None]) -> Candidate:
    """The shipped model whose names and shapes are those of a TensorFlow checkpoint.

    Args:
        path: prefix, file or folder of the checkpoint.
        channels: of its heads, see `head_channels`.

    Raises:
        UserError: there is none.
    """
    from axialseg.checkpoints.load_report import compare
    from axialseg.checkpoints.tensorflow.tensorflow_weights import open_tensorflow_weights

    misfits = {}
    for name in choices("model"):
        try:
            candidate = _candidate([f"model={name}"], channels)
            own = {name: tuple(value.shape) for name, value in candidate.net.state_dict().items()}
            stored = open_tensorflow_weights(path, candidate.net)
            report = compare(own, stored)
        except UserError:  # another model, or a configuration that is still wrong
            continue
        misfits[candidate] = len(report.initialised) + len(stored.unknown)
    if not misfits:
        raise UserError(f"{path} is of no shipped model; say model=<name> and what differs from it")
    return min(misfits, key=lambda candidate: misfits[candidate])


def _candidate(overrides: list[str], channels: tuple[int, int | None]) -> Candidate:
    from axialseg.build import build_net_on_meta

    model = compose_config("convert", overrides).model
    return Candidate(model.name, build_net_on_meta(model, *channels))
