"""Matching 128 slots with the masks of an image: ours, scipy on the square problem, lap.

    python benchmarks/matching.py [--quick]

One process, one thread, its CPU time; the contestants take turns, medians. `squared` does what the
authors' code does before it solves the same problem: rows for all 181 masks that an image may have,
constant costs where there is none, and a square of 181. `lap` is the package of that name, if it is
installed (`pip install lap`). All costs agree.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from axialseg.losses.matching import match_masks

try:
    import lap
except ImportError:
    lap = None

SLOTS = 128
MASKS = 128 + 53  # rows of the authors' code for COCO
COUNTS = (5, 20, 50, 100)


def costs(count: int) -> Tensor:
    """``[1, count, SLOTS]``, products of random similarities as in a training that has begun."""
    rng = np.random.default_rng(count)
    values = -rng.random((1, count, SLOTS)) * rng.random((1, count, SLOTS))
    return torch.from_numpy(values.astype(np.float32))


def ours(cost: Tensor) -> NDArray[np.int64]:
    """Slot of each mask."""
    valid = torch.ones(cost.shape[:2], dtype=torch.bool)
    return match_masks(cost, valid)[0].numpy()


def squared(cost: Tensor) -> NDArray[np.int64]:
    """Slot of each mask."""
    count = cost.shape[1]
    square: NDArray[np.float64] = np.full((MASKS, MASKS), -999.0)
    square[count:, :SLOTS] = 999.0
    square[:count, :SLOTS] = cost[0].numpy()
    square[:count, SLOTS:] = 999.0
    return linear_sum_assignment(square)[1][:count]


def by_lap(cost: Tensor) -> NDArray[np.int64]:
    """Slot of each mask."""
    return lap.lapjv(cost[0].double().numpy(), extend_cost=True)[1]


Solver = Callable[[Tensor], NDArray[np.int64]]


def medians(contestants: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Microseconds of this process's CPU, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()
    for _ in range(repeats):
        for name, run in contestants.items():
            start = time.process_time()
            run()
            times[name].append(1e6 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Prints one line for each number of masks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    repeats = 51 if parser.parse_args().quick else 501
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, one thread, {SLOTS} slots")
    solvers: dict[str, Solver] = {"ours": ours, "squared": squared}
    if lap is not None:
        solvers["lap"] = by_lap
    others = [name for name in solvers if name != "ours"]
    print(
        f"  {'masks':<8}{'ours us':>10}" + "".join(f"{n + ' us':>14}{'x ours':>8}" for n in others)
    )
    for count in COUNTS:
        cost = costs(count)
        totals = [float(cost[0, range(count), solve(cost)].sum()) for solve in solvers.values()]
        assert max(totals) - min(totals) < 1e-5, totals
        times = medians({name: partial(solve, cost) for name, solve in solvers.items()}, repeats)
        cells = "".join(f"{times[n]:14.0f}{times[n] / times['ours']:8.1f}" for n in others)
        print(f"  {count:<8}{times['ours']:10.0f}{cells}")


if __name__ == "__main__":
    main()
