"""A trained model as a folder for others, laid out as on the Hugging Face hub.

`model.safetensors` holds the weights, `config.yaml` what one must know to build the network and to
use it, `README.md` the model card, `images/` its pictures.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from axialseg.checkpoints.own_weights import STEPS, write_safetensors
from axialseg.checkpoints.saved_values import yaml_text
from axialseg.errors import UserError

WEIGHTS, CONFIG, CARD, IMAGES = "model.safetensors", "config.yaml", "README.md", "images"


def write_model_folder(
    folder: Path,
    weights: Mapping[str, Tensor],
    step: int,
    description: Mapping[str, Any],
    card: str,
    images: Sequence[Path] = (),
) -> None:
    """Writes a model; the weights come last, so that a folder with weights is complete.

    Args:
        folder: made if it does not exist; its files of these names are replaced.
        weights: by the network's names.
        step: optimiser steps behind them.
        description: `model`, `data` and `classes`, plain, nothing left to resolve.
        card: the text of `README.md`.
        images: files to copy.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        (folder / IMAGES if images else folder).mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS).unlink(missing_ok=True)
        for image in images:
            shutil.copyfile(image, folder / IMAGES / image.name)
        (folder / CARD).write_text(card, encoding="utf-8")
        text = yaml.safe_dump(dict(description), sort_keys=False, allow_unicode=True)
        (folder / CONFIG).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror})") from error
    write_safetensors(weights, folder / WEIGHTS, {"format": "pt", STEPS: str(step)})


def without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """Its `model` and `data` without the folders of this machine."""
    model = {**config["model"], "initial_checkpoint": None}
    return {"model": model, "data": {**config["data"], "root": "data"}}


def read_description(weights: Path) -> dict[str, Any]:
    """The description beside such a file of weights; empty if there is none.

    Raises:
        UserError: it is damaged.
    """
    path = weights.with_name(CONFIG)
    if weights.name != WEIGHTS or not path.is_file():
        return {}
    try:
        content = yaml.safe_load(yaml_text(path))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is damaged ({reason}); copy it again") from None
    if not isinstance(content, dict) or not {"model", "data", "classes"} <= set(content):
        raise UserError(f"{path} does not tell model, data and classes; copy it again")
    return content
