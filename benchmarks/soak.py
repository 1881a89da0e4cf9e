"""A long training: do memory, open files and the time of a step stay flat?

    python benchmarks/soak.py [--quick] [--steps N]

`data=shapes` without a cache, a tiny network, two loader workers, a validation, pictures, curves
and a checkpoint every 250 steps. At each validation a line tells: memory (PSS: shared pages
counted once) of the process and of its workers, and what of it is neither a file nor shared
memory; open files of all; and of the steps since the line before: the processor time of a step in
the main process, and the median time on the clock. A machine is not equally fast all the time: so
a fixed work is timed every ten steps, and the last column is the processor time of a step in units
of it. This one has to stay flat.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightning.pytorch as pl
import torch
from torch import nn

from axialseg.commands import train

EVERY = 250
YARDSTICK_EVERY = 10
IMAGES = ("train_images=32", "val_images=4")
TINY = [
    "model=axial_deeplab_tiny",
    "model.backbone.stage_blocks=[1,1,1,1]",
    "model.backbone.stage_channels=[16,16,32,32]",
    "data.crop_size=[33,33]",
    "data.cache=false",
    "data.num_workers=2",
    "data.val_num_workers=1",
    "data.val_batch_size=2",
    "schedule.batch_size=2",
    "hardware=cpu",
    "hydra/job_logging=disabled",
    "+callbacks.soak._target_=soak.Soak",
]


class Soak(pl.Callback):
    """Prints a line at the start of each validation."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins to count."""
        self._yardstick = Yardstick()
        print(f"{'':6}{'main process, MiB':>20}{'workers, MiB':>20}")
        print(
            f"{'step':>6}{'PSS':>10}{'anonymous':>10}{'PSS':>10}{'anonymous':>10}"
            f"{'files':>7}{'CPU ms/step':>13}{'ms/step':>9}{'CPU/fixed':>11}",
            flush=True,
        )
        self._begin()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Notes when the step has ended."""
        self._ends.append(time.perf_counter())
        if trainer.global_step % YARDSTICK_EVERY == 0:
            self._fixed.append(self._yardstick.milliseconds())
            self._starts.append(time.perf_counter())
        else:
            self._starts.append(self._ends[-1])

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints the line."""
        steps = [1e3 * (b - a) for a, b in zip(self._starts, self._ends[1:], strict=False)]
        if steps:
            cpu = 1e3 * (time.process_time() - self._cpu) - sum(self._fixed)
            cpu /= len(self._ends)
            main = os.getpid()
            workers = [child.pid or 0 for child in multiprocessing.active_children()]
            sizes = [memory_of([main]), memory_of(workers)]
            memory = "".join(f"{pss:10.0f}{anonymous:10.0f}" for pss, anonymous in sizes)
            files = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in (main, *workers))
            times = f"{cpu:13.1f}{statistics.median(steps):9.1f}"
            times += f"{cpu / statistics.mean(self._fixed):11.2f}"
            print(f"{trainer.global_step:>6}{memory}{files:7}{times}", flush=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins anew."""
        self._begin()

    def _begin(self) -> None:
        self._starts: list[float] = []
        self._ends: list[float] = []
        self._fixed: list[float] = []
        self._cpu = time.process_time()


class Yardstick:
    """A fixed work like that of a step: many small operators, forward and backward."""

    def __init__(self) -> None:
        layers = [
            part
            for _ in range(10)
            for part in (nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        ]
        self._net = nn.Sequential(*layers)
        self._images = torch.zeros(2, 16, 17, 17)

    def milliseconds(self) -> float:
        """Processor time of it now."""
        start = time.process_time()
        with torch.enable_grad():
            self._net(self._images).sum().backward()
        return 1e3 * (time.process_time() - start)


def memory_of(pids: list[int]) -> tuple[float, float]:
    """PSS of processes together, and the part of it that is anonymous, in MiB."""
    sums = dict.fromkeys(("Pss", "Pss_Anon"), 0.0)
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, size = line.split(":")
            if name in sums:
                sums[name] += int(size.split()[0]) / 1024
    return sums["Pss"], sums["Pss_Anon"]


def main() -> None:
    """Trains in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="500 steps")
    parser.add_argument("--steps", type=int, default=5000)
    options = parser.parse_args()
    steps = 500 if options.quick else options.steps
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        flush=True,
    )
    sys.path.insert(0, str(Path(__file__).parent))
    with tempfile.TemporaryDirectory() as folder:
        counts = [f"+data.{split}_dataset.{n}" for split in ("train", "val") for n in IMAGES]
        where = [f"data.root={folder}/shapes", f"hydra.run.dir={folder}/run"]
        length = [f"trainer.max_steps={steps}", f"trainer.val_check_interval={EVERY}"]
        sys.argv[1:] = [*TINY, *counts, *where, *length]
        train.main()


if __name__ == "__main__":
    main()
