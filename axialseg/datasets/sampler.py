"""Which image comes when: orders that follow from seed and position alone.

Nothing needs saving: a resumed run computes its position from the number of optimiser steps done
and goes on as if it had never stopped, with any number of loader workers.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
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

    Positions count from 0 over all ranks. An epoch is as many positions as there are images, and
    a permutation of them drawn from (seed, epoch). Rank r takes every world-th position, so that
    together the ranks see each image once per epoch.

    With repeat factors an image comes factor times per epoch: as often as the integer part says,
    and once more with the probability of the rest; epochs then differ in length.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        repeat_factors: Tensor | None = None,
    ) -> None:
        """Keeps the place in the order.

        Args:
            length: number of images in the data set.
            seed: the order follows from it.
            start: first position of all ranks together, i.e. the samples already consumed.
            rank: this process's number.
            world: number of processes.
            repeat_factors: float32 ``[length]``, each at least 1, see `repeat_factors`; None is 1
                for all.
        """
        self.length = length
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world = world
        self.repeat_factors = repeat_factors

    def __iter__(self) -> Iterator[SampleKey]:
        """Yields this rank's keys from the start position on, without end."""
        position = self.start + self.rank
        epoch = position // self.length if self.repeat_factors is None else 0
        first, order = epoch * self.length, self._order(epoch)
        while True:
            while position >= first + len(order):
                first, epoch = first + len(order), epoch + 1
                order = self._order(epoch)
            yield SampleKey(position, int(order[position - first]))
            position += self.world

    def _order(self, epoch: int) -> Tensor:
        """Images of an epoch in order, int64."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        if self.repeat_factors is None:
            return torch.randperm(self.length, generator=generator)
        whole = self.repeat_factors.floor()
        is_once_more = torch.rand(self.length, generator=generator) < self.repeat_factors - whole
        items = torch.arange(self.length).repeat_interleave(whole.long() + is_once_more)
        return items[torch.randperm(len(items), generator=generator)]


def repeat_factors(class_presence: NDArray[np.bool_], threshold: float) -> Tensor:
    """How often each image comes per epoch, so that rare classes come more often.

    Source: Gupta et al. 2019, "LVIS", sec. 4.2 (repeat factor sampling): a class in a share f of
    the images has the factor max(1, sqrt(threshold / f)), an image the largest of its classes.

    Args:
        class_presence: which classes each image holds, ``[N, C]``.
        threshold: share of the images below which a class is rare (LVIS: 0.001).

    Returns:
        float32 ``[N]``, each at least 1.
    """
    share = class_presence.mean(axis=0, dtype=np.float64)
    of_class = np.sqrt(threshold / np.maximum(share, 1 / len(class_presence))).clip(min=1)
    of_image = np.where(class_presence, of_class, 1).max(axis=1)
    return torch.from_numpy(of_image.astype(np.float32))


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
