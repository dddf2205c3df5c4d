"""The grammar of codes: what may follow what inside a picture or a sound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mmlm.prompting.code_layout import CodeSpan


class CodeWriter:
    """What may be written next inside one medium, between its boundaries; tells, never chooses.

    `fixed`: codes that are given, by (codebook, step), such as the kept part of a picture.
    """

    def __init__(self, span: CodeSpan, fixed: Mapping[tuple[int, int], int] | None = None) -> None:
        self.span, self.fixed = span, dict(fixed or {})
        self.ids: list[int] = [span.begin]
        grid = span.layout.grid
        self._steps = grid[0] * grid[1] if grid else None  # of sound not known before its last first-codebook code
        self._places = self._walk()
        self._place = next(self._places)

    def allowed(self) -> tuple[range, ...]:
        """Ids that may come next; empty once the closing boundary is written."""
        if self._place is None:
            return () if self.ids[-1] == self.span.end else (range(self.span.end, self.span.end + 1),)
        own = self._own(*self._place)
        if not self._may_end():
            return (own,)
        ending = self.span.ids_of(1) if self.span.layout.num_codebooks > 1 else range(self.span.end, self.span.end + 1)
        return (ending,) if self._place[1] >= self.span.layout.max_steps else (own, ending)

    def write(self, token: int) -> None:
        """Goes on by one id; ValueError for one that is not allowed."""
        if not any(token in ids for ids in self.allowed()):
            raise ValueError(f"id {token} may not follow here")
        self.ids.append(token)
        if self._place is None:
            return
        if token not in self.span.ids_of(self._place[0]):  # sound ends: this is what follows the last step
            self._steps = self._place[1]
            self._place = next(self._places)
            if self._place is None:
                return
        self._place = next(self._places)

    @property
    def done(self) -> bool:
        return self.ids[-1] == self.span.end

    def _may_end(self) -> bool:
        book, step = self._place
        return self._steps is None and book == 0 and step > 0

    def _own(self, book: int, step: int) -> range:
        ids = self.span.ids_of(book)
        code = self.fixed.get((book, step))
        return ids if code is None else range(ids[code], ids[code] + 1)

    def _walk(self) -> Iterator[tuple[int, int] | None]:
        """Places in the order of `CodeSpan.order`, then None; of sound whose length shows only on the way."""
        books = self.span.layout.num_codebooks
        if self._steps is not None:
            yield from self.span.order(self._steps)
        else:
            row = 0
            while self._steps is None or row < self._steps + books - 1:
                for book in range(books):
                    step = row - book
                    if step >= 0 and (self._steps is None or step < self._steps):
                        yield book, step
                row += 1
        yield None
