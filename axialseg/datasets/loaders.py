"""What all data modules have in common: loaders with batches by the seed, and their errors.

Training batches are endless. Sample n of the run is image and augmentation number n of an order
that follows from the seed (`sampler.py`), so batches do not depend on the number of workers and a
resumed run continues where it stopped.
"""

import logging
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from axialseg.datasets.sampler import CounterSampler, ShardSampler
from axialseg.errors import UserError
from axialseg.machine.child_process import (
    end_with_parent,
    leave_signals_to_parent,
    stop_signals_blocked,
)
from axialseg.machine.freed_memory import keep_freed_memory

log = logging.getLogger(__name__)

Batch = dict[str, Any]


class ImageDataModule(LightningDataModule):
    """Makes the loaders of one data set; a subclass says what an item is."""

    def __init__(
        self,
        batch_size: int,
        val_batch_size: int,
        num_workers: int,
        val_num_workers: int,
        seed: int,
    ) -> None:
        """Keeps the settings; the data modules explain them."""
        super().__init__()
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.num_workers = num_workers
        self.val_num_workers = val_num_workers
        self.seed = seed

    def training_loader(
        self, items: Dataset, length: int, repeat_factors: Tensor | None = None
    ) -> DataLoader:
        """Endless training batches, from the position that the trainer has reached.

        Args:
            items: sample key -> arrays of one sample, or the `UserError` in its place.
            length: number of images.
            repeat_factors: see `CounterSampler`.
        """
        rank, world, start = 0, 1, 0
        if self.trainer is not None:
            rank, world = self.trainer.global_rank, self.trainer.world_size
            per_step = self.batch_size * world * self.trainer.accumulate_grad_batches
            start = self.trainer.global_step * per_step
            if per_step > length and rank == 0:
                log.warning(
                    "There are %d training images, fewer than schedule.batch_size=%d: a step has "
                    "some of them more than once",
                    *(length, per_step),
                )
        return UserErrorLoader(
            items,
            batch_size=self.batch_size,
            sampler=CounterSampler(length, self.seed, start, rank, world, repeat_factors),
            collate_fn=stack_items,
            **_process_options(self.num_workers),
        )

    def validation_loader(
        self, items: Dataset, length: int, collate: Callable[[list[Any]], Batch | UserError]
    ) -> DataLoader:
        """This rank's validation batches, in file order.

        Args:
            items: index -> one image, or the `UserError` in its place.
            length: number of images.
            collate: items of a batch -> the batch, or the first mistake among them.

        Raises:
            UserError: there are fewer images than ranks.
        """
        rank, world = 0, 1
        if self.trainer is not None:
            rank, world = self.trainer.global_rank, self.trainer.world_size
        if length < world:
            raise UserError(
                f"{length} image{'s' * (length != 1)} to validate on, but each of {world} devices "
                "needs one; give more images or fewer trainer.devices"
            )
        return UserErrorLoader(
            items,
            batch_size=self.val_batch_size,
            sampler=ShardSampler(length, rank, world),
            collate_fn=collate,
            **_process_options(self.val_num_workers),
        )


class UserErrorLoader(DataLoader):
    """A loader that raises the user's mistakes as they are.

    An exception in a worker process reaches the main one with the worker's trace in its message.
    A `UserError` is therefore passed on in place of the batch and raised here.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yields the batches."""
        with stop_signals_blocked():
            batches = super().__iter__()
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            yield batch


def stack_items(items: list[Batch | UserError]) -> Batch | UserError:
    """Stacks the values of all items by name; the first mistake found stands for the batch."""
    for item in items:
        if isinstance(item, UserError):
            return item
    return default_collate(items)


def _process_options(num_workers: int) -> dict[str, Any]:
    """DataLoader arguments about processes."""
    return {
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "worker_init_fn": _start_worker,
        "pin_memory": torch.cuda.is_available(),
        # Its own generator: starting a loader must not change the run's random numbers.
        "generator": torch.Generator(),
    }


def _start_worker(worker: int) -> None:
    """In a worker process."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        end_with_parent(parent.pid)
    leave_signals_to_parent()
    cv2.setNumThreads(0)  # the processes work in parallel; threads would only compete
    keep_freed_memory()
