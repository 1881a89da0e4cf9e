"""Work beside the forward pass: in order, waited for, and its errors are not lost."""

import threading

import pytest

from axialseg.callbacks.background import WAITING, Background


def test_the_giver_need_not_wait() -> None:
    background, allowed, done = Background(), threading.Event(), []

    def work(number: int) -> None:
        assert allowed.wait(30)
        done.append(number)

    for number in range(3):
        background.give(work, number)
    assert done == []  # the next batch's forward pass would run now
    allowed.set()
    background.finish()
    assert done == [0, 1, 2]


def test_errors_reach_the_giver() -> None:
    def work() -> None:
        raise OSError("full")

    background = Background()
    background.give(work)
    with pytest.raises(OSError, match="full"):
        background.finish()

    def give_on() -> None:
        for _ in range(10_000):
            background.give(work)

    background = Background()
    with pytest.raises(OSError, match="full"):
        give_on()
    background.stop()


def test_not_more_waits_than_fits_the_memory() -> None:
    background, allowed = Background(), threading.Event()
    most, waiting = 0, []

    def work() -> None:
        assert allowed.wait(30)
        waiting.pop()

    def give() -> None:
        for _ in range(WAITING + 5):
            waiting.append(None)
            background.give(work)

    giver = threading.Thread(target=give)
    giver.start()
    giver.join(0.2)
    most = len(waiting)
    assert giver.is_alive()
    allowed.set()
    giver.join(30)
    background.finish()
    assert most <= WAITING + 1
    assert waiting == []
