"""Which rows of an engine share a step: those of each kind have slots of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from mmlm.generation.memory import MemoryLimitError
from mmlm.generation.request import Request
from mmlm.model.network import MultimodalNetwork
from mmlm.serving.probe import Together, together, typical_step
from mmlm.serving.slots import Slots
from mmlm.serving.threads import settle_threads


class SharedSteps:
    """The slots of an engine's rows. What the language model allows is found by running it, when a request first comes.

    found: what that was; None before.
    """

    def __init__(self, model: MultimodalNetwork) -> None:
        self.model = model
        self.found: Together | None = None
        self._since = 0  # the changes of the model when it was found
        self._slots: dict[tuple[bool, bool, int], Slots] = {}  # by: wide, apart from text, changes of the model

    def __iter__(self) -> Iterator[Slots]:
        return iter(list(self._slots.values()))

    def of(self, made: Request) -> Slots | None:
        """The slots for the rows of a request; None where each needs a step of its own."""
        decoder, host = made.decoder, self.model.language_model
        if self.found is None or self._since != decoder.since:
            found = together(self.model)
            if self.found is None and found.longest and host.device.type == "cpu":
                with suppress(MemoryLimitError):  # the threads are then as many as there are
                    settle_threads(typical_step(self.model))
            self.found, self._since = found, decoder.since
            self._slots = {kind: slots for kind, slots in self._slots.items() if slots.count}
        if not decoder.keeps_all or decoder.ids.shape[1] > self.found.longest:
            return None
        kind = (host.is_wide, decoder.codes is not None and not self.found.mixed, decoder.since)
        if kind not in self._slots:
            self._slots[kind] = Slots(host, self.model.fusion, wide=host.is_wide, since=decoder.since)
        return self._slots[kind]

    def drop(self, slots: Slots) -> None:
        """Forgets slots, whose rows are lost."""
        self._slots = {kind: own for kind, own in self._slots.items() if own is not slots}

    def clear(self) -> None:
        """Forgets all slots."""
        self._slots.clear()
