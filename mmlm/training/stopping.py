"""Requests of the system or the user to stop, obeyed between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of ending at once; a second one ends the program.

    In another thread than the main one, which alone gets signals, it does nothing.
    """
    requests: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return

    def note(number: int, frame: Any) -> None:
        requests.append(number)
        signal.signal(number, previous[number])

    previous: dict[int, Any] = {
        number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGTERM, signal.SIGINT)
    }
    for number in previous:
        signal.signal(number, note)
    try:
        yield requests
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
