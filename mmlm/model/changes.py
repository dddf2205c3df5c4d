"""Passes of a model and changes of it take turns, and a text that was begun before a change is not gone on with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn


class ModelChangedError(RuntimeError):
    """The model was changed in another thread, or between two pieces of a stream, while a text was being written."""

    def __init__(self, how: str) -> None:
        super().__init__(f"the model was {how} while a text was being written: begin the text again")


class Changes:
    """The changes of one model: it is packed, moved, cast, or its weights are trained or loaded.

    Passes of many threads run at once. A change waits for those that run, and later ones wait for the change: a kernel
    never reads memory that another thread frees. Between two steps of a text no pass runs, so a change need not wait
    for its end; the text finds at its next step that the model is another one.

    count: of changes so far. cast: whether weights got another type, and so perhaps other values, at any time.
    """

    def __init__(self) -> None:
        self.count = 0
        self.cast = False
        self._latest = ""
        # Entered itself, and not by its condition: an interrupt in `Condition.__enter__` would leave it taken for good.
        self._lock = threading.RLock()
        self._turn = threading.Condition(self._lock)
        self._passing: set[int] = set()  # threads
        self._changing: int | None = None  # the thread that changes the model, or waits until it may

    @contextmanager
    def passing(self, since: int | None = None) -> Iterator[None]:
        """A context for a pass in this thread, which may be within another one, or within a change.

        since: `count` when the text began. ModelChangedError where the model was changed since then.
        """
        own = threading.get_ident()
        outer = own in self._passing or own == self._changing
        try:
            if not outer:
                with self._lock:
                    self._turn.wait_for(lambda: self._changing is None)
                    self._passing.add(own)
            if since is not None and since != self.count:
                raise ModelChangedError(self._latest)
            yield
        finally:
            if not outer:
                self._passing.discard(own)  # at once: another interrupt may come
                with self._lock:
                    self._turn.notify_all()

    @contextmanager
    def changing(self, how: str, state: Callable[[], object] | None = None) -> Iterator[None]:
        """A context for a change in this thread, in which no other thread runs a pass.

        how: such as "packed", for the error. state: what a text depends on; where it is the same before and after, the
            texts go on.
        """
        own = threading.get_ident()
        if self._changing == own:  # a part of a larger change
            yield
            return
        before, begun = None, False
        try:
            with self._lock:
                self._turn.wait_for(lambda: self._changing is None)
                self._changing = own
                self._turn.wait_for(lambda: self._passing <= {own})
            before, begun = None if state is None else state(), True
            yield
        finally:
            if self._changing == own:
                try:
                    if begun and (state is None or before != state()):
                        self._latest, self.count = how, self.count + 1
                finally:
                    self._changing = None
                    with self._lock:
                        self._turn.notify_all()

    def __reduce__(self) -> tuple[type[Changes], tuple[()]]:
        return Changes, ()  # a copy of a model has passes and changes of its own


class Changing(nn.Module):
    """A module whose passes and changes take turns: `.to()` and `load_state_dict` wait for `changes.passing()`."""

    changes: Changes

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `.to()`, `.half()` and the like do to each tensor."""

        def places() -> list[tuple[torch.device, torch.dtype]]:
            return [(tensor.device, tensor.dtype) for tensor in (*self.parameters(), *self.buffers())]

        with self.changes.changing("moved or cast", places):
            before = [dtype for _, dtype in places()]
            found = super()._apply(fn, recurse)
            self.changes.cast |= before != [dtype for _, dtype in places()]
            return found

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `nn.Module.load_state_dict`."""
        with self.changes.changing("given other weights"):
            return super().load_state_dict(state_dict, strict, assign)
