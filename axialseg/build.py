"""Config -> objects, in the order in which they need each other.

Data set's metadata first, because the heads follow its classes; then the network with its loss and
post-processing; then the task, the callbacks and the trainer.
"""

import inspect
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from axialseg.datasets.image_classes import ImageClasses, numbered_classes
from axialseg.datasets.imagenet import ImageNet
from axialseg.datasets.open_dataset import open_dataset
from axialseg.errors import UserError
from axialseg.machine.hardware import Hardware, batch_size_per_rank
from axialseg.panoptic.categories import Categories

if TYPE_CHECKING:
    import lightning.pytorch as pl  # only for a task; networks do not need it

Classes = Categories | ImageClasses


def build(node: DictConfig, **arguments: Any) -> Any:
    """Builds a `_target_` node; what YAML cannot hold is given as arguments.

    They are handed over in a call of its own: `instantiate` would merge them into the config, which
    copies networks and turns dataclasses into config nodes. Lists and dicts arrive as plain ones.

    Raises:
        UserError: the node has a key that an argument would override, or its constructor refuses
            a value.
    """
    for name in set(node) & set(arguments):
        raise UserError(
            f"{node._get_full_key(name)} cannot be set, because the program sets it; leave it out"
        )
    constructor = instantiate(node, _partial_=True, _convert_="all")
    try:
        return constructor(**arguments)
    except ValueError as error:
        key = node._get_full_key(None) or "a part"
        raise UserError(f"{key} is refused by {node._target_}: {error}") from error


def _asked_for(node: DictConfig, offered: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments that the constructor of a `_target_` node has; methods differ."""
    names = inspect.signature(get_object(node._target_)).parameters
    return {name: value for name, value in offered.items() if name in names}


def build_training_data(cfg: DictConfig, world_size: int) -> Any:
    """The LightningDataModule with what the model's loss compares with."""
    accumulated = cfg.trainer.accumulate_grad_batches
    return build_data(cfg, batch_size_per_rank(cfg.schedule.batch_size, world_size, accumulated))


def build_data(cfg: DictConfig, batch_size: int) -> Any:
    """The same for a number of images per batch."""
    targets = build(cfg.model.targets) if cfg.model.targets else None
    return build(cfg.data, batch_size=batch_size, **_asked_for(cfg.data, {"targets": targets}))


def build_evaluation_data(cfg: DictConfig) -> Any:
    """The LightningDataModule for validation alone."""
    return build(cfg.data, batch_size=1, **_asked_for(cfg.data, {"targets": None}))


def build_picture_data(cfg: DictConfig, folder: str, categories: Categories) -> Any:
    """The LightningDataModule for pictures without ground truth; the data set is not opened.

    Args:
        cfg: with `data`, whose loaders and evaluation transform apply.
        folder: of the pictures, and of folders of them.
        categories: what is to be found in them.
    """
    from axialseg.datasets.image_folder import ImageFolder

    data = cfg.data.copy()
    OmegaConf.set_struct(data, False)
    arguments = {
        "root": folder,
        "val_dataset": partial(ImageFolder, categories=categories),
        "val_share": None,
        "classes": None,  # changed already
        "apply_exif": True,  # as people see photographs
        "skip_invalid": False,
        "cache": False,
        "batch_size": 1,
        "targets": None,
    }
    for name in arguments:
        data.pop(name, None)
    return build(data, **arguments)


def build_classes(data: DictConfig) -> Classes:
    """The classes of a data set, which is opened only if nothing else tells them.

    ImageNet has 1000 where it is not there.

    Raises:
        UserError: the data set cannot be opened.
    """
    classes = _listed_classes(data)
    changes = _class_changes(data)
    return changes.of(classes).categories if changes else classes


def _listed_classes(data: DictConfig) -> Any:
    """The classes as the data set has them."""
    # Validation may be a part of the training data, or not be at all.
    is_alone = data.get("val_dataset") is not None and data.get("val_share") is None
    dataset = data.val_dataset if is_alone else data.train_dataset
    if dataset.get("categories") is not None:
        return build(dataset.categories)
    reader = get_object(dataset._target_)
    known = getattr(reader, "categories", None)
    if isinstance(known, Categories):
        return known
    if reader is ImageNet and not Path(data.root).is_dir():
        return numbered_classes(1000)
    return build(dataset, root=data.root).categories


def build_panoptic_dataset(data: DictConfig, split: str) -> Any:
    """The reader of one split, with the options of `data` that `PanopticDataModule` has.

    Args:
        data: config of the data.
        split: train or val.
    """
    options = {name: bool(data.get(name)) for name in ("apply_exif", "skip_invalid")}
    factory = instantiate(data[f"{split}_dataset"], _partial_=True, _convert_="all")
    return open_dataset(factory, data.root, _class_changes(data), **options)


def _class_changes(data: DictConfig) -> Any:
    """What the user wants of the classes; None if nothing."""
    return build(data.classes) if data.get("classes") else None


def class_facts(categories: Classes) -> dict[str, Any]:
    """What networks, losses and post-processings may ask for about the classes, by argument."""
    if isinstance(categories, ImageClasses):
        return {"classes": len(categories)}
    return {
        "categories": categories,
        "semantic_channels": categories.semantic_channels,
        "class_channels": len(categories) + 1,  # and "no object"
        "ignore_class": categories.ignore_class,
        "thing_ids": categories.thing_ids,
        "stuff_ids": categories.stuff_ids,
    }


def build_net(model: DictConfig, categories: Classes) -> nn.Module:
    """The network, its heads sized by the classes; weights as initialised."""
    return _build_net(model, class_facts(categories))


def build_net_of_channels(
    model: DictConfig, channels: int, class_channels: int | None = None
) -> nn.Module:
    """The network for classes of which only the number is known; weights as initialised.

    Args:
        model: config of the model.
        channels: of the layer that tells the classes apart: a semantic head or a classifier.
        class_channels: of MaX-DeepLab's class head; None is `channels`, as for COCO.
    """
    facts = {"semantic_channels": channels, "classes": channels}
    return _build_net(model, facts | {"class_channels": class_channels or channels})


def build_net_on_meta(
    model: DictConfig, channels: int, class_channels: int | None = None
) -> nn.Module:
    """As `build_net_of_channels`, in names and shapes only, without memory for its weights."""
    with torch.device("meta"):
        return build_net_of_channels(model, channels, class_channels)


def _build_net(model: DictConfig, facts: dict[str, Any]) -> nn.Module:
    backbone = build(model.backbone)
    return build(model.net, backbone=backbone, **_asked_for(model.net, facts))


def build_postprocess(model: DictConfig, categories: Classes) -> Any | None:
    """From the network's heads to label maps; None for a classifier."""
    node = model.postprocess
    return build(node, **_asked_for(node, class_facts(categories))) if node else None


def build_task(cfg: DictConfig, categories: Classes) -> "pl.LightningModule":
    """The network with its loss, post-processing and optimisation, weights as initialised.

    Without a `schedule`, as in an evaluation, the task cannot be trained.
    """
    model, schedule = cfg.model, cfg.schedule
    facts = class_facts(categories)
    postprocess = build_postprocess(model, categories)
    parts = {} if postprocess is None else {"postprocess": postprocess}
    return build(
        model.task,
        net=build_net(model, categories),
        loss=build(model.loss, **_asked_for(model.loss, facts)),
        **parts,
        optimizer=schedule and instantiate(schedule.optimizer, _convert_="all"),
        parameter_groups=schedule and instantiate(schedule.parameter_groups, _convert_="all"),
        curve=schedule and instantiate(schedule.curve, _convert_="all"),
        seed=cfg.seed,
        config=OmegaConf.to_container(cfg, resolve=True),
    )


def build_trainer(cfg: DictConfig, hardware: Hardware, folder: Path) -> "pl.Trainer":
    """The trainer with callbacks and loggers.

    Args:
        cfg: composed config.
        hardware: what its `auto` stands for.
        folder: where everything is written; the trainer's `default_root_dir`.
    """
    import lightning.pytorch as pl
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.pytorch.callbacks import Checkpoint

    from axialseg.checkpoints.trainer_checkpoints import WholeCheckpointIO
    from axialseg.loggers.lightning_messages import quiet_lightning

    quiet_lightning()
    callbacks = [build(callback) for callback in cfg.callbacks.values() if callback]
    accumulated = cfg.trainer.accumulate_grad_batches
    max_steps = max(cfg.trainer.max_steps, 1)  # an evaluation without a recipe has none
    interval = min(cfg.trainer.val_check_interval or max_steps, max_steps)
    started_by_srun = hardware.world_size > 1 and "SLURM_PROCID" in os.environ
    if started_by_srun:  # Lightning refuses `--ntasks` alone, which is as clear on equal machines
        per_node = hardware.world_size // cfg.trainer.num_nodes
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(per_node))
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
        "plugins": [WholeCheckpointIO()] + [SLURMEnvironment(auto_requeue=False)] * started_by_srun,
    }
    if arguments["strategy"] == "auto" and hardware.world_size > 1:
        arguments["strategy"] = "ddp"
    return pl.Trainer(**arguments)
