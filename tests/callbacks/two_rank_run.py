"""One of two ranks of a run on CPUs, for `test_two_ranks.py`: ``two_rank_run.py <folder>``.

Rank 1 alone meets a NaN loss in step 1, and gets a signal to stop in step 5.
"""

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from toy_panoptic import ToyData, toy_task, toy_trainer

from axialseg.callbacks.last_checkpoint import LastCheckpoint
from axialseg.callbacks.official_predictions import OfficialPredictions
from axialseg.callbacks.panoptic_evaluation import PanopticEvaluation
from axialseg.callbacks.panoptic_images import PanopticImages
from axialseg.callbacks.preemption import Preempted, Preemption
from axialseg.callbacks.progress import Progress
from axialseg.loggers.csv import CsvLogger


class SignalRank1(pl.Callback):
    """Sends rank 1 a signal in step 5."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 5 and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGUSR1)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank = os.environ["LOCAL_RANK"]
    logging.basicConfig(filename=folder / f"rank{rank}.log", level="INFO", format="%(message)s")
    task = toy_task(20)
    trainer = toy_trainer(
        folder,
        20,
        devices=2,
        strategy="ddp",
        val_check_interval=4,
        log_every_n_steps=1,
        logger=[CsvLogger(folder)],
        callbacks=[
            SignalRank1(),
            Progress(2),
            PanopticEvaluation(),
            PanopticImages(2),
            PanopticImages(None),
            OfficialPredictions(),
            Preemption(agree_every_n_steps=4),
            LastCheckpoint(4),
        ],
    )
    code: object = 0
    try:
        trainer.fit(task, datamodule=ToyData(poisoned=[5], val_images=5))
    except Preempted as stop:
        code = stop.code
    weights = [value.tolist() for value in task.parameters()]
    result = {
        "code": code,
        "step": trainer.global_step,
        "skipped": task.guard.skipped_steps,
        "weights": weights,
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
