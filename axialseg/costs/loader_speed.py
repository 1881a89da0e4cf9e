"""How fast a data module's loader processes make training images."""

import time
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader


def images_per_second(datamodule: Any, workers: int, seconds: float) -> float:
    """Training images per second, transforms, targets and batching included.

    Nothing else is done with the batches, and those made while the processes start are not
    counted.

    Args:
        datamodule: `ImageDataModule` that is set up for `fit`; its `num_workers` is changed.
        workers: number of processes, at least 1.
        seconds: the measurement goes on for so long at the least.

    Raises:
        UserError: a file is missing or damaged.
    """
    datamodule.num_workers = workers
    loader: DataLoader = datamodule.train_dataloader()
    batches = iter(loader)
    made_ahead = (loader.prefetch_factor or 2) * workers
    for _ in islice(batches, made_ahead + workers):
        pass
    start, images = time.perf_counter(), 0
    # Each process hands in a batch in turn: only whole turns are counted.
    while images == 0 or time.perf_counter() - start < seconds:
        for _ in islice(batches, workers):
            images += datamodule.batch_size
    return images / (time.perf_counter() - start)
