"""What is said about a recording that can be used, but is not as it should be; once, though it may be read twice."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_unsaid: ContextVar[bool] = ContextVar("unsaid", default=False)


def notice(log: logging.Logger, message: str, *values: object) -> None:
    """A warning, unless this thread is in `unnoticed`."""
    if not _unsaid.get():
        log.warning(message, *values)


@contextmanager
def unnoticed() -> Iterator[None]:
    """Reading within it says nothing: the recording is read once more."""
    token = _unsaid.set(True)
    try:
        yield
    finally:
        _unsaid.reset(token)
