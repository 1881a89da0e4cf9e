"""`python evaluate.py`: scores a checkpoint and writes its predictions, or scores anyone's files.

The config of the run that made the checkpoint is the base of the evaluation's own; groups and
values of the command line apply on top of it.
"""

import json
import logging
import math
import os
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from axialseg.checkpoints.published import cache_folder, converted_path, published_checkpoints
from axialseg.commands.command_line import run_command
from axialseg.commands.download import fetch_published, refuse_other_model
from axialseg.commands.expected_scores import (
    comparison,
    expected_rows,
    matching_row,
    refuse_other_scores,
)
from axialseg.commands.saved_run import chosen_values, saved_run
from axialseg.config.check import check_config, check_model_fits_data, has_validation
from axialseg.config.experiment_head import ExpectedScores
from axialseg.config.trust import refuse_composed_names
from axialseg.errors import UserError
from axialseg.launch import is_launched_rank, run_on_devices
from axialseg.machine.hardware import (
    Hardware,
    check_compiler,
    configure_torch,
    started_rank,
    started_ranks,
)

log = logging.getLogger(__name__)

KEPT_FROM_RUN = ("seed", "model", "data", "schedule", "trainer", "expected")
PANOPTIC_EVALUATION = "axialseg.callbacks.panoptic_evaluation.PanopticEvaluation"
# The hardware of this machine, not of the one that trained.
HARDWARE_HERE = {"accelerator": "auto", "devices": "auto", "num_nodes": 1, "strategy": "auto"}


def main() -> None:
    """The command."""
    run_command(evaluate, "evaluate", check_evaluation, register_saved_run)


def evaluate(cfg: DictConfig) -> float:
    """Scores one checkpoint, or files of predictions.

    Returns:
        `model.objective` in per cent; of files PQ.

    Raises:
        UserError: a wrong setting or file.
    """
    check_evaluation(cfg)
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    if is_launched_rank():
        return _score(cfg, folder, [])
    experiment = str(hydra_config.runtime.choices.get("experiments", "none"))
    rows = _rows(cfg, experiment)
    if cfg.tolerance is not None and not rows:
        raise UserError(
            f"tolerance={cfg.tolerance:g} needs published scores, and experiments={experiment} has "
            "none; choose a row of experiments/README.md"
        )
    if _is_to_be_fetched(cfg.ckpt):  # its size is said before it starts
        fetch_published(cfg.ckpt)
    if cfg.images is not None:
        _draw_all(cfg)
    score = _score(cfg, folder, rows)
    metrics = folder / "metrics.json"
    if rows and metrics.is_file() and started_rank(os.environ) == 0:  # one rank speaks for all
        _compare(rows, json.loads(metrics.read_text()), cfg)
    return score


def check_evaluation(cfg: DictConfig) -> None:
    """Refuses a config that does not say what to evaluate, or says something wrong.

    Raises:
        UserError: one sentence about it.
    """
    if cfg.predictions is not None:
        _check_rescoring(cfg)
        return
    if cfg.run is None and cfg.ckpt is None:
        raise UserError(
            "say what to evaluate: run=<folder of a run>, ckpt=<checkpoint file> or "
            "predictions=<JSON file or folder>"
        )
    if OmegaConf.is_missing(cfg, "data") or OmegaConf.is_missing(cfg.model, "net"):
        raise UserError(f"{cfg.ckpt} does not tell its model; name its model=... and data=... too")
    source = cfg.run or cfg.ckpt
    if cfg.run is not None or Path(source).suffix == ".ckpt":  # which tells its model too
        refuse_composed_names(cfg, cfg.trust, source)
    check_config(cfg)
    if not has_validation(cfg):
        raise UserError(
            "the data have no validation images (data.val_dataset=null); give images=<folder of "
            "pictures> to segment them, or the folder names of a data.val_dataset to score on"
        )
    if cfg.images is not None:
        _check_pictures(cfg)
    if cfg.compile:
        check_compiler()
    check_model_fits_data(cfg)
    is_changed = cfg.scales is not None or cfg.flip or cfg.tile is not None
    if is_changed and not cfg.model.postprocess:
        raise UserError("scales, flip and tile are for models that segment; leave them out")
    if cfg.tile is not None and len(cfg.tile) != 2:
        raise UserError(f"tile={cfg.tile} must be [height,width]")
    if _is_to_be_fetched(cfg.ckpt):
        refuse_other_model(cfg.ckpt, cfg.model)


def _check_pictures(cfg: DictConfig) -> None:
    folder = Path(cfg.images).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"images={cfg.images} is not a folder; give one, with its pictures or with folders of "
            "them (for single files there is: python -m axialseg predict)"
        )
    if not cfg.model.postprocess:
        raise UserError("images=... is for models that segment; leave it out")
    if cfg.tolerance is not None:
        raise UserError("images=... have no ground truth to score; leave out tolerance")
    if Path(cfg.output).resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"output={cfg.output} lies in images={cfg.images}, so results would be taken for "
            "pictures; give another folder"
        )


def _check_rescoring(cfg: DictConfig) -> None:
    if cfg.images is not None:
        raise UserError("predictions=... are scored without pictures; leave out images")
    if cfg.run is not None or cfg.ckpt is not None:
        raise UserError("predictions=... is scored without a model; leave out run and ckpt")
    if OmegaConf.is_missing(cfg, "data"):
        raise UserError("say what predictions=... are compared with: data=<data set>")
    if cfg.scales is not None or cfg.flip or cfg.tile is not None:
        raise UserError("predictions=... are there already; leave out scales, flip and tile")
    checked = OmegaConf.masked_copy(cfg, ["data", "seed"])
    settings = OmegaConf.select(cfg, "callbacks.evaluation") or OmegaConf.create()
    evaluation = OmegaConf.to_container(settings, resolve=False)
    with open_dict(checked):
        checked.callbacks = {"evaluation": evaluation}
        # There is no model that would name the class.
        checked.callbacks.evaluation["_target_"] = PANOPTIC_EVALUATION
    check_config(checked)
    if not Path(cfg.predictions).exists():
        raise UserError(f"predictions={cfg.predictions} does not exist")


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
        chosen = chosen_values(overrides)
        results = Path("evaluation")
        if chosen.get("images") is not None:  # those of a scored evaluation stay as they are
            results = Path("pictures") / Path(str(chosen["images"])).resolve().name
        top = folder / results.parts[0]
        if top.is_symlink() and not {"output", "hydra.run.dir"} & set(chosen):
            raise UserError(f"{top} is a link to another folder; give output=<folder>")
        saved |= {"run": str(folder), "output": str(folder / results)}
    if saved.get("model") or folder is not None:
        saved["trainer"] = saved.get("trainer", {}) | HARDWARE_HERE
    if "model" in saved:  # another model brings this group itself
        saved["defaults"] = ["_self_", {"/model/attention": None}]
    ConfigStore.instance().store(name="saved_run", node=saved)


def _score(cfg: DictConfig, folder: Path, rows: list[ExpectedScores]) -> float:
    if cfg.predictions is not None:
        return _rescore(cfg, folder)
    work = partial(_validate, rows=rows)
    return run_on_devices(work, "axialseg.commands.evaluate", cfg, folder, batch_size=None)


def _rows(cfg: DictConfig, experiment: str) -> list[ExpectedScores]:
    """What the user expects, else what was published for the experiment."""
    if cfg.expected:
        return [ExpectedScores((), 0, "val", None, dict(cfg.expected), {}, {})]
    return expected_rows(experiment)


def _row(rows: list[ExpectedScores], cfg: DictConfig, steps: int) -> ExpectedScores | None:
    return matching_row(rows, cfg.ckpt, steps, list(HydraConfig.get().overrides.task))


def _is_to_be_fetched(ckpt: str | None) -> bool:
    """Whether a published checkpoint is named that is not there."""
    if ckpt is None or Path(ckpt).exists() or ckpt not in published_checkpoints():
        return False
    return started_ranks(os.environ) is None and not converted_path(ckpt, cache_folder()).is_file()


def _draw_all(cfg: DictConfig) -> None:
    """A picture of each of the user's images, unless the command line says how many."""
    drawn = cfg.callbacks.get("images")
    if drawn is not None and "callbacks.images.count" not in chosen_values(
        list(HydraConfig.get().overrides.task)
    ):
        drawn.count = None


def _compare(rows: list[ExpectedScores], measured: dict[str, Any], cfg: DictConfig) -> None:
    """Shows what was expected beside what was measured.

    Raises:
        UserError: `tolerance` is given, and a score is further off.
    """
    steps = measured.get("step", 0)
    row = _row(rows, cfg, steps)
    if row is None:
        text = "no row of this experiment was published with these settings"
        if cfg.tolerance is not None:
            raise UserError(f"tolerance={cfg.tolerance:g} has nothing to compare: {text}")
        log.info("Nothing to compare: %s", text)
        return
    made = f", published after {row.steps} steps, measured after {steps}" if row.steps else ""
    log.info("Expected and measured%s\n%s", made, comparison(row, measured))
    if cfg.tolerance is not None:
        refuse_other_scores(row, measured, cfg.tolerance)


def _validate(
    cfg: DictConfig, hardware: Hardware, folder: Path, rows: list[ExpectedScores]
) -> None:
    # Only now: torch takes seconds, and a wrong config shall not wait for it.
    import lightning.pytorch as pl
    import torch

    from axialseg.build import build_task, build_trainer
    from axialseg.checkpoints.initial import load_trained_weights
    from axialseg.costs.training_memory import AUTOCAST
    from axialseg.inference.augmented import Augmented
    from axialseg.inference.exported_net import is_exported
    from axialseg.inference.fused_convolutions import inference_form
    from axialseg.inference.tiles import Tiles
    from axialseg.tasks.panoptic_task import PanopticTask

    configure_torch(hardware)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    checkpoint = cfg.ckpt or _checkpoint_of(Path(cfg.run))
    datamodule = _data(cfg, checkpoint)
    task = build_task(cfg, datamodule.categories)
    net = task.get_submodule("net")
    if is_exported(checkpoint):
        steps = _take_exported(task, Path(checkpoint), cfg)
        net = task.get_submodule("net")
    else:
        steps = load_trained_weights(net, checkpoint)
    if cfg.fold_batch_norms and not is_exported(checkpoint):  # which is folded
        dtype = AUTOCAST.get(hardware.precision) or torch.float32
        device_type = "cpu" if hardware.accelerator == "cpu" else "cuda"
        net = inference_form(net.eval(), device_type, dtype)
        task.set_submodule("net", net)
    if cfg.compile:
        net.compile(dynamic=False)
    if cfg.scales is not None or cfg.flip:
        scales = [1.0] if cfg.scales is None else list(cfg.scales)
        task.set_submodule("net", Augmented(net, scales, cfg.flip))
    if cfg.tile is not None:
        height, width = cfg.tile
        cast(PanopticTask, task).tiles = Tiles((height, width), cfg.tile_overlap)
    trainer = build_trainer(cfg, hardware, folder)
    # The callbacks tell the step; a trainer that has not trained would say 0.
    progress = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress
    progress.optimizer.step.total.completed = steps
    trainer.validate(task, datamodule=datamodule, verbose=False)
    trainer.strategy.barrier()  # rank 0 has written metrics.json
    if trainer.is_global_zero:
        row = _row(rows, cfg, steps)
        source = os.path.relpath(checkpoint) if Path(checkpoint).exists() else str(checkpoint)
        source += f", after {steps:,} steps" if steps else ""
        _report(folder, trainer, datamodule, row.scores if row else {}, source)
        log.info("What was written is in %s", os.path.relpath(folder))


def _data(cfg: DictConfig, checkpoint: str | Path) -> Any:
    """The validation images, or the pictures that the user names."""
    from axialseg.build import build_evaluation_data, build_picture_data

    if cfg.images is None:
        return build_evaluation_data(cfg)
    from axialseg.model_zoo import describe
    from axialseg.panoptic.categories import Categories

    _, _, categories = describe(checkpoint, cfg.trust)
    assert isinstance(categories, Categories)  # the model segments, see `_check_pictures`
    return build_picture_data(cfg, cfg.images, categories)


def _take_exported(task: Any, path: Path, cfg: DictConfig) -> int:
    """Puts an exported network into the task; its optimiser steps."""
    from axialseg.inference.exported_net import ExportedNet, GivenMaps, read_facts

    if cfg.compile:
        raise UserError(f"{path} is compiled by its own runtime; leave out compile=true")
    net = ExportedNet(path, read_facts(path), cfg.trust)
    net.refuse_views(cfg.scales is not None or cfg.flip or cfg.tile is not None)
    task.set_submodule("net", net.eval())
    if net.has_maps:
        task.postprocess = GivenMaps(task.postprocess.ignore_class)
    return net.step


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


def _report(
    folder: Path, trainer: Any, datamodule: Any, expected: Mapping[str, float], source: str
) -> None:
    """The page of an evaluation, if it was one of segmentations with ground truth."""
    from axialseg.callbacks.panoptic_evaluation import PanopticEvaluation
    from axialseg.evaluation.report import write_report
    from axialseg.evaluation.rescoring import PredictionFiles

    for callback in trainer.callbacks:
        if isinstance(callback, PanopticEvaluation) and callback.record is not None:
            table = folder / "predictions.json"
            dataset = datamodule.val_dataset
            files = PredictionFiles(table, dataset.categories) if table.is_file() else None
            images = callback.images
            write_report(folder, callback.record, images, dataset, files, expected, source)


def _rescore(cfg: DictConfig, folder: Path) -> float:
    from axialseg.build import build_evaluation_data
    from axialseg.callbacks.scores import write_json
    from axialseg.datasets.datamodule import PanopticDataModule
    from axialseg.evaluation.report import write_report
    from axialseg.evaluation.rescoring import PredictionFiles, rescore
    from axialseg.evaluation.summary import summarize
    from axialseg.evaluation.tables import metrics_record, metrics_table
    from axialseg.machine.freed_memory import keep_freed_memory

    keep_freed_memory()
    datamodule = build_evaluation_data(cfg)
    if not isinstance(datamodule, PanopticDataModule):
        raise UserError("predictions=... are panoptic; give data=<a panoptic data set>")
    datamodule.prepare_data()
    dataset = datamodule.val_dataset
    if dataset is None:
        raise UserError("the data have no validation images to compare with")
    predictions = PredictionFiles(cfg.predictions, dataset.categories)
    total = len(dataset)
    log.info("Scoring %s on %d images", predictions.path, total)
    boundary = bool(OmegaConf.select(cfg, "callbacks.evaluation.boundary"))
    images = rescore(dataset, predictions, boundary, partial(_tell_progress, total))
    if not images:
        raise UserError("no image of the data set has ground truth, so nothing can be scored")
    if len(predictions) > total:
        log.warning("%d predictions are of other images.", len(predictions) - total)
    summary = summarize(images, dataset.categories)
    record: dict[str, Any] = {"images": len(images), "predictions": str(predictions.path)}
    record |= metrics_record(summary)
    log.info("%d images\n%s", len(images), metrics_table(summary))
    write_json(folder / "metrics.json", record)
    source = str(predictions.path)
    write_report(folder, record, images, dataset, predictions, dict(cfg.expected), source)
    log.info("What was written is in %s", os.path.relpath(folder))
    return math.nan if record["PQ"] is None else float(record["PQ"])


def _tell_progress(total: int, done: int) -> None:
    if done == total or done % 512 == 0:
        log.info("%d of %d images", done, total)


if __name__ == "__main__":
    main()
