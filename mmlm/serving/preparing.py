"""Requests before their prompts are read: tokenized, and with their media encoded, those of several together."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmlm.generation.options import GenerationOptions
from mmlm.generation.request import Request, Writing, request
from mmlm.model.network import MultimodalNetwork
from mmlm.serving.known import KnownMedia, keys_of
from mmlm.serving.options import EngineOptions
from mmlm.serving.ticket import BusyError, TextTicket, Ticket, lightened

Fail = Callable[[Ticket[Any, Any], Exception], None]
"""Ends a request with an error."""


@dataclass(eq=False)
class Waiting:
    """A request that waits.

    request: once it is prepared. keys: then one for each position of the prompt, see `keys_of`; none for a prompt that
    is not kept.
    """

    ticket: TextTicket
    prompt: Sequence[Any]
    options: GenerationOptions
    writing: Writing | None
    request: Request | None = None
    keys: list[int] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many rows it is decoded in."""
        guided = self.writing is not None and self.writing.guidance_scale != 1.0
        return self.options.num_return_sequences * (2 if guided else 1)


class Preparing:
    """The requests that wait, in order of arrival: first to be prepared, then to be read, as many as there are places.

    turn: guards the queues, and is notified of each change.
    """

    def __init__(self, model: MultimodalNetwork, options: EngineOptions, turn: threading.Condition, fail: Fail) -> None:
        self.model, self.options, self.turn, self.fail = model, options, turn, fail
        self.ready: deque[Waiting] = deque()
        self.closed = False
        self._queue: deque[Waiting] = deque()
        self._underway = 0
        self._media = KnownMedia(options.cache_bytes // 2)

    def __len__(self) -> int:
        return len(self._queue) + self._underway + len(self.ready)

    def add(self, one: Waiting) -> None:
        """Takes a request on; BusyError where `max_waiting` wait. Called with `turn` held."""
        if len(self) >= self.options.max_waiting:
            raise BusyError(f"{len(self)} requests wait already: try again later")
        self._queue.append(one)
        self.turn.notify_all()

    def run(self) -> None:
        """Prepares requests until it is closed: the work of a thread."""
        while (batch := self._next()) is not None:
            self._prepare(batch)
            del batch  # which is not to be held while this waits

    def _prepare(self, batch: Sequence[Waiting]) -> None:
        batch = [one for one in batch if not self.gave_up(one.ticket)]
        with contextlib.suppress(BaseException):  # each request tells then what is wrong with it
            self._media.learn(self.model, [part for one in batch for part in one.prompt])
        for one in batch:
            try:
                one.request, one.keys = self._prepared(one)
            except BaseException as error:  # whatever is wrong with a request is its caller's to know
                self.fail(one.ticket, lightened(error))
            with self.turn:
                self._underway -= 1
                if one.request is not None:
                    self.ready.append(one)
                self.turn.notify_all()

    def _next(self) -> list[Waiting] | None:
        """Requests to be prepared together; None once it is closed."""
        with self.turn:
            self._underway = 0  # those that were given up meanwhile are not counted down
            self.turn.wait_for(lambda: self.closed or (self._queue and len(self.ready) < self.options.max_rows))
            if self.closed:
                return None
            room = self.options.max_rows - len(self.ready)
            batch = [self._queue.popleft() for _ in range(min(room, len(self._queue)))]
            self._underway = len(batch)
            return batch

    def _prepared(self, one: Waiting) -> tuple[Request, list[int]]:
        prompt, digests = self._media.known(one.prompt)
        made = request(self.model, [prompt], one.options, one.writing)
        decoder, fusion = made.decoder, self.model.fusion
        rows = decoder.ids[:, : decoder.length].tolist()
        if len(rows) > 1 or one.writing is not None or not self.options.cache_bytes:
            return made, []  # where codes may be written, other adapters act on the same ids
        positions = [fusion.positions(latents) for latents in decoder.context.latents_per_item()]
        return made, keys_of(rows[0], self.model.language_model.vocabulary.media_ids, digests, positions)

    def remove(self, one: Waiting) -> None:
        """It is ready no longer: its rows are running, or it has failed."""
        with self.turn:
            if one in self.ready:
                self.ready.remove(one)
            self.turn.notify_all()

    def gave_up(self, ticket: TextTicket) -> bool:
        """Whether a request is not to be gone on with, which it is then told."""
        error = ticket.given_up()
        if error is not None:
            self.fail(ticket, error)
        return error is not None

    def drop_given_up(self) -> None:
        """Ends those of the ready requests whose callers have left, or whose time is over."""
        for one in [one for one in list(self.ready) if self.gave_up(one.ticket)]:
            self.remove(one)

    def drop_all(self, queued: bool) -> list[TextTicket]:
        """Drops what is ready, and with `queued` what was not prepared yet; gives the tickets."""
        with self.turn:
            dropped = [*self.ready, *(self._queue if queued else ())]
            self.ready.clear()
        return [one.ticket for one in dropped]
