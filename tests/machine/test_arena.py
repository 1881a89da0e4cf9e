"""The allocator's arena for a series of blocks."""

from array import array

import pytest

from axialseg.machine.arena import arena_bytes

MIB = 2**20


def series(*events: tuple[int, int]) -> "array[int]":
    return array("q", [value for event in events for value in event])


def test_blocks_held_at_once_add_up_and_freed_ones_are_used_again() -> None:
    twice = series((1, 8 * MIB), (2, 4 * MIB), (-1, 0), (-2, 0), (3, 7 * MIB), (-3, 0))
    assert arena_bytes(twice) == pytest.approx(12 * MIB, abs=MIB)


def test_a_hole_that_is_too_small_is_taken_beside() -> None:
    # 8 MiB are free below the 4 MiB that stay, and 9 MiB do not fit there.
    holes = series((1, 8 * MIB), (2, 4 * MIB), (-1, 0), (3, 9 * MIB))
    assert arena_bytes(holes) == pytest.approx(21 * MIB, abs=MIB)


def test_blocks_of_gigabytes_count_and_no_page_is_touched() -> None:
    large = series((1, 3 * 1024 * MIB), (2, 1024 * MIB // 2), (-1, 0), (-2, 0))
    assert arena_bytes(large) == pytest.approx(3584 * MIB, abs=2 * MIB)


def test_what_cannot_be_promised_is_unknown() -> None:
    assert arena_bytes(series((1, 2**62))) is None


def test_ends_of_blocks_from_before_are_left_alone() -> None:
    assert arena_bytes(series((-7, 0), (1, MIB))) == pytest.approx(MIB, abs=MIB // 4)


def test_small_blocks_between_the_large_ones_cost_holes() -> None:
    """The series alone would find each hole again."""
    events = [(1 + number, MIB) for number in range(100)]
    for turn in range(300):
        events += [(-(1 + turn), 0), (101 + turn, MIB)]
    taken = arena_bytes(series(*events))
    assert taken is not None
    assert 120 * MIB < taken < 400 * MIB
