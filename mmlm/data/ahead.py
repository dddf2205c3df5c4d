"""What a function of the step gives, computed in a thread before it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """`make(step)` for any step; the `depth` steps after one that is asked for are begun, up to the step `end`.

    An error of `make` comes out where its step is asked for. `close` ends the thread.
    """

    def __init__(self, make: Callable[[int], Made], end: int, depth: int = 2) -> None:
        self.make, self.end, self.depth = make, end, depth
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._begun: dict[int, Future[Made]] = {}

    def __call__(self, step: int) -> Made:
        """What `make` gives for a step. Steps that were begun and are not among the next ones are dropped."""
        wanted = [step, *range(step + 1, min(step + 1 + self.depth, self.end))]
        for own in [own for own in self._begun if own not in wanted]:
            self._begun.pop(own).cancel()
        for own in wanted:
            if own not in self._begun:
                self._begun[own] = self._thread.submit(self.make, own)
        return self._begun.pop(step).result()

    def close(self) -> None:
        """Ends the thread, after what it is at."""
        self._thread.shutdown(cancel_futures=True)
        self._begun.clear()
