"""Orders that follow from seed and position."""

from itertools import islice

import pytest

from axialseg.datasets.sampler import CounterSampler, SampleKey, ShardSampler


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
