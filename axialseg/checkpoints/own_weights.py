"""Reads our own weights: checkpoints of runs (.ckpt), plain state dicts (.pth) and .safetensors.

Only tensors are read (`weights_only=True`): a checkpoint from a stranger cannot run code.
"""

import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from axialseg.checkpoints.axial_resnet_release import (
    from_axial_resnet_release,
    is_axial_resnet_release,
)
from axialseg.checkpoints.run_checkpoints import check_whole, load_plain
from axialseg.checkpoints.saved_values import refuse_too_many_values
from axialseg.checkpoints.stored_weights import BACKBONE, StoredTensor, StoredWeights, part_of
from axialseg.errors import UserError
from axialseg.machine.whole_file import whole_file

SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors")
NET = "net"  # of the network inside the LightningModules
DIGEST = "sha256"  # metadata key of a .safetensors file: `digest` of its tensors
STEPS = "global_step"  # in checkpoints of runs, and metadata key


def open_own_weights(path: Path, net: nn.Module) -> StoredWeights:
    """Opens a file for a network; checksums are compared where the file has any.

    The file may hold the whole network or the backbone alone, with or without ``backbone.`` in
    front of its names.

    Args:
        path: .safetensors, or a file of `torch.save` that holds a state dict or, as Lightning's do,
            has one under ``state_dict`` with the network's names after ``net.``. The state dict may
            also be that of the released Axial-ResNet, see `axial_resnet_release`.
        net: its names decide what is known.

    Raises:
        UserError: The file is missing, truncated or damaged, or holds no weights.
    """
    weights, skipped, steps = _read(path)
    state = net.state_dict()
    own = set(state)
    if is_axial_resnet_release(weights):
        rows = [len(value) for name, value in state.items() if name.endswith("_table")]
        weights = from_axial_resnet_release(weights, max(rows, default=509))
    weights = _below_backbone(weights, own)
    parts = {part_of(name) for name in own}
    return StoredWeights(
        source=str(path),
        tensors={
            name: StoredTensor(name, tuple(value.shape), value.detach)
            for name, value in weights.items()
            if name in own
        },
        unknown={
            name: part_of(name) if part_of(name) in parts else None
            for name in weights
            if name not in own
        },
        skipped=skipped,
        steps=steps,
    )


def stored_run(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What a checkpoint of a run tells of itself: its config as saved, and its classes, plain.

    Checkpoints of earlier versions hold no classes.

    Raises:
        UserError: The file is missing or damaged, is no checkpoint of a run, or holds settings
            without end.
    """
    content = _content(path) if path.is_file() and path.suffix != ".safetensors" else {}
    config = content.get("hyper_parameters")
    if not isinstance(config, dict) or not {"model", "data"} <= set(config):
        raise UserError(
            f"{path} is not a checkpoint of a run, so it does not tell its model; name the model: "
            "axialseg.create_model(<name>, checkpoint=<file>)"
        )
    classes = content.get("classes")
    refuse_too_many_values([config, classes], path)
    return config, classes


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and values in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode())
        values = tensors[name].contiguous().flatten().view(torch.uint8).numpy()
        total.update(values.data)
    return total.hexdigest()


def write_safetensors(
    tensors: Mapping[str, Tensor], output: Path, metadata: Mapping[str, str]
) -> None:
    """Writes a .safetensors file, which appears only when it is complete, with its `digest`.

    Raises:
        UserError: it cannot be written.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        with whole_file(output) as draft:
            draft.touch()
            mode = draft.stat().st_mode  # that new files have here; save_file makes private ones
            save_file(plain, draft, {**metadata, DIGEST: digest(plain)})
            draft.chmod(mode)
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror})") from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str], int]:
    """Weights by the network's names, what else there is, optimiser steps."""
    if not path.is_file():
        raise UserError(f"the checkpoint {path} does not exist; correct its name")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = _content(path)
    weights = content.get("state_dict", content)
    skipped: dict[str, str] = {}
    if "state_dict" in content:
        skipped = {name: "state of the run" for name in content if name != "state_dict"}
    if isinstance(weights, Mapping) and any(_is_of_net(name) for name in weights):
        skipped |= {name: "not of the network" for name in weights if not _is_of_net(name)}
        weights = {n.removeprefix(f"{NET}."): v for n, v in weights.items() if _is_of_net(n)}
    if (
        not isinstance(weights, Mapping)
        or not weights
        or not all(isinstance(value, Tensor) for value in weights.values())
    ):
        raise UserError(f"{path} holds no weights of a network; give a checkpoint of a run")
    steps = content.get(STEPS, 0)
    return dict(weights), skipped, steps if isinstance(steps, int) else 0


def _content(path: Path) -> dict[str, Any]:
    """What `torch.save` has written; tensors stay on the disk until they are used."""
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        check_whole(path)
    return load_plain(path, mmap=is_zip)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str], int]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError):
        raise _unreadable(path) from None
    if not weights:
        raise UserError(f"{path} holds no weights of a network; give a checkpoint of a run")
    if DIGEST in metadata and digest(weights) != metadata[DIGEST]:
        raise _unreadable(path)
    steps = metadata.get(STEPS, "")
    return weights, {}, int(steps) if steps.isdecimal() else 0


def _unreadable(path: Path) -> UserError:
    return UserError(
        f"{path} cannot be read as a checkpoint: it is truncated or corrupt; copy it again"
    )


def _is_of_net(name: object) -> bool:
    return str(name).startswith(f"{NET}.")


def _below_backbone(weights: dict[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """Adds the backbone's prefix if the names are those of a backbone on its own."""
    children = {name.split(".")[0] for name in own}
    of_backbone = {name.split(".")[1] for name in own if name.startswith(f"{BACKBONE}.")}
    firsts = {name.split(".")[0] for name in weights}
    if firsts & children or not firsts & of_backbone:
        return weights
    return {f"{BACKBONE}.{name}": value for name, value in weights.items()}
