"""What a caller holds of a request that is on its way through the engine."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mmlm.generation.result import GenerationResult, TopLogProbs

log = logging.getLogger(__name__)

RAISED = "raised at "  # what a note begins with that tells where an error was raised


class CancelledError(RuntimeError):
    """The request was cancelled, by its caller or because the engine was closed."""


class DeadlineError(TimeoutError):
    """The request was not finished within its time."""


class BusyError(RuntimeError):
    """As many requests wait as the engine takes. Try again later."""


@dataclass(frozen=True)
class Token:
    """One more token of row `row`, and its log-probability under the model's plain distribution; `top`: the most likely
    ones, where they were asked for.
    """

    row: int
    id: int
    log_prob: float
    top: TopLogProbs = ()


Piece = TypeVar("Piece")
Found = TypeVar("Found")

Listener = Callable[[Piece | None], None]
"""Called in the engine's thread with each piece, and with None when the request has ended; it must return at once."""


@dataclass
class Times:
    """When what happened, in seconds of `time.monotonic()`; 0 for what has not.

    first_token: or the first window of a recording. between: seconds between two tokens of the first row.
    """

    submitted: float = field(default_factory=time.monotonic)
    started: float = 0.0  # its prompt, or its recording, is being read
    first_token: float = 0.0
    last_token: float = 0.0  # of the first row
    ended: float = 0.0
    between: list[float] = field(default_factory=list)

    def note_token(self, row: int) -> None:
        """A token of a row has been written."""
        now = time.monotonic()
        self.first_token = self.first_token or now
        if row == 0:
            if self.last_token:
                self.between.append(now - self.last_token)
            self.last_token = now


class Ticket(Generic[Piece, Found]):
    """One request: wait for its `results`, or listen to its pieces as they are made, or cancel it.

    timeout: seconds after which it is given up; None for never.
    """

    def __init__(self, timeout: float | None = None, listener: Listener[Piece] | None = None) -> None:
        self.times = Times()
        self.deadline = None if timeout is None else self.times.submitted + timeout
        self._listener, self._ended = listener, threading.Event()
        self._results: Found | None = None
        self._error: Exception | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """Gives the request up; its room is free within one step."""
        self._cancelled = True

    @property
    def is_done(self) -> bool:
        """Whether it has ended, in one way or another."""
        return self._ended.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for its end, `timeout` s at most; whether it has ended."""
        return self._ended.wait(timeout)

    def results(self, timeout: float | None = None) -> Found:
        """What came of it; its own error, or TimeoutError after `timeout` s."""
        if not self.wait(timeout):
            raise TimeoutError(f"the request has not ended within {timeout} s")
        if self._error is not None:
            try:
                raise self._error
            finally:
                del self  # the error holds this frame, which would hold the ticket, and that the error
        assert self._results is not None, "it ended with one or the other"
        return self._results

    # For the engine

    def given_up(self) -> Exception | None:
        """Why the request is not to be gone on with; None where it is."""
        if self._cancelled:
            return CancelledError("the request was cancelled")
        if self.deadline is not None and time.monotonic() > self.deadline:
            return DeadlineError("the request was not finished within its time")
        return None

    def deliver(self, piece: Piece, row: int = 0) -> None:
        """Hands a piece on, of this row."""
        self.times.note_token(row)
        self._tell(piece)

    def end(self, results: Found | None = None, error: Exception | None = None) -> None:
        """The request has ended with results, or with an error."""
        if self._ended.is_set():
            return
        self._results, self._error = results, error
        self.times.ended = time.monotonic()
        self._ended.set()
        self._tell(None)

    def _tell(self, piece: Piece | None) -> None:
        """Calls the listener; one that fails, as where its event loop is closed, gives the request up."""
        if self._listener is None:
            return
        try:
            self._listener(piece)
        except Exception:
            log.exception("the listener of a request failed: the request is given up")
            self._listener, self._cancelled = None, True


def lightened(error: BaseException) -> Exception:
    """An error without the frames that it was raised in; a note tells where that was, see `raised_at`.

    Frames hold each other and what was asked for. With them, an error that a ticket keeps would hold that ticket, its
    media and those of others, until Python looks for cycles. What is no ordinary error, as an extension raises it that
    panics, becomes one: callers do not look for any other.
    """
    kept = error if isinstance(error, Exception) else RuntimeError(f"a {type(error).__name__} ended the request")
    kept.add_note(RAISED + raised_at(error))
    chained: BaseException | None = error
    while chained is not None:
        chained.__traceback__ = None
        chained = chained.__cause__ or chained.__context__
    return kept


def raised_at(error: BaseException) -> str:
    """Where an error was raised, the innermost place first, without its message: that may hold what a user wrote."""
    for note in getattr(error, "__notes__", ()):
        if note.startswith(RAISED):
            return note.removeprefix(RAISED)
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    return " < ".join(reversed(places[-6:])) or "an unknown place"


class TextTicket(Ticket[Token, list[GenerationResult]]):
    """The ticket of a prompt: its tokens, and a result of each return sequence.

    known_tokens: of its prompt, that were not read again.
    """

    known_tokens = 0
