"""`python train.py`: trains one model on one data set, validates it and says how to go on."""

import logging
import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from axialseg.commands.command_line import run_command
from axialseg.commands.invocation import invocation
from axialseg.commands.settle import settle
from axialseg.config.auto import without_auto
from axialseg.config.check import check_config, check_model_fits_data, has_validation
from axialseg.errors import UserError
from axialseg.launch import run_on_devices
from axialseg.machine.hardware import Hardware, check_compiler, configure_torch

log = logging.getLogger(__name__)

LAYER_DECAY = "schedule.parameter_groups.layer_decay"


def main() -> None:
    """The command."""
    run_command(train, "train", check_training)


def train(cfg: DictConfig) -> float:
    """Runs one composed job.

    Returns:
        `model.objective` of the last validation, in per cent: what a sweep maximises.

    Raises:
        UserError: a wrong setting or file.
    """
    check_training(cfg)
    folder = Path(HydraConfig.get().runtime.output_dir)
    settle(cfg, folder)
    batch_size = cfg.schedule.batch_size
    return run_on_devices(_fit, "axialseg.commands.train", cfg, folder, batch_size)


def check_training(cfg: DictConfig) -> None:
    """Refuses a config that cannot be trained.

    Raises:
        UserError: one sentence about the first thing that is wrong.
    """
    cfg = without_auto(cfg)
    check_config(cfg)
    check_model_fits_data(cfg)
    for name in ("max_steps", "accumulate_grad_batches"):
        if cfg.trainer[name] < 1:
            raise UserError(f"trainer.{name}={cfg.trainer[name]}, but it must be 1 or more")
    _check_switches(cfg.trainer)
    decay = OmegaConf.select(cfg, LAYER_DECAY)
    if decay is not None and not 0 < decay <= 1:
        raise UserError(f"{LAYER_DECAY}={decay}, but it must be above 0 and at most 1")
    if cfg.compile:
        check_compiler()


def _check_switches(trainer: DictConfig) -> None:
    """Refuses switches of Lightning that endless training data give no meaning to."""
    share = trainer.limit_train_batches
    if isinstance(share, float) and share != 1.0:
        raise UserError(
            f"trainer.limit_train_batches={share}: training draws images without end, so there is "
            "no share of them; give trainer.max_steps=<number>"
        )
    if trainer.overfit_batches:
        raise UserError(
            f"trainer.overfit_batches={trainer.overfit_batches}: training draws images without "
            "end, so there are no first batches to repeat; to learn a few images by heart, train "
            "on a data set that holds them alone, as experiments=coco/overfit does"
        )
    steps = trainer.fast_dev_run
    if not isinstance(steps, bool | int) or steps < 0:
        raise UserError(f"trainer.fast_dev_run={steps}, but it must be true or a number of steps")


def _fit(cfg: DictConfig, hardware: Hardware, folder: Path) -> None:
    # Only now: torch takes seconds, and a wrong config shall not wait for it.
    import lightning.pytorch as pl
    from lightning.pytorch.utilities import rank_zero_only

    from axialseg.build import build_task, build_trainer, build_training_data
    from axialseg.callbacks.scores import validated_step
    from axialseg.checkpoints.initial import load_initial_weights, load_pretrained_backbone

    configure_torch(hardware)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    checkpoint = checkpoint_to_resume(cfg.resume, folder)
    datamodule = build_training_data(cfg, hardware.world_size)
    task = build_task(cfg, datamodule.categories)
    net = task.get_submodule("net")
    if checkpoint is None:
        loaded = load_pretrained_backbone(net)
        if loaded is not None:
            rank_zero_only(log.info)("%s", loaded)
    if cfg.model.initial_checkpoint and checkpoint is None:
        source, backbone_only = cfg.model.initial_checkpoint, cfg.model.initial_backbone_only
        report = load_initial_weights(net, source, backbone_only)
        rank_zero_only(log.info)("%s", report)
    if cfg.compile:
        # A graph for each size, training's and evaluation's: PyTorch 2.13 fails on symbolic ones.
        net.compile(dynamic=False)
    if not has_validation(cfg):
        cfg.trainer.limit_val_batches = 0
    trainer = build_trainer(cfg, hardware, folder)
    trainer.fit(task, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
    validated = trainer.strategy.broadcast(validated_step(folder))
    if has_validation(cfg) and validated != trainer.global_step:
        trainer.validate(task, datamodule=datamodule, verbose=False)
    trainer.strategy.barrier()  # rank 0 has written metrics.json
    if trainer.is_global_zero:
        shown = os.path.relpath(folder)
        start = invocation("evaluate")
        line = f"To evaluate them:  {start} run={shown}"
        if not has_validation(cfg):
            line = f"To segment pictures:  {start} run={shown} images=<folder>"
        log.info("Results are in %s\n%s", shown, line)


def checkpoint_to_resume(resume: str | None, folder: Path) -> Path | None:
    """Where training goes on: what the user names, else where it was stopped in this folder.

    Args:
        resume: checkpoint file, or folder of a run.
        folder: of this run.

    Raises:
        UserError: `resume` names neither, or nothing there is whole.
    """
    from axialseg.checkpoints.run_checkpoints import check_whole, newest_checkpoint

    path = Path(resume) if resume else folder
    if path.is_dir():
        newest = newest_checkpoint(path)
        if newest is None and resume is not None:
            raise UserError(f"resume={resume} holds no checkpoint; give a run's folder")
        return newest
    if resume is None:
        return None
    if not path.is_file():
        raise UserError(f"resume={resume} does not exist; give a checkpoint or a run's folder")
    check_whole(path)
    return path


if __name__ == "__main__":
    main()
