"""Whether a step fits, and into how many parts it must be split."""

from typing import Any

import pytest

from axialseg.costs.fit import RANK_BYTES, Fit, Room, fit, is_obviously_small, needed_bytes

MIB, GIB = 2**20, 2**30


class Step:
    """Stands in for a `FakeStep`: 200 MiB, and 100 for each image."""

    gradients = 50 * MIB

    def peak_bytes(self, images: int) -> int:
        return (200 + 100 * images) * MIB

    def process_bytes(self, images: int) -> int:
        return 2 * self.peak_bytes(images)


def room(**values: Any) -> Room:
    usual = {"free": GIB, "is_gpu": False, "ranks": 1, "workers": 0, "cached": 0}
    return Room(**(usual | values))


@pytest.mark.parametrize(
    ("free", "accumulated"),
    [
        (3 * GIB, 1),
        (2 * GIB, 2),
        (1300 * MIB, 3),
        (900 * MIB, 6),
        (650 * MIB, 12),
        (600 * MIB, None),
    ],
)
def test_the_fewest_parts_that_fit(free: int, accumulated: int | None) -> None:
    step: Any = Step()
    found = fit(step, 12, room(free=free), 0)
    assert found == Fit(2800 * MIB, free, accumulated)


def test_processes_workers_batches_and_images_count() -> None:
    step: Any = Step()
    alone = needed_bytes(step, 4, room(), 10 * MIB)
    assert alone == 1240 * MIB
    assert needed_bytes(step, 4, room(cached=7 * MIB), 10 * MIB) == alone + 7 * MIB
    assert needed_bytes(step, 4, room(workers=2), 0) == 1200 * MIB + 2 * 120 * MIB
    assert needed_bytes(step, 4, room(workers=2), 10 * MIB) == (1200 + 240 + 160) * MIB
    assert needed_bytes(step, 4, room(ranks=3), 10 * MIB) == 3 * alone + 2 * RANK_BYTES


def test_a_gpu_holds_tensors_alone_and_gradients_twice_more() -> None:
    step: Any = Step()
    assert needed_bytes(step, 4, room(is_gpu=True, workers=9), MIB) == (600 + 100) * MIB


def test_small_steps_are_not_counted() -> None:
    assert is_obviously_small(2, (33, 33), 70_000, room(free=2 * GIB))
    assert not is_obviously_small(2, (33, 33), 70_000, room(free=2 * GIB, ranks=4))
    assert not is_obviously_small(64, (641, 641), 10**6, room(free=512 * GIB))
