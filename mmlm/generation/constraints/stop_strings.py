"""Texts that end at a string, as a constraint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from mmlm.generation.constraints.base import Allowed
from mmlm.generation.result import FinishReason
from mmlm.generation.text import PartialText, cut_at


@dataclass(frozen=True)
class StopStrings:
    """A row that ends as soon as its text holds one of the strings `stop`; any id may come next.

    tail: the end of the settled text, as long as a stop string may still begin in it.
    """

    stop: tuple[str, ...]
    text: PartialText
    tail: str = ""
    finished: FinishReason | None = None
    guided: bool = False

    @classmethod
    def begin(cls, stop: tuple[str, ...], decode: Callable[[Sequence[int]], str]) -> StopStrings:
        """The state of an empty text; `decode` turns ids into text."""
        return cls(stop, PartialText(decode))

    def allowed(self) -> Allowed | None:
        """All ids."""
        return None

    def advance(self, token: int) -> Self:
        """The state after one more token."""
        text, piece = self.text.push(token)
        tail = self.tail + piece
        ended = cut_at(tail, self.stop)[1]
        kept = min(len(tail), max(len(string) for string in self.stop) - 1)
        return replace(self, text=text, tail=tail[len(tail) - kept :], finished="stop" if ended else None)
