"""Weights of our own checkpoints (Lightning's .ckpt, or .safetensors) into a network.

Only tensors are read (`weights_only=True`): a checkpoint from a stranger can not run code.
"""

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from axialseg.errors import UserError

log = logging.getLogger(__name__)

NET_PREFIX = "net."  # of the network inside the LightningModules
BACKBONE_PREFIX = "backbone."
SHOWN_NAMES = 3


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a network by their names in `net.state_dict()`, on the CPU.

    Args:
        path: .safetensors, or a file of `torch.save` that holds a state dict or, as Lightning's do,
            has one under ``state_dict`` with the network's names after ``net.``.

    Raises:
        UserError: the file is missing, truncated, or holds something else.
    """
    content = _read(path)
    weights = content.get("state_dict", content)
    inside = {k.removeprefix(NET_PREFIX): v for k, v in weights.items() if k.startswith(NET_PREFIX)}
    weights = inside or weights
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{path} holds no weights of a network; give a checkpoint of a run")
    return weights


def trained_steps(path: Path) -> int:
    """Optimiser steps behind a checkpoint of a run; 0 for other files.

    Raises:
        UserError: the file is missing or not readable.
    """
    content = _read(path)
    return int(content.get("global_step", 0))


def load_initial_weights(net: nn.Module, path: Path) -> None:
    """Starts a network from a checkpoint of the same backbone, and logs what was taken.

    The file may hold the whole network or the backbone alone. Heads that have another shape
    (another number of classes) or are not in the file keep their initialisation.

    Args:
        net: network whose backbone is its child `backbone`.
        path: see `read_weights`.

    Raises:
        UserError: as `read_weights`, or a tensor of the backbone is missing or has another shape.
    """
    weights = read_weights(path)
    own = net.state_dict()
    if not any(name in own for name in weights):
        weights = {BACKBONE_PREFIX + name: value for name, value in weights.items()}
    fitting = {name: value for name, value in weights.items() if _fits(own, name, value)}
    left = [name for name in own if name not in fitting]
    wrong = [name for name in left if name.startswith(BACKBONE_PREFIX)]
    if wrong or not fitting:
        raise UserError(
            f"{path} is of another backbone than model.backbone: {_listed(wrong or left)} differ"
        )
    net.load_state_dict(fitting, strict=False)
    unused = [name for name in weights if name not in own]
    log.info(
        "Took %d of %d tensors from %s. Left as initialised: %s. Not used from the file: %s.",
        *(len(fitting), len(own), path),
        *(", ".join(left) or "none", ", ".join(unused) or "none"),
    )


def load_trained_weights(net: nn.Module, path: Path) -> None:
    """Loads a checkpoint of exactly this network.

    Raises:
        UserError: as `read_weights`, or any name or shape differs.
    """
    weights = read_weights(path)
    own = net.state_dict()
    wrong = [name for name, value in weights.items() if not _fits(own, name, value)]
    wrong += [name for name in own if name not in weights]
    if wrong:
        raise UserError(f"{path} is of another model or data set: {_listed(wrong)} differ")
    net.load_state_dict(weights)


def _read(path: Path) -> dict[str, Any]:
    """The file's content; tensors stay on the disk until they are used."""
    if not path.is_file():
        raise UserError(f"the checkpoint {path} does not exist; correct its name")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError):
        raise UserError(
            f"{path} can not be read as a checkpoint: it is truncated, corrupt or holds more than "
            "weights; copy it again"
        ) from None
    return content if isinstance(content, dict) else {}


def _fits(own: Mapping[str, Tensor], name: str, value: Tensor) -> bool:
    return name in own and own[name].shape == value.shape


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
