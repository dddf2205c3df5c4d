"""Continuous batching: requests of many users are decoded together, each joining and leaving between two steps.

Three threads work. One prepares requests: it tokenizes prompts and encodes media, those of several requests at once.
One hears recordings that are to be written down, a window at a time. The last reads prompts, a piece at a time, and
makes the steps of all running rows in between, those of recordings too.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

import torch

from encoders.transcription.turns import Written
from mmlm.generation.memory import MemoryLimitError
from mmlm.generation.options import GenerationOptions
from mmlm.generation.request import Writing
from mmlm.model.network import MultimodalNetwork
from mmlm.serving.known import KnownPrompts
from mmlm.serving.options import Counts, EngineOptions
from mmlm.serving.preparing import Preparing, Waiting
from mmlm.serving.recordings import Recordings, TranscriptTicket
from mmlm.serving.running import Running, most_likely
from mmlm.serving.shared_steps import SharedSteps
from mmlm.serving.slots import Slots
from mmlm.serving.ticket import CancelledError, Listener, TextTicket, Ticket, Token, lightened

log = logging.getLogger(__name__)


class Engine:
    """Decodes the requests of many users together. A context manager; `close` ends it.

    A request's tokens are those that it has alone: exactly where tokens are the most likely ones and computed in
    float32, and with the same seed where they are sampled.
    """

    def __init__(self, model: MultimodalNetwork, options: EngineOptions = EngineOptions()) -> None:
        self.model, self.options, self.counts = model, options, Counts()
        self._lock = threading.RLock()  # entered itself: in `Condition.__enter__` an interrupt may leave it taken
        self._turn = threading.Condition(self._lock)
        self._preparing = Preparing(model, options, self._turn, self._fail)
        self._recordings = Recordings(model, options, self._turn, self._fail, self.counts)
        self._running: list[Running] = []
        self._slots = SharedSteps(model)
        self._closed = False
        self._prompts = KnownPrompts(options.cache_bytes // 2)
        work = {"prepare": self._preparing.run, "hear": self._recordings.run, "decode": self._decode_all}
        self._threads = [threading.Thread(target=run, name=f"mmlm-{name}", daemon=True) for name, run in work.items()]
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
        listener: Listener[Token] | None = None,
    ) -> TextTicket:
        """Takes a prompt, a list of parts, and returns at once. What is wrong with a request comes out of its ticket.

        writing: what may be written besides text. timeout: seconds after which the request is given up.
        BusyError where `max_waiting` requests wait; ValueError for beams, and for more rows than there are places.
        """
        options = options or GenerationOptions()
        waiting = Waiting(TextTicket(timeout, listener), prompt, options, writing)
        if options.num_beams > 1:
            raise ValueError("num_beams: requests that are decoded together take no beams")
        if waiting.rows > self.options.max_rows:
            raise ValueError(f"{waiting.rows} rows are asked for, and {self.options.max_rows} are decoded together")
        with self._lock:
            self._check_open()
            self._preparing.add(waiting)
            self.counts.requests += 1
        return waiting.ticket

    def transcribe(
        self, recording: Any, *, timeout: float | None = None, listener: Listener[Written] | None = None, **options: Any
    ) -> TranscriptTicket:
        """Takes a recording that is to be written down, as `submit` does a prompt. Its pieces are its windows.

        options: those of `model.transcribe` but for `channels`. ValueError where the model has no Whisper.
        """
        with self._lock:
            self._check_open()
            ticket = self._recordings.add(recording, options, timeout, listener)
            self.counts.requests += 1
        return ticket

    def _check_open(self) -> None:
        if self._closed:
            raise CancelledError("the engine is closed")

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._preparing) + self._recordings.waiting

    @property
    def running(self) -> int:
        """Requests whose tokens are being written."""
        return len(self._running) + self._recordings.running

    def close(self) -> None:
        """Ends the engine; requests that have not ended get a CancelledError."""
        with self._lock:
            self._closed = self._preparing.closed = self._recordings.closed = True
            self._turn.notify_all()
        for thread in self._threads:
            thread.join()
        closed = CancelledError("the engine was closed")
        self._fail_all(closed, queued=True)
        self._recordings.fail_all(closed)

    @property
    def _has_work(self) -> bool:
        return bool(self._preparing.ready or self._running or self._recordings.written)

    @torch.no_grad()
    def _decode_all(self) -> None:
        while True:
            with self._lock:
                self._turn.wait_for(lambda: self._closed or self._has_work)
                if self._closed:
                    return
            try:
                self._go_on()
            except BaseException as error:  # nobody is to wait for ever for what cannot come
                log.exception("the engine fails all requests that it had begun")
                self._fail_all(lightened(error))
                self._slots.clear()

    def _go_on(self) -> None:
        """A token of whatever is being written, and what may be read of prompts before."""
        self._recordings.step()
        self._preparing.drop_given_up()
        for running in [one for one in self._running if self._preparing.gave_up(one.ticket)]:
            self._leave(running)
        self._read_prompts()
        self._step()

    def _fail_all(self, error: Exception, queued: bool = False) -> None:
        """Fails what was begun, and with `queued` what still waits to be prepared."""
        tickets = [one.ticket for one in self._running] + self._preparing.drop_all(queued)
        self._running.clear()
        for ticket in tickets:  # then: who asks again at once is none of them
            self._fail(ticket, error)

    def _read_prompts(self) -> None:
        """Reads prompts in order of arrival, as many tokens as may be read between two steps."""
        budget = self.options.prompt_tokens
        while budget > 0 and self._preparing.ready:
            one = self._preparing.ready[0]
            assert one.request is not None, "what is ready was prepared"
            rows = sum(running.count * (2 if running.guided else 1) for running in self._running)
            if rows + one.rows > self.options.max_rows:
                return
            try:
                budget -= self._read(one, budget)
            except BaseException as error:
                if isinstance(error, MemoryLimitError) and self._running and one.request.decoder.read == 0:
                    return  # there is room once a running request has ended
                self._preparing.remove(one)
                self._fail(one.ticket, lightened(error))

    def _read(self, one: Waiting, budget: int) -> int:
        """Reads up to `budget` tokens of a prompt, and starts its rows after the last; how many were read."""
        assert one.request is not None, "what is ready was prepared"
        decoder = one.request.decoder
        slots = self._slots.of(one.request)
        if decoder.read == 0:
            if slots is not None:
                slots.check_room(decoder, one.options.num_return_sequences)
            one.ticket.times.started = time.monotonic()
            if one.keys and decoder.keeps_all and (found := self._prompts.longest(one.keys, decoder.since)) is not None:
                decoder.skip(found)
                one.ticket.known_tokens = decoder.read
                self.counts.known_tokens += decoder.read
        before = decoder.read
        # A cache with windows or states is not made for prompts in pieces.
        logits = decoder.advance(budget if decoder.keeps_all else decoder.length)
        self.counts.prompt_tokens += decoder.read - before
        if logits is not None:
            self._preparing.remove(one)
            if one.keys and decoder.keeps_all:
                self._prompts.keep(one.keys, decoder)
            running = Running(one.ticket, one.request, slots)
            self._guarded(running, functools.partial(running.begin, logits))
        return decoder.read - before

    def _step(self) -> None:
        """One token for each running request."""
        self.counts.steps += bool(self._running)
        for slots in [slots for slots in self._slots if slots.count]:
            members = [running for running in self._running if running.slots is slots]
            try:
                self._step_together(slots, members)
            except BaseException as error:  # of the pass itself, which no member caused more than another
                reason = lightened(error)
                for running in members:
                    self._running.remove(running)
                    self._fail(running.ticket, reason)
                self._slots.drop(slots)
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
        ids, log_probs = most_likely(logits, self.model) if len(own_logits) < len(placed) else ([], [])
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
        except BaseException as error:
            self._leave(running)
            self._fail(running.ticket, lightened(error))
            return
        self._after(running)

    def _after(self, running: Running) -> None:
        """After a token: the request goes on, or it has ended."""
        self.counts.generated_tokens += running.taken
        if not running.has_ended:
            if running not in self._running:
                self._running.append(running)
            return
        self._leave(running)
        try:
            running.finish()
            with self._lock:
                self.counts.finished += 1
        except BaseException as error:
            self._fail(running.ticket, lightened(error))

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

    def _fail(self, ticket: Ticket[Any, Any], error: Exception) -> None:
        with self._lock:
            if isinstance(error, CancelledError):
                self.counts.cancelled += 1
            else:
                self.counts.failed += 1
        ticket.end(error=error)
