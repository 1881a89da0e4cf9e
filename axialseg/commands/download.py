"""`python -m axialseg download <name>`: a published checkpoint into the cache, converted."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from axialseg.checkpoints.published import (
    PublishedCheckpoint,
    cache_folder,
    converted_path,
    published_checkpoint,
    published_checkpoints,
)
from axialseg.commands.command_line import run_tool
from axialseg.commands.invocation import invocation
from axialseg.config.compose import compose_shipped
from axialseg.config.experiment_head import experiment_head
from axialseg.config.schema import conf_dir
from axialseg.errors import UserError
from axialseg.visualization.text_table import text_table

USAGE = "python -m axialseg download <name>"
SUMMARY = (
    "Fetches a published checkpoint, verifies it and keeps it; without a name, lists them all."
)
EXAMPLES = (
    "python -m axialseg download",
    "python -m axialseg download max_deeplab_s_os16_res641_100k_coco_train",
    "python -m axialseg download axial_swidernet_1_1_1_os16_axial_deeplab_cityscapes_trainfine",
)
KERNEL_DIMENSIONS = 4


def main() -> None:
    """The command."""
    if len(sys.argv) == 1:
        print(_table(cache_folder()))
    else:
        run_tool(download, SUMMARY, USAGE, EXAMPLES)


def download(arguments: list[str]) -> None:
    """Fetches, verifies, converts and keeps one checkpoint; without a name, lists them all.

    Args:
        arguments: the name.

    Raises:
        UserError: there is no such checkpoint, it cannot be fetched, or is damaged.
    """
    if len(arguments) > 1:
        raise UserError(f"one checkpoint at a time: {USAGE}")
    checkpoint = published_checkpoint(arguments[0])
    fetch_published(checkpoint.name)
    name, model = checkpoint.name, " ".join(_overrides(checkpoint))
    print(f"to start from it:  {invocation('train')} {model} model.initial_checkpoint={name}")
    if checkpoint.pq is not None:
        chosen = f"{model} data={checkpoint.data}"
        if checkpoint.experiment is not None:
            chosen = " ".join([f"experiments={checkpoint.experiment}", *_of_its_row(checkpoint)])
        print(f"to evaluate it:    {invocation('evaluate')} ckpt={name} {chosen}")


def fetch_published(name: str) -> None:
    """Brings a published checkpoint into the cache; says how large it is before it starts.

    Args:
        name: of the checkpoint.

    Raises:
        UserError: see `download`.
    """
    checkpoint = published_checkpoint(name)
    convert = _convert_with(checkpoint)

    from axialseg.checkpoints.download import download as download_checkpoint

    download_checkpoint(name, cache_folder(), convert, partial(print, flush=True))


def refuse_other_model(name: str, model: DictConfig) -> None:
    """Refuses a checkpoint that is not of the user's network, before gigabytes are fetched.

    Args:
        name: of the published checkpoint.
        model: config that the checkpoint is to be loaded into.

    Raises:
        UserError: its network has other parameters.
    """
    # Only now: torch takes seconds.
    from axialseg.build import build_net_on_meta

    checkpoint = published_checkpoint(name)
    published = OmegaConf.create(compose_shipped(_overrides(checkpoint))["model"])
    # Position tables may have another length, and the number of classes is not known yet.
    theirs, ours = (
        {
            key: value.shape if value.dim() == KERNEL_DIMENSIONS else None
            for key, value in build_net_on_meta(config, 2, 2).state_dict().items()
        }
        for config in (published, model)
    )
    if theirs != ours:
        raise UserError(
            f"the published checkpoint {name} is of model={checkpoint.model}, and the network of "
            f"this command is another one; give model={checkpoint.model} or another checkpoint "
            "(`python -m axialseg download` lists them)"
        )


def _of_its_row(checkpoint: PublishedCheckpoint) -> tuple[str, ...]:
    """What the command line adds to the experiment for this checkpoint."""
    file = conf_dir().parent / "experiments" / f"{checkpoint.experiment}.yaml"
    head = experiment_head(file)
    rows = head.expected if head else ()
    return next((row.overrides for row in rows if row.ckpt == checkpoint.name), ())


def _overrides(checkpoint: PublishedCheckpoint) -> list[str]:
    """The configuration of the model."""
    stride = checkpoint.output_stride
    dilated = [] if stride is None else [f"model.backbone.output_stride={stride}"]
    return [f"model={checkpoint.model}", *dilated]


def _convert_with(checkpoint: PublishedCheckpoint) -> Callable[[Path, Path], None]:
    """Its model is composed before gigabytes are fetched."""
    # Not as a command composes: an evaluation is within a job of Hydra's already.
    model = OmegaConf.create(compose_shipped(_overrides(checkpoint))["model"])
    return partial(_convert, checkpoint, model)


def _convert(
    checkpoint: PublishedCheckpoint, model: DictConfig, prefix: Path, output: Path
) -> None:
    # Only now: torch takes seconds.
    from axialseg.build import build_net_on_meta
    from axialseg.checkpoints.convert import convert
    from axialseg.checkpoints.tensorflow.tensorflow_weights import head_channels

    net = build_net_on_meta(model, *head_channels(prefix))
    print(convert(prefix, output, net, {"source": checkpoint.url, "model": checkpoint.model}))


def _table(cache_dir: Path) -> str:
    """Name, model, data, expected PQ and whether it is there, one row each."""
    rows = [("name", "model", "data", "PQ %", "in the cache")]
    for row in published_checkpoints().values():
        there = "yes" if converted_path(row.name, cache_dir).is_file() else ""
        pq = "" if row.pq is None else f"{row.pq:.1f}"
        rows.append((row.name, row.model, row.data, pq, there))
    return text_table(rows, left=len(rows[0]))
