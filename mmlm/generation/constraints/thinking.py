"""A thought of limited length before an answer, as a constraint around that of the answer."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from mmlm.generation.constraints.base import Allowed, Constraint, RefusedError
from mmlm.generation.result import FinishReason
from mmlm.generation.text import PartialText, held_back
from mmlm.prompting.thinking import ThinkingMarks


@dataclass(frozen=True)
class Thinks:
    """How the rows of a request think: what they share.

    marks: what ends a thought. budget: tokens of a thought, at most; then the closing mark is written by force.
    answer: tokens of an answer, at most. stops: ids that end an answer; in a thought they begin the closing mark.
    control: ids that no characters spell. encode, decode: marks to ids, and ids to text with the marks in it.
    """

    marks: ThinkingMarks
    budget: int
    answer: int
    stops: frozenset[int]
    control: frozenset[int]
    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Sequence[int]], str]

    @functools.cached_property
    def close(self) -> tuple[int, ...]:
        """The ids of the closing mark."""
        return tuple(self.encode(self.marks.close))

    @property
    def is_whole(self) -> bool:
        """Whether the closing mark begins with a control token, so that no characters are a part of it."""
        return self.close[0] in self.control

    def closing(self, written: int) -> tuple[int, ...]:
        """The ids that close a thought which ends in the first `written` characters of the closing mark."""
        if not written or self.is_whole:
            return tuple(self.encode(self.marks.bridge + self.marks.close))
        begun = (n for n in range(1, len(self.close)) if self.decode(self.close[:n]) == self.marks.close[:written])
        place = next(begun, None)
        return self.close[place:] if place is not None else tuple(self.encode(self.marks.close[written:]))

    @property
    def room(self) -> int:
        """The most tokens that a row writes: thought, closing mark and answer."""
        return self.budget + self.most + self.answer

    @functools.cached_property
    def most(self) -> int:
        """The most tokens that closing a thought takes."""
        return max(len(self.closing(written)) for written in range(len(self.marks.close)))


@dataclass(frozen=True)
class Thinking:
    """A row that writes a thought and then an answer, which `inner` restricts from where the thought has ended.

    text, tail: of the thought, as in `StopStrings`. piece: the text of the thought, and `after` that of the answer,
    which the last token has settled. spent: tokens so far of thought and closing mark. forced: ids that come next.
    closed: whether the thought has ended; was_forced: by force. answered: tokens of the answer, of which `last` are
    the last ones.
    """

    how: Thinks
    inner: Constraint | None
    text: PartialText
    tail: str = ""
    piece: str = ""
    after: str = ""
    spent: int = 0
    forced: tuple[int, ...] = ()
    closed: bool = False
    was_forced: bool = False
    answered: int = 0
    last: tuple[int, ...] = ()
    ended: FinishReason | None = None

    @classmethod
    def begin(cls, how: Thinks, inner: Constraint | None = None) -> Thinking:
        """The state after the opening mark."""
        return cls(how, inner, PartialText(how.decode))._within_budget()

    @property
    def finished(self) -> FinishReason | None:
        """Why the answer has ended."""
        own = self.inner.finished if self.inner is not None and self.closed else None
        return own or self.ended

    @property
    def guided(self) -> bool:
        """Whether guidance acts on the answer's next token."""
        return self.closed and self.inner is not None and self.inner.guided

    def allowed(self) -> Allowed | None:
        """The forced id; in a thought all; in an answer what `inner` allows, but no second closing mark after force."""
        if self.forced:
            return (range(self.forced[0], self.forced[0] + 1),)
        own = None if self.inner is None or not self.closed else self.inner.allowed()
        if own is not None or not self.was_forced or self.last != self.how.close[:-1]:
            return own
        again = self.how.close[-1]
        return (range(again), range(again + 1, sys.maxsize))

    def at_end(self) -> tuple[Self, int] | None:
        """In a thought, an end token is read as the beginning of the closing mark; see `Unending`."""
        if self.closed:
            return None
        state = self if self.forced else self._closing()
        return state, state.forced[0]

    def advance(self, token: int) -> Self:
        """The state after one more id.

        RefusedError for one that ends the thought and is also the beginning of an answer that `inner` restricts: it
        would not see that beginning.
        """
        if self.closed:
            return self._answering(token)
        text, piece = self.text.push(token)
        state = replace(self, text=text, spent=self.spent + 1, piece="")
        before, mark, after = (self.tail + piece).partition(self.how.marks.close)
        if mark and after.strip() and self.inner is not None:
            raise RefusedError(self.how.closing(len(self.tail))[0])
        if mark:
            return replace(state, tail="", piece="" if self.forced else before, after=after, forced=(), closed=True)
        if self.forced:
            return replace(state, tail=before, forced=self.forced[1:], closed=len(self.forced) == 1)
        shown = len(before) - held_back(before, (self.how.marks.close,))
        return replace(state, tail=before[shown:], piece=before[:shown])._within_budget()

    def _answering(self, token: int) -> Self:
        inner = None if self.inner is None else self.inner.advance(token)
        answered, kept = self.answered + 1, len(self.how.close) - 1
        full = answered >= self.how.answer and token not in self.how.stops
        return replace(
            self, inner=inner, answered=answered, last=(*self.last, token)[-kept:] if kept else (),
            ended="length" if full else None, piece="", after="",
        )  # fmt: skip

    def _within_budget(self) -> Self:
        return self if self.spent < self.how.budget else self._closing()

    def _closing(self) -> Self:
        """The same with the closing mark to come, as far as it is not written."""
        forced = self.how.closing(len(self.tail))
        if self.how.is_whole:  # what looked like the beginning of the mark was none
            return replace(self, forced=forced, was_forced=True, piece=self.piece + self.tail, tail="")
        return replace(self, forced=forced, was_forced=True)
