"""The composed config that a run has left in its folder."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from axialseg.checkpoints.saved_values import yaml_text
from axialseg.config.saved import accepted
from axialseg.config.schema import conf_dir
from axialseg.config.trust import trusted_packages
from axialseg.errors import UserError


def saved_run(overrides: list[str], keys: Collection[str]) -> tuple[Path | None, dict[str, Any]]:
    """Finds the run that `run=` names, or that the checkpoint of `ckpt=` lies in or tells of.

    Nodes whose group the command line chooses, or its experiment, are left out, so that they are
    replaced, not mixed.

    Args:
        overrides: the command line's.
        keys: top-level nodes of its config to read.

    Returns:
        The folder and the nodes. The folder is None where a checkpoint lies elsewhere and tells
        the nodes itself; there are no nodes if no run is meant.

    Raises:
        UserError: `run` is not the folder of a run, or its config could run a stranger's code.
    """
    chosen = chosen_values(overrides)
    folder = _run_folder(chosen.get("run"), chosen.get("ckpt"))
    chosen |= dict.fromkeys(_groups_of_experiment(chosen.get("experiments")))
    if folder is not None:
        content = saved_config(folder / ".hydra" / "config.yaml")
    else:
        content = {} if "model" in chosen else _config_inside(chosen.get("ckpt"))
    kept = {key: content[key] for key in keys if key in content and key not in chosen}
    kept = accepted(kept, str(folder or chosen.get("ckpt")), trusted_packages(overrides))
    if "model/attention" in chosen and "model" in kept:
        _open_to_choice(kept["model"])
    return folder, kept


def chosen_values(overrides: list[str]) -> dict[str, Any]:
    """Key or group -> value, as the command line has them."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    return {str(override.key_or_group): override.value() for override in parsed}


def saved_config(file: Path) -> dict[str, Any]:
    """A composed config as it was saved, in plain containers, interpolations as written.

    Raises:
        UserError: it is damaged.
    """
    try:
        content: Any = OmegaConf.to_container(OmegaConf.create(yaml_text(file)), resolve=False)
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}); copy it again") from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{file} is not a saved config; copy it again")
    return content


def _config_inside(ckpt: object) -> dict[str, Any]:
    """The config that a checkpoint of a run or an exported file holds; empty for anything else."""
    path = Path(str(ckpt))
    if path.suffix in (".onnx", ".pt2"):
        from axialseg.inference.exported_net import read_facts

        return read_facts(path)
    if path.suffix != ".ckpt" or not path.is_file():
        return {}
    from axialseg.checkpoints.own_weights import stored_run

    try:
        return stored_run(path)[0]
    except UserError:
        return {}


def _groups_of_experiment(name: object) -> list[str]:
    """The groups that an experiment chooses, as ``model``; none if there is no such file."""
    file = conf_dir().parent / "experiments" / f"{name}.yaml"
    if not file.is_file():
        return []
    content: Any = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    lines = [key for line in content.get("defaults", []) if isinstance(line, dict) for key in line]
    return [key.removeprefix("override /") for key in lines if key.startswith("override /")]


def _open_to_choice(model: dict[str, Any]) -> None:
    """Lets `model/attention` replace the attention that the model of a run has."""
    model.pop("attention", None)
    if "attention" in model["backbone"]:
        model["backbone"]["attention"] |= {
            "_target_": "${model.attention.layer}",
            "formulation": "${model.attention.formulation}",
        }


def _run_folder(run: object, ckpt: object) -> Path | None:
    """The folder of the run that is named, or that the checkpoint lies in.

    Args:
        run: value of `run=`.
        ckpt: value of `ckpt=`.
    """
    if run is not None:
        folder = Path(str(run))
        if not (folder / ".hydra" / "config.yaml").is_file():
            raise UserError(f"run={run} holds no .hydra/config.yaml; give the folder of a run")
        return folder
    if ckpt is not None:
        folder = Path(str(ckpt)).absolute().parent.parent
        if (folder / ".hydra" / "config.yaml").is_file():
            return Path(os.path.relpath(folder))
    return None
