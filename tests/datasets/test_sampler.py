"""Orders that follow from seed and position."""

from itertools import islice

import numpy as np
import pytest
import torch

from axialseg.datasets.sampler import CounterSampler, SampleKey, ShardSampler, repeat_factors


def first(sampler: CounterSampler, count: int) -> list[SampleKey]:
    return list(islice(sampler, count))


def test_every_epoch_is_another_permutation() -> None:
    keys = first(CounterSampler(7, seed=0), 21)
    assert [key.position for key in keys] == list(range(21))
    epochs = [[key.item for key in keys[e : e + 7]] for e in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_order_depends_on_the_seed_alone() -> None:
    assert first(CounterSampler(50, seed=1), 60) == first(CounterSampler(50, seed=1), 60)
    assert first(CounterSampler(50, seed=1), 50) != first(CounterSampler(50, seed=2), 50)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_an_epoch_without_overlap(world: int) -> None:
    length = 12
    ranks = [
        first(CounterSampler(length, 0, rank=r, world=world), length // world) for r in range(world)
    ]
    assert sorted(key.item for keys in ranks for key in keys) == list(range(length))
    together = sorted(key for keys in ranks for key in keys)
    assert together == first(CounterSampler(length, 0), length)


@pytest.mark.parametrize("start", [1, 8, 40])
def test_a_resumed_order_is_the_rest_of_the_uninterrupted_one(start: int) -> None:
    whole = first(CounterSampler(8, 3), 60)
    assert first(CounterSampler(8, 3, start=start), 20) == whole[start : start + 20]
    rank = first(CounterSampler(8, 3, start=start, rank=1, world=2), 5)
    assert rank == whole[start + 1 : start + 11 : 2]


def test_validation_is_neither_padded_nor_repeated() -> None:
    shards = [list(ShardSampler(5, rank, 2)) for rank in range(2)]
    assert shards == [[0, 2, 4], [1, 3]]
    assert [len(ShardSampler(5, rank, 2)) for rank in range(2)] == [3, 2]


PRESENCE = np.zeros((100, 4), bool)
PRESENCE[:, 1] = True  # everywhere
PRESENCE[:25, 2] = True  # in a quarter of the images
PRESENCE[24:28, 3] = True  # in 4 of 100; one of them with class 2


def test_repeat_factors_follow_the_lvis_rule() -> None:
    factors = repeat_factors(PRESENCE, threshold=0.49)
    assert factors.dtype == torch.float32
    # By hand: sqrt(0.49 / 0.25) = 1.4 and sqrt(0.49 / 0.04) = 3.5; the larger one wins.
    torch.testing.assert_close(factors[:24], torch.full((24,), 1.4))
    torch.testing.assert_close(factors[24:28], torch.full((4,), 3.5))
    assert (factors[28:] == 1).all()
    assert (repeat_factors(PRESENCE, threshold=0.001) == 1).all()


def test_repeated_images_come_as_often_as_their_factor() -> None:
    whole = CounterSampler(4, seed=0, repeat_factors=torch.tensor([1.0, 2.0, 3.0, 1.0]))
    keys = first(whole, 7 * 50)
    epochs = [[key.item for key in keys[e : e + 7]] for e in range(0, len(keys), 7)]
    assert all(sorted(epoch) == [0, 1, 1, 2, 2, 2, 3] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 40

    partly = CounterSampler(4, seed=0, repeat_factors=torch.tensor([1.0, 2.0, 2.5, 1.25]))
    keys = first(partly, 6750)
    assert [key.position for key in keys] == list(range(len(keys)))
    counts = np.bincount([key.item for key in keys])
    assert abs(counts / counts[0] - [1, 2, 2.5, 1.25]).max() < 0.05


@pytest.mark.parametrize("start", [0, 1, 5, 40, 211])
def test_repeated_orders_resume_and_are_shared_by_ranks(start: int) -> None:
    factors = torch.linspace(1, 3, 9)
    whole = first(CounterSampler(9, 5, repeat_factors=factors), 300)
    for rank in range(2):
        sampler = CounterSampler(9, 5, start, rank, world=2, repeat_factors=factors)
        assert first(sampler, 30) == whole[start + rank : start + rank + 60 : 2]
