"""Over how many threads a thread splits its work: as many as make it fastest beside others, found by timing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from statistics import median

import torch

log = logging.getLogger(__name__)

STEPS = 7  # that are timed
SECONDS = 0.5  # after which no further step is timed
ABOUT_AS_FAST = 1.1

_lock = threading.Lock()  # of those that settle, so that none times or remembers what another tries


def settle_threads(run: Callable[[], object]) -> int:
    """Splits the work of this thread over the fewest threads with which `run` is about as fast as with any; how many.

    The threads of one team meet many times in a step of a language model. Where several teams share the cores of a
    processor, as those of a thread that decodes and of one that encodes media do, a meeting can take longer than the
    work between two, for they sleep then in place of waiting. Other threads, and those begun later, keep their own.
    """
    with _lock:
        chosen = default = torch.get_num_threads()
        seconds: dict[int, float] = {}
        try:
            for count in sorted({default, *(2**n for n in range(default.bit_length()))}, reverse=True):
                _split(count, default)
                seconds[count] = _seconds(run)
                if seconds[count] > ABOUT_AS_FAST * min(seconds.values()):
                    break  # fewer are slower still, and of a large model a step takes seconds
            most = ABOUT_AS_FAST * min(seconds.values())
            chosen = min(count for count, own in seconds.items() if own <= most)
        finally:
            _split(chosen, default)
    times = ", ".join(f"{own * 1000:.1f} ms by {count}" for count, own in seconds.items())
    log.info("a step is split over the fewest threads that are about as fast as any, %d: %s", chosen, times)
    return chosen


def _split(count: int, default: int) -> None:
    """Splits the work of this thread; torch takes the number for that of all threads begun later, which is set back."""
    torch.set_num_threads(count)
    later = threading.Thread(target=torch.set_num_threads, args=(default,))
    later.start()
    later.join()


def _seconds(run: Callable[[], object]) -> float:
    """The median time of a call after the first, which starts the threads."""
    run()
    times: list[float] = []
    while len(times) < STEPS and sum(times) < SECONDS:
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return median(times)
