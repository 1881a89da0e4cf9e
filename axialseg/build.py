"""Config -> objects, in the order in which they need each other.

Data set's metadata first, because the heads follow its classes; then the network with its loss and
post-processing; then the task, the callbacks and the trainer.
"""

import inspect
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import get_object, instantiate
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import DictConfig, OmegaConf
from torch import nn

from axialseg.launch import Hardware, batch_size_per_rank
from axialseg.lightning_messages import quiet_lightning
from axialseg.panoptic.categories import Categories


def build(node: DictConfig, **arguments: Any) -> Any:
    """Builds a `_target_` node; what YAML can not hold is given as arguments.

    They are handed over in a call of its own: `instantiate` would merge them into the config, which
    copies networks and turns dataclasses into config nodes. Lists and dicts arrive as plain ones.
    """
    return instantiate(node, _partial_=True, _convert_="all")(**arguments)


def _asked_for(node: DictConfig, offered: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments that the constructor of a `_target_` node has; methods differ."""
    names = inspect.signature(get_object(node._target_)).parameters
    return {name: value for name, value in offered.items() if name in names}


def build_training_data(cfg: DictConfig, world_size: int) -> Any:
    """The LightningDataModule with what the model's loss compares with."""
    accumulated = cfg.trainer.accumulate_grad_batches
    batch_size = batch_size_per_rank(cfg.schedule.batch_size, world_size, accumulated)
    return build(cfg.data, targets=build(cfg.model.targets), batch_size=batch_size)


def build_evaluation_data(cfg: DictConfig) -> Any:
    """The LightningDataModule for validation alone."""
    return build(cfg.data, targets=None, batch_size=1)


def build_net(model: DictConfig, categories: Categories) -> nn.Module:
    """The network, its heads sized by the classes; weights as initialised."""
    sizes = {
        "semantic_channels": categories.semantic_channels,
        "class_channels": len(categories) + 1,  # and "no object"
    }
    backbone = build(model.backbone)
    return build(model.net, backbone=backbone, **_asked_for(model.net, sizes))


def build_net_on_meta(model: DictConfig, semantic_channels: int) -> nn.Module:
    """The network in names and shapes only, without memory for its weights."""
    with torch.device("meta"):
        backbone = build(model.backbone)
        return build(model.net, backbone=backbone, semantic_channels=semantic_channels)


def build_task(cfg: DictConfig, categories: Categories) -> pl.LightningModule:
    """The network with its loss, post-processing and optimisation, weights as initialised.

    Without a `schedule`, as in an evaluation, the task can not be trained.
    """
    model, schedule = cfg.model, cfg.schedule
    class_ids = {
        "ignore_class": categories.ignore_class,
        "thing_ids": categories.thing_ids,
        "stuff_ids": categories.stuff_ids,
    }
    return build(
        model.task,
        net=build_net(model, categories),
        loss=build(model.loss, **_asked_for(model.loss, class_ids)),
        postprocess=build(model.postprocess, categories=categories),
        optimizer=schedule and instantiate(schedule.optimizer, _convert_="all"),
        parameter_groups=schedule and instantiate(schedule.parameter_groups, _convert_="all"),
        curve=schedule and instantiate(schedule.curve, _convert_="all"),
        seed=cfg.seed,
        config=OmegaConf.to_container(cfg, resolve=True),
    )


def build_trainer(cfg: DictConfig, hardware: Hardware, folder: Path) -> pl.Trainer:
    """The trainer with callbacks and loggers.

    Args:
        cfg: composed config.
        hardware: what its `auto` stands for.
        folder: where everything is written; the trainer's `default_root_dir`.
    """
    quiet_lightning()
    callbacks = [build(callback) for callback in cfg.callbacks.values() if callback]
    max_steps, accumulated = cfg.trainer.max_steps, cfg.trainer.accumulate_grad_batches
    interval = min(cfg.trainer.val_check_interval or max_steps, max_steps)
    started_by_srun = hardware.world_size > 1 and "SLURM_PROCID" in os.environ
    arguments: dict[str, Any] = {
        **OmegaConf.to_container(cfg.trainer, resolve=True),  # type: ignore[dict-item]
        "accelerator": hardware.accelerator,
        "devices": hardware.devices,
        "precision": hardware.precision,
        # Lightning counts batches here; ours are optimiser steps.
        "val_check_interval": interval * accumulated,
        "callbacks": callbacks,
        "logger": [build(logger) for logger in cfg.logger.values() if logger] or False,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "default_root_dir": str(folder),
        # The preemption callback stops and resumes runs, not Lightning's requeueing.
        "plugins": SLURMEnvironment(auto_requeue=False) if started_by_srun else None,
    }
    if arguments["strategy"] == "auto" and hardware.world_size > 1:
        arguments["strategy"] = "ddp"
    return pl.Trainer(**arguments)
