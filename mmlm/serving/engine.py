"""Continuous batching: requests of many users are decoded together, each joining and leaving between two steps.

Two threads work. One prepares requests: it tokenizes prompts and encodes media, those of several requests at once. The
other reads prompts, a piece at a time, and makes the steps of all running rows in between.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmlm.generation.memory import MemoryLimitError
from mmlm.generation.options import GenerationOptions
from mmlm.generation.request import Request, Writing, request
from mmlm.generation.sampler import never_written
from mmlm.model.network import MultimodalNetwork
from mmlm.serving.known import KnownMedia, KnownPrompts, keys_of
from mmlm.serving.probe import longest_together
from mmlm.serving.running import Running
from mmlm.serving.slots import Slots
from mmlm.serving.ticket import BusyError, CancelledError, Listener, Ticket


@dataclass(frozen=True)
class EngineOptions:
    """How much an engine takes on.

    max_rows: rows that are decoded together. max_waiting: requests that may wait for a place.
    prompt_tokens: tokens of prompts that are read between two steps, so that running texts do not stall.
    cache_bytes: of media and prompts that are kept in case they come again; 0 keeps none.
    """

    max_rows: int = 32
    max_waiting: int = 256
    prompt_tokens: int = 256
    cache_bytes: int = 1 << 28

    def __post_init__(self) -> None:
        for name, least in {"max_rows": 1, "max_waiting": 1, "prompt_tokens": 1, "cache_bytes": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")


@dataclass
class Counts:
    """What an engine has done since it began."""

    requests: int = 0
    finished: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    known_tokens: int = 0  # of prompts, that were not read again
    generated_tokens: int = 0
    steps: int = 0


@dataclass(eq=False)
class _Waiting:
    ticket: Ticket
    prompt: Sequence[Any]
    options: GenerationOptions
    writing: Writing | None
    request: Request | None = None
    keys: list[int] = field(default_factory=list)  # one for each position of the prompt, see `keys_of`

    @property
    def rows(self) -> int:
        guided = self.writing is not None and self.writing.guidance_scale != 1.0
        return self.options.num_return_sequences * (2 if guided else 1)


class Engine:
    """Decodes the requests of many users together. A context manager; `close` ends it.

    A request's tokens are those that it has alone: exactly where tokens are the most likely ones and computed in
    float32, and with the same seed where they are sampled.
    """

    def __init__(self, model: MultimodalNetwork, options: EngineOptions = EngineOptions()) -> None:
        self.model, self.options, self.counts = model, options, Counts()
        self._turn = threading.Condition()
        self._waiting: deque[_Waiting] = deque()  # to be prepared
        self._preparing = 0
        self._ready: deque[_Waiting] = deque()  # to be read, in order of arrival
        self._running: list[Running] = []
        self._slots: dict[tuple[bool, bool, int], Slots] = {}
        self._closed = False
        self._media = KnownMedia(options.cache_bytes // 2)
        self._prompts = KnownPrompts(options.cache_bytes // 2)
        self._together: tuple[int, int] | None = None  # the changes of the model, and its `longest_together`
        self._threads = [
            threading.Thread(target=work, name=f"mmlm-{name}", daemon=True)
            for name, work in (("prepare", self._prepare_all), ("decode", self._decode_all))
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self,
        prompt: Sequence[Any],
        options: GenerationOptions | None = None,
        writing: Writing | None = None,
        *,
        timeout: float | None = None,
        listener: Listener | None = None,
    ) -> Ticket:
        """Takes a prompt, a list of parts, and returns at once. What is wrong with a request comes out of its ticket.

        writing: what may be written besides text. timeout: seconds after which the request is given up.
        BusyError where `max_waiting` requests wait; ValueError for beams, and for more rows than there are places.
        """
        options = options or GenerationOptions()
        deadline = None if timeout is None else time.monotonic() + timeout
        waiting = _Waiting(Ticket(deadline, listener), prompt, options, writing)
        if options.num_beams > 1:
            raise ValueError("num_beams: requests that are decoded together take no beams")
        if waiting.rows > self.options.max_rows:
            raise ValueError(f"{waiting.rows} rows are asked for, and {self.options.max_rows} are decoded together")
        with self._turn:
            if self._closed:
                raise CancelledError("the engine is closed")
            if self.waiting >= self.options.max_waiting:
                raise BusyError(f"{self.waiting} requests wait already: try again later")
            self.counts.requests += 1
            self._waiting.append(waiting)
            self._turn.notify_all()
        return waiting.ticket

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._waiting) + self._preparing + len(self._ready)

    @property
    def running(self) -> int:
        """Requests whose tokens are being written."""
        return len(self._running)

    def close(self) -> None:
        """Ends the engine; requests that have not ended get a CancelledError."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
        for thread in self._threads:
            thread.join()
        for ticket in [one.ticket for one in (*self._waiting, *self._ready)] + [one.ticket for one in self._running]:
            ticket.end(error=CancelledError("the engine was closed"))

    # Preparing

    def _prepare_all(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(
                    lambda: self._closed or (self._waiting and len(self._ready) < self.options.max_rows)
                )
                if self._closed:
                    return
                room = self.options.max_rows - len(self._ready)
                batch = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
                self._preparing = len(batch)
            batch = [one for one in batch if not self._gave_up(one.ticket)]
            self._media.learn(self.model, [part for one in batch for part in one.prompt])
            for one in batch:
                try:
                    one.request, one.keys = self._prepared(one)
                except Exception as error:  # whatever is wrong with a request is its caller's to know
                    self._fail(one.ticket, error)
                with self._turn:
                    self._preparing -= 1
                    if one.request is not None:
                        self._ready.append(one)
                    self._turn.notify_all()
            with self._turn:
                self._preparing = 0

    def _prepared(self, one: _Waiting) -> tuple[Request, list[int]]:
        prompt, digests = self._media.known(one.prompt)
        made = request(self.model, [prompt], one.options, one.writing)
        decoder, fusion = made.decoder, self.model.fusion
        rows = decoder.ids[:, : decoder.length].tolist()
        if len(rows) > 1 or not self.options.cache_bytes:
            return made, []
        positions = [fusion.positions(latents) for latents in decoder.context.latents_per_item()]
        return made, keys_of(rows[0], self.model.language_model.vocabulary.media_ids, digests, positions)

    # Decoding

    @torch.no_grad()
    def _decode_all(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._closed or self._ready or self._running)
                if self._closed:
                    return
            self._drop_given_up()
            self._read_prompts()
            self._step()

    def _drop_given_up(self) -> None:
        for running in [one for one in self._running if self._gave_up(one.ticket)]:
            self._leave(running)
        with self._turn:
            gone = [one for one in self._ready if self._gave_up(one.ticket)]
            for one in gone:
                self._ready.remove(one)

    def _read_prompts(self) -> None:
        """Reads prompts in order of arrival, as many tokens as may be read between two steps."""
        budget = self.options.prompt_tokens
        while budget > 0 and self._ready:
            one = self._ready[0]
            assert one.request is not None, "what is ready was prepared"
            rows = sum(running.count * (2 if running.guided else 1) for running in self._running)
            if rows + one.rows > self.options.max_rows:
                return
            try:
                budget -= self._read(one, budget)
            except Exception as error:
                if isinstance(error, MemoryLimitError) and self._running and one.request.decoder.read == 0:
                    return  # there is room once a running request has ended
                self._remove(one)
                self._fail(one.ticket, error)

    def _read(self, one: _Waiting, budget: int) -> int:
        """Reads up to `budget` tokens of a prompt, and starts its rows after the last; how many were read."""
        assert one.request is not None, "what is ready was prepared"
        decoder = one.request.decoder
        slots = self._slots_for(one.request)
        if decoder.read == 0:
            if slots is not None:
                slots.check_room(decoder, one.options.num_return_sequences)
            one.ticket.times.started = time.monotonic()
            if one.keys and decoder.keeps_all and (found := self._prompts.longest(one.keys, decoder.since)) is not None:
                decoder.skip(found)
                self.counts.known_tokens += decoder.read
        before = decoder.read
        # A cache with windows or states is not made for prompts in pieces.
        logits = decoder.advance(budget if decoder.keeps_all else decoder.length)
        self.counts.prompt_tokens += decoder.read - before
        if logits is not None:
            self._remove(one)
            if one.keys and decoder.keeps_all:
                self._prompts.keep(one.keys, decoder)
            running = Running(one.ticket, one.request, slots)
            running.begin(logits)
            self._after(running)
        return decoder.read - before

    def _remove(self, one: _Waiting) -> None:
        """It waits no longer: its rows are running, or it has failed."""
        with self._turn:
            if one in self._ready:
                self._ready.remove(one)
            self._turn.notify_all()

    def _slots_for(self, made: Request) -> Slots | None:
        """Where the rows of a request are decoded with others; None where the language model does not allow it."""
        decoder, host = made.decoder, self.model.language_model
        if self._together is None or self._together[0] != decoder.since:
            self._together = (decoder.since, longest_together(self.model))
            self._slots = {kind: slots for kind, slots in self._slots.items() if slots.count}
        if not decoder.keeps_all or decoder.ids.shape[1] > self._together[1]:
            return None
        kind = (self.model.language_model.is_wide, decoder.codes is not None, decoder.since)
        if kind not in self._slots:
            wide, codes, since = kind
            self._slots[kind] = Slots(host, self.model.fusion, wide=wide, codes=codes, since=since)
        return self._slots[kind]

    def _step(self) -> None:
        """One token for each running request."""
        self.counts.steps += bool(self._running)
        for slots in [slots for slots in self._slots.values() if slots.count]:
            members = [running for running in self._running if running.slots is slots]
            try:
                self._step_together(slots, members)
            except Exception as error:  # of the pass itself, which no member caused more than another
                for running in members:
                    self._running.remove(running)
                    self._fail(running.ticket, error)
                self._slots = {kind: own for kind, own in self._slots.items() if own is not slots}
        for running in [running for running in self._running if running.slots is None]:
            self._guarded(running, running.step_alone)

    def _step_together(self, slots: Slots, members: Sequence[Running]) -> None:
        tokens = [0] * slots.count
        for running in members:
            for place, token in zip(running.places, running.next_tokens(), strict=True):
                tokens[place] = token
        logits = slots.step(torch.tensor(tokens, device=self.model.device))
        # Places change when a request leaves, and these logits do not.
        placed = [(running, list(running.places)) for running in members]
        own_logits = {running: logits[places] for running, places in placed if not running.is_plain}
        ids, log_probs = _most_likely(logits, self.model) if len(own_logits) < len(placed) else ([], [])
        for running, places in placed:
            if running in own_logits:
                self._guarded(running, functools.partial(running.choose, own_logits[running]))
            else:
                own = [ids[place] for place in places], [log_probs[place] for place in places]
                self._guarded(running, functools.partial(running.take, *own))

    def _guarded(self, running: Running, work: Any) -> None:
        """Does what one request alone is concerned with; an error ends that request."""
        try:
            work()
        except Exception as error:
            self._leave(running)
            self._fail(running.ticket, error)
            return
        self._after(running)

    def _after(self, running: Running) -> None:
        """After a token: the request goes on, or it has ended."""
        self.counts.generated_tokens += running.count
        if not running.has_ended:
            if running not in self._running:
                self._running.append(running)
            return
        self._leave(running)
        try:
            running.finish()
            self.counts.finished += 1
        except Exception as error:
            self._fail(running.ticket, error)

    def _leave(self, running: Running) -> None:
        """Frees the places of a request."""
        if running in self._running:
            self._running.remove(running)
        slots = running.slots
        while slots is not None and running.places:
            place = running.places.pop()
            moved = slots.leave(place)
            if moved is not None:
                for other in (*self._running, running):
                    if other.slots is slots and moved in other.places:
                        other.places[other.places.index(moved)] = place
                        break

    def _gave_up(self, ticket: Ticket) -> bool:
        error = ticket.given_up()
        if error is not None:
            self._fail(ticket, error)
        return error is not None

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        self.counts.failed += 1
        ticket.end(error=error)


def _most_likely(logits: Tensor, model: MultimodalNetwork) -> tuple[list[int], list[float]]:
    """The most likely id of each row of logits `[R, V]`, and its log-probability; NaN where a row's is no number.

    The logits are changed.
    """
    norm = logits.logsumexp(-1)
    logits[:, never_written(model.language_model.vocabulary)] = -torch.inf
    best, ids = logits.max(-1)
    return ids.tolist(), torch.where(norm.isfinite(), best - norm, torch.nan).tolist()
