"""The grammar of codes: what may follow what inside a picture or a sound, and text with media in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from mmlm.generation.result import FinishReason
from mmlm.prompting.code_layout import CodeSpan

GenerationMode = Literal["image", "audio", "any"]
Place = tuple[int, int]  # (codebook, step)

MAX_MEDIA = 4  # that one text may hold in mode "any"


@dataclass(frozen=True)
class CodeGrammar:
    """Where one medium stands between its boundaries; the opening one is written.

    fixed: codes that are given, by (codebook, step), such as the kept part of a picture. steps: how many steps the
    medium has; None for sound whose end is not yet known. place: of the next code; None where all are written.
    """

    span: CodeSpan
    fixed: Mapping[Place, int] = field(default_factory=dict)
    steps: int | None = None
    place: Place | None = (0, 0)
    closed: bool = False

    @classmethod
    def begin(cls, span: CodeSpan, fixed: Mapping[Place, int] | None = None) -> CodeGrammar:
        """The state after the opening boundary."""
        grid = span.layout.grid
        return cls(span, fixed or {}, grid[0] * grid[1] if grid else None)

    def allowed(self) -> tuple[range, ...]:
        """Ids that may come next; none once the closing boundary is written."""
        if self.closed:
            return ()
        end = range(self.span.end, self.span.end + 1)
        if self.place is None:
            return (end,)
        own = self._codes(self.place)
        book, step = self.place
        if self.steps is not None or book != 0 or step == 0:
            return (own,)
        # The sound may end here: the first codebook stays silent, and what follows the last step comes instead.
        ending = self.span.ids_of(1) if self.span.layout.num_codebooks > 1 else end
        return (ending,) if step >= self.span.layout.max_steps else (own, ending)

    def advance(self, token: int) -> Self:
        """The state after one more id; ValueError for one that is not allowed."""
        if not any(token in ids for ids in self.allowed()):
            raise ValueError(f"id {token} may not follow here")
        if self.place is None:
            return replace(self, closed=True)
        (book, step), steps = self.place, self.steps
        if token == self.span.end:  # of sound with one codebook
            return replace(self, steps=step, place=None, closed=True)
        if token not in self.span.ids_of(book):  # the sound has ended: this is the second codebook's
            (book, step), steps = (1, step - 1), step
        return replace(self, steps=steps, place=self._after(book, step, steps))

    def _codes(self, place: Place) -> range:
        ids = self.span.ids_of(place[0])
        code = self.fixed.get(place)
        return ids if code is None else range(ids[code], ids[code] + 1)

    def _after(self, book: int, step: int, steps: int | None) -> Place | None:
        """The next place in the order of `CodeSpan.order`, which for sound depends on where it ends."""
        books = self.span.layout.num_codebooks
        if self.span.layout.grid is not None:
            step, book = divmod(step * books + book + 1, books)
            return (book, step) if steps is None or step < steps else None
        if book + 1 < books and step > 0:  # in a row of the delay pattern, codebook b writes step row − b
            return book + 1, step - 1
        row = book + step + 1
        book = 0 if steps is None else max(0, row - steps + 1)
        return (book, row - book) if book < books else None


@dataclass(frozen=True)
class MediaGrammar:
    """One row that writes media: a constraint.

    mode "image" or "audio": one such medium and nothing else; "any": text, with media wherever the model begins one.
    text: ids of text, `<|endofchunk|>` included; stops: those that end it. max_text: tokens of text at most. room: ids
    that may still be written in all; a medium is begun only where all of it fits, so that none is left unfinished.
    """

    mode: GenerationMode
    spans: Mapping[str, CodeSpan]
    text: range
    stops: frozenset[int]
    max_text: int
    room: int
    fixed: Mapping[Place, int] = field(default_factory=dict)
    inside: CodeGrammar | None = None
    finished: FinishReason | None = None
    media: int = 0
    words: int = 0

    @property
    def guided(self) -> bool:
        """Guidance acts inside media."""
        return self.inside is not None

    def allowed(self) -> tuple[range, ...]:
        """Ids that may come next."""
        if self.inside is not None:
            return self.inside.allowed()
        if self.mode != "any":
            begin = self.spans[self.mode].begin
            return (range(begin, begin + 1),)
        fitting = [s for s in self.spans.values() if self.media < MAX_MEDIA and longest(s) <= self.room]
        return (self.text, *(range(span.begin, span.begin + 1) for span in fitting))

    def advance(self, token: int) -> Self:
        """The state after one more id."""
        state = replace(self, room=self.room - 1)
        opened = next((span for span in self.spans.values() if span.begin == token), None)
        if self.inside is not None:
            inside = self.inside.advance(token)
            state = replace(state, inside=None if inside.closed else inside)
            if inside.closed and self.mode != "any":
                return replace(state, finished="stop")
        elif opened is not None:
            state = replace(state, inside=CodeGrammar.begin(opened, self.fixed), media=self.media + 1)
        elif token in self.stops:
            return replace(state, finished="stop")
        else:
            state = replace(state, words=self.words + 1)
        if state.inside is None and (state.words >= self.max_text or state.room == 0):
            return replace(state, finished="length")
        return state


def longest(span: CodeSpan) -> int:
    """The most ids that one medium takes, its boundaries included."""
    grid = span.layout.grid
    return 2 + span.layout.num_codebooks * (grid[0] * grid[1] if grid else span.layout.max_steps)
