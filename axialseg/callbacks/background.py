"""Work on predictions in a thread of its own, beside the next batch's forward pass."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

WAITING = 16  # images; more would only fill the memory


class Background:
    """One thread that works through what it is given, in order; errors reach the one who gives."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def give(self, work: Callable[..., None], *arguments: Any) -> None:
        """Adds work; waits only while too much is waiting already."""
        while self._waiting and (len(self._waiting) >= WAITING or self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(work, *arguments))

    def finish(self) -> None:
        """Waits until all is done."""
        while self._waiting:
            self._waiting.popleft().result()
        self._thread.shutdown()

    def stop(self) -> None:
        """Drops what has not begun."""
        self._thread.shutdown(cancel_futures=True)
