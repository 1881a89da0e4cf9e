"""Which image comes when: orders that follow from seed and position alone.

Nothing needs saving: a resumed run computes its position from the number of optimiser steps done
and goes on as if it had never stopped, with any number of loader workers.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import Sampler


class SampleKey(NamedTuple):
    """One draw.

    Attributes:
        position: place in the endless order; it seeds the augmentation.
        item: index of the image in the data set.
    """

    position: int
    item: int


class CounterSampler(Sampler[SampleKey]):
    """Endless shuffled order, dealt out to the ranks in turn.

    Positions count from 0 over all ranks; positions ``e * length .. (e + 1) * length - 1`` are a
    permutation of the images drawn from (seed, e). Rank r takes every world-th position, so that
    together the ranks see each image once per epoch.
    """

    def __init__(
        self, length: int, seed: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        """Keeps the place in the order.

        Args:
            length: number of images in the data set.
            seed: the order follows from it.
            start: first position of all ranks together, i.e. the samples already consumed.
            rank: this process's number.
            world: number of processes.
        """
        self.length = length
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world = world

    def __iter__(self) -> Iterator[SampleKey]:
        """Yields this rank's keys from the start position on, without end."""
        position = self.start + self.rank
        epoch, order = -1, torch.empty(0, dtype=torch.int64)
        while True:
            if position // self.length != epoch:
                epoch = position // self.length
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                order = torch.randperm(self.length, generator=generator)
            yield SampleKey(position, int(order[position % self.length]))
            position += self.world


class ShardSampler(Sampler[int]):
    """This rank's share of the images in file order, neither padded nor repeated.

    Ranks may get different counts, so no collective may run inside a validation step.
    """

    def __init__(self, length: int, rank: int = 0, world: int = 1) -> None:
        """Keeps the shard.

        Args:
            length: number of images in the data set.
            rank: this process's number.
            world: number of processes.
        """
        self.indices = range(rank, length, world)

    def __iter__(self) -> Iterator[int]:
        """Yields the indices rank, rank + world, ..."""
        return iter(self.indices)

    def __len__(self) -> int:
        """Number of images of this rank."""
        return len(self.indices)
