"""Requests of the system or the user to stop, obeyed between two steps."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PASSED_ON = 1.0  # seconds within which a second signal is the first one again


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of ending at once; a second one, a second later or more, ends the program.

    Launchers pass a Ctrl-C on to their processes, which have had it already. In another thread than the main one, which
    alone gets signals, it does nothing.
    """
    requests: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return

    asked = 0.0

    def note(number: int, frame: Any) -> None:
        nonlocal asked
        requests.append(number)
        if len(requests) > 1 and time.monotonic() - asked >= PASSED_ON:
            signal.signal(number, previous[number])
            signal.raise_signal(number)
        if len(requests) == 1:
            asked = time.monotonic()

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
