"""`python evaluate.py`: scores a checkpoint and writes its predictions.

The config of the run that made the checkpoint is the base of the evaluation's own; groups and
values of the command line apply on top of it.
"""

import logging
import os
from datetime import datetime
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from axialseg.commands.command_line import run_command
from axialseg.commands.saved_run import saved_run
from axialseg.config.check import check_config, check_model_fits_data
from axialseg.config.trust import refuse_composed_names
from axialseg.errors import UserError
from axialseg.launch import run_on_devices
from axialseg.machine.hardware import Hardware, check_compiler, configure_torch

log = logging.getLogger(__name__)

KEPT_FROM_RUN = ("seed", "model", "data", "schedule", "trainer")
# Of this machine, not of the one that trained.
HARDWARE_HERE = {"accelerator": "auto", "devices": "auto", "num_nodes": 1, "strategy": "auto"}


def main() -> None:
    """The command."""
    run_command(evaluate, "evaluate", check_evaluation, register_saved_run)


def evaluate(cfg: DictConfig) -> float:
    """Scores one checkpoint.

    Returns:
        `model.objective` in per cent.

    Raises:
        UserError: a wrong setting or file.
    """
    check_evaluation(cfg)
    folder = Path(HydraConfig.get().runtime.output_dir)
    return run_on_devices(_validate, "axialseg.commands.evaluate", cfg, folder, batch_size=None)


def check_evaluation(cfg: DictConfig) -> None:
    """Refuses a config that says not what to evaluate, or says it wrong.

    Raises:
        UserError: one sentence about it.
    """
    if cfg.run is None and cfg.ckpt is None:
        raise UserError("say what to evaluate: run=<folder of a run> or ckpt=<checkpoint file>")
    if OmegaConf.is_missing(cfg, "data") or OmegaConf.is_missing(cfg.model, "net"):
        raise UserError(
            f"{cfg.ckpt} does not lie in the folder of a run; name its model=... and data=... too"
        )
    if cfg.run is not None:
        refuse_composed_names(cfg, cfg.trust, cfg.run)
    check_config(cfg)
    if cfg.compile:
        check_compiler()
    check_model_fits_data(cfg)


def register_saved_run(overrides: list[str]) -> None:
    """Makes the config of the run known to Hydra as `saved_run`.

    Args:
        overrides: the command line's.

    Raises:
        UserError: `run` is not the folder of a run.
    """
    folder, saved = saved_run(overrides, KEPT_FROM_RUN)
    if folder is None:
        saved["output"] = f"outputs/evaluation/{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
    else:
        saved |= {"run": str(folder), "output": str(folder / "evaluation")}
        saved["trainer"] = saved.get("trainer", {}) | HARDWARE_HERE
        if "model" in saved:  # another model brings this group itself
            saved["defaults"] = ["_self_", {"/model/attention": None}]
    ConfigStore.instance().store(name="saved_run", node=saved)


def _validate(cfg: DictConfig, hardware: Hardware, folder: Path) -> None:
    # Only now: torch takes seconds, and a wrong config shall not wait for it.
    import lightning.pytorch as pl

    from axialseg.build import build_evaluation_data, build_task, build_trainer
    from axialseg.checkpoints.initial import load_trained_weights
    from axialseg.inference.fold_batch_norms import fold_batch_norms

    configure_torch(hardware)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule = build_evaluation_data(cfg)
    task = build_task(cfg, datamodule.categories)
    checkpoint = cfg.ckpt or _checkpoint_of(Path(cfg.run))
    net = task.get_submodule("net")
    steps = load_trained_weights(net, checkpoint)
    if cfg.fold_batch_norms:
        net = fold_batch_norms(net.eval())
        task.set_submodule("net", net)
    if cfg.compile:
        net.compile(dynamic=False)
    trainer = build_trainer(cfg, hardware, folder)
    if trainer.is_global_zero:  # a test set gets none, and must not keep an earlier one's
        (folder / "metrics.json").unlink(missing_ok=True)
    # The callbacks tell the step; a trainer that has not trained would say 0.
    progress = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress
    progress.optimizer.step.total.completed = steps
    trainer.validate(task, datamodule=datamodule, verbose=False)
    trainer.strategy.barrier()  # rank 0 has written metrics.json
    if trainer.is_global_zero:
        log.info("What was written is in %s", os.path.relpath(folder))


def _checkpoint_of(run: Path) -> Path:
    """The best checkpoint of a run, else its last one; says which."""
    from lightning.pytorch.utilities import rank_zero_only

    from axialseg.callbacks.best_checkpoint import best_of
    from axialseg.checkpoints.run_checkpoints import newest_checkpoint

    last, best = newest_checkpoint(run), best_of(run)
    if last is None:
        raise UserError(f"run={run}: this folder holds no checkpoint; give ckpt=<file>")
    path, facts = (last, "the last one") if best is None else best
    others = f"; the last one is ckpt={os.path.relpath(last)}" if best else ""
    rank_zero_only(log.info)("Evaluating %s (%s%s)", os.path.relpath(path), facts, others)
    return path


if __name__ == "__main__":
    main()
