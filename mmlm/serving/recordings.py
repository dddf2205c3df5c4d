"""Recordings that are written down beside the texts of others, a turn of each after the other.

A thread of its own reads and encodes their windows. The tokens of all windows are written in the engine's own thread,
one of each between two steps of the texts.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from whisper.decoding import DecodingResult

from encoders.transcription.decoding import Attempt
from encoders.transcription.passes import step_together, window_bytes
from encoders.transcription.transcriber import Transcriber
from encoders.transcription.transcript import Segment, Transcript, Transcription
from encoders.transcription.turns import Wanted, Written
from mmlm.generation.memory import SMALL, MemoryLimitError, free_bytes
from mmlm.model.network import MultimodalNetwork
from mmlm.serving.options import Counts, EngineOptions
from mmlm.serving.preparing import Fail
from mmlm.serving.ticket import BusyError, Listener, Ticket, lightened

TranscriptTicket: TypeAlias = Ticket[Written, Transcript]


@dataclass(eq=False)
class Recording:
    """A recording on its way. options: of `Transcriber.stream`.

    transcriber, running: once it has begun; the model may have another one by then. attempt: while the tokens of
    a window are written. found: for its next turn.
    """

    ticket: TranscriptTicket
    source: Any
    options: dict[str, Any]
    transcriber: Transcriber | None = None
    running: Transcription | None = None
    attempt: Attempt | None = None
    found: DecodingResult | None = None
    segments: list[Segment] = field(default_factory=list)


class Recordings:
    """The recordings of an engine: those that wait, and those that have begun, whose turns come round.

    turn: guards the queues, and is notified of each change. fail: ends a ticket with an error.
    """

    def __init__(
        self, model: MultimodalNetwork, options: EngineOptions, turn: threading.Condition, fail: Fail, counts: Counts
    ) -> None:
        self.model, self.options, self.turn, self.fail, self.counts = model, options, turn, fail, counts
        self.closed = False
        self._waiting: deque[Recording] = deque()
        self._begun: list[Recording] = []
        self._next: deque[Recording] = deque()  # of those that have begun: whose turn comes, in order
        self.written: list[Recording] = []  # and whose tokens are written

    @property
    def waiting(self) -> int:
        """Recordings that have not begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Recordings that have begun."""
        return len(self._begun)

    def add(
        self, source: Any, options: dict[str, Any], timeout: float | None, listener: Listener[Written] | None
    ) -> TranscriptTicket:
        """Takes a recording on; BusyError where `max_waiting` wait. Called with `turn` held."""
        if not self.model.transcribes:
            raise ValueError(
                "the model has no Whisper to transcribe with: load its audio encoder, or assemble it with one"
            )
        if len(self._waiting) >= self.options.max_waiting:
            raise BusyError(f"{len(self._waiting)} recordings wait already: try again later")
        one = Recording(TranscriptTicket(timeout, listener), source, options)
        self._waiting.append(one)
        self.turn.notify_all()
        return one.ticket

    @torch.no_grad()
    def run(self) -> None:
        """Takes the turns of all recordings until it is closed: the work of a thread."""
        while (one := self._awaited()) is not None:
            try:
                self._take_turn(one)
            except BaseException as error:  # whatever is wrong with a recording is its caller's to know
                self._leave(one, lightened(error))
            del one  # which is not to be held while this waits

    def _awaited(self) -> Recording | None:
        """The recording whose turn it is, before all others one that was given up; None once this is closed."""
        with self.turn:
            while not self.closed:
                for one in (*self._waiting, *self._next):
                    if one.ticket.given_up():
                        return one  # to be told
                while self._may_begin():
                    one = self._waiting.popleft()
                    self._begun.append(one)
                    self._next.append(one)
                if self._next:
                    return self._next.popleft()
                self.turn.wait()
            return None

    def _may_begin(self) -> bool:
        """Whether there is a place, and memory, for one more. Where nothing else has begun, its own turn tells."""
        if not self._waiting or len(self._begun) >= self.options.max_recordings:
            return False
        with contextlib.suppress(BaseException):  # also of a device that does not answer
            if self._begun:
                self._check_memory(1 + sum(one.attempt is None for one in self._begun))
            return True
        return False

    def _check_memory(self, windows: int) -> None:
        """MemoryLimitError where there is no room for so many windows beside those that are there."""
        whisper = self.model.transcriber.model
        needed = windows * window_bytes(whisper)
        free = None if needed < SMALL else free_bytes(whisper.device)
        if free is not None and needed > free:
            raise MemoryLimitError(
                f"a window of a recording takes {needed / 1e9:,.1f} GB, and {max(free, 0) / 1e9:,.1f} GB are free on "
                f"{whisper.device}: try again later, or take a smaller Whisper"
            )

    def _take_turn(self, one: Recording) -> None:
        """A turn of a recording: it is read, a window is encoded and its first token written, or a window is done."""
        if (reason := one.ticket.given_up()) is not None:
            raise reason
        if one.running is None:
            if len(self._begun) == 1:
                self._check_memory(1)
            one.ticket.times.started = time.monotonic()
            one.transcriber = self.model.transcriber
            one.running = one.transcriber.stream(one.source, **one.options)
        assert one.transcriber is not None and one.running.turns is not None, "a transcriber's own has them"
        try:
            turn = one.running.turns.send(one.found)
        except StopIteration:
            self._leave(one)
            with self.turn:
                self.counts.finished += 1
            one.ticket.end(one.running.transcript(one.segments))
            return
        one.found = None
        if isinstance(turn, Wanted):
            one.attempt = Attempt(one.transcriber.model, turn.heard, turn.options, turn.generator)
            with one.transcriber.computing():
                one.attempt.begin()
        elif turn is not None:
            one.segments += turn.segments
            self.counts.windows += 1
            one.ticket.deliver(turn)
        self._pass_on(one)

    def _pass_on(self, one: Recording) -> None:
        """What is next of a recording: more tokens of its window, or another turn."""
        if one.attempt is not None and one.attempt.has_ended:
            one.found, one.attempt = one.attempt.result(), None
        with self.turn:
            if one.attempt is None:
                self._next.append(one)
            else:
                self.written.append(one)
            self.turn.notify_all()

    def step(self) -> None:
        """A token of each window that is being written, for the engine's thread."""
        with self.turn:
            members, self.written = self.written, []
        going: dict[Transcriber, list[tuple[Recording, Attempt]]] = {}
        for one in members:
            if not self._gave_up(one) and one.transcriber is not None and one.attempt is not None:
                going.setdefault(one.transcriber, []).append((one, one.attempt))
        for transcriber, own in going.items():
            self._step_together(transcriber, own)

    def _step_together(self, transcriber: Transcriber, going: Sequence[tuple[Recording, Attempt]]) -> None:
        """A token of each window that is written by the same transcriber."""
        try:
            with transcriber.computing():
                logits = step_together([attempt.passes for _, attempt in going], [attempt.last for _, attempt in going])
        except BaseException as error:  # of the pass itself, which no member caused more than another
            reason = lightened(error)
            for one, _ in going:
                self._leave(one, reason)
            return
        for (one, attempt), own in zip(going, logits, strict=True):
            try:
                attempt.take(own)
                self._pass_on(one)
            except BaseException as error:
                self._leave(one, lightened(error))

    def _gave_up(self, one: Recording) -> bool:
        """Whether a recording is not to be gone on with, which it is then told."""
        if (reason := one.ticket.given_up()) is not None:
            self._leave(one, reason)
        return reason is not None

    def _leave(self, one: Recording, error: Exception | None = None) -> None:
        """Frees the place of a recording, which has failed with an error if there is one."""
        one.attempt = None
        if one.running is not None and one.running.turns is not None:
            with contextlib.suppress(BaseException):  # it is read no more
                one.running.turns.close()
        with self.turn:
            for queue in (self._waiting, self._begun, self._next, self.written):
                if one in queue:
                    queue.remove(one)
            self.turn.notify_all()
        if error is not None:
            self.fail(one.ticket, error)

    def fail_all(self, error: Exception) -> None:
        """Fails all of them; the threads have ended."""
        for one in [*self._begun, *self._waiting]:
            self._leave(one, error)
