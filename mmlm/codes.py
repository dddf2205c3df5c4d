"""Codes of pictures and sound as token ids: where they lie, in which order they are written, what may follow what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Modality = Literal["image", "audio"]
BOUNDARIES = {"image": ("<image_out>", "</image_out>"), "audio": ("<audio_out>", "</audio_out>")}


@dataclass(frozen=True)
class CodeLayout:
    """The shape of one medium's codes. `grid`: rows and columns of a picture; None for sound, which may be any length.

    `max_steps`: of sound, how many steps are written at most.
    """

    modality: Modality
    codebook_size: int
    num_codebooks: int = 1
    grid: tuple[int, int] | None = None
    max_steps: int = 250

    def __post_init__(self) -> None:
        if self.modality not in BOUNDARIES:
            raise ValueError(f'codes are of an "image" or of "audio", not {self.modality!r}')
        if (self.grid is None) != (self.modality == "audio"):
            raise ValueError("codes of a picture need a grid, rows and columns; those of sound have none")

    @property
    def codes(self) -> int:
        """How many codes one picture has; 0 of sound, where it is open."""
        return 0 if self.grid is None else self.grid[0] * self.grid[1] * self.num_codebooks

    @property
    def rows(self) -> int:
        """Token rows that it takes: two boundaries, and every entry of every codebook."""
        return 2 + self.num_codebooks * self.codebook_size


@dataclass(frozen=True)
class CodeSpan:
    """Where a layout's ids lie: `begin` opens, `begin + 1` closes, then the codebooks one after the other."""

    layout: CodeLayout
    begin: int

    @property
    def end(self) -> int:
        return self.begin + 1

    def __contains__(self, token_id: int) -> bool:
        return self.begin <= token_id < self.begin + self.layout.rows

    def ids_of(self, codebook: int) -> range:
        """The ids of one codebook's entries."""
        first = self.begin + 2 + codebook * self.layout.codebook_size
        return range(first, first + self.layout.codebook_size)

    def to_ids(self, codes: Tensor) -> list[int]:
        """Codes [K, h, w] or [K, T] → ids in the order of writing, between boundaries; ValueError unless they fit."""
        layout = self.layout
        shape = list(codes.shape)
        fits = shape == [layout.num_codebooks, *layout.grid] if layout.grid else codes.ndim == 2 and shape[1] > 0
        if not fits or shape[0] != layout.num_codebooks:
            wanted = f"[{layout.num_codebooks}, {', '.join(map(str, layout.grid)) if layout.grid else 'T'}]"
            raise ValueError(f"codes of this {layout.modality} are {wanted}, not {shape}")
        if codes.is_floating_point() or int(codes.min()) < 0 or int(codes.max()) >= layout.codebook_size:
            raise ValueError(f"codes are integers in 0..{layout.codebook_size - 1}")
        flat = codes.flatten(1).tolist()
        inner = [self.ids_of(book)[flat[book][step]] for book, step in self.order(len(flat[0]))]
        return [self.begin, *inner, self.end]

    def to_codes(self, ids: Sequence[int]) -> Tensor:
        """The reverse; ValueError, never another code, for ids that no `to_ids` gives."""
        steps = self._steps(ids)
        found = torch.full((self.layout.num_codebooks, steps), -1)
        for token, (book, step) in zip(ids[1:-1], self.order(steps), strict=True):
            if token not in self.ids_of(book):
                raise ValueError(f"id {token} stands where a code of codebook {book} must")
            found[book, step] = token - self.ids_of(book).start
        return found.unflatten(1, self.layout.grid) if self.layout.grid else found

    def _steps(self, ids: Sequence[int]) -> int:
        if len(ids) < 3 or ids[0] != self.begin or ids[-1] != self.end:
            raise ValueError(f"ids of a whole {self.layout.modality} begin with {self.begin} and end with {self.end}")
        steps, rest = divmod(len(ids) - 2, self.layout.num_codebooks)
        expected = self.layout.grid and self.layout.grid[0] * self.layout.grid[1]
        if rest or (expected and steps != expected):
            raise ValueError(f"{len(ids) - 2} codes do not make a whole {self.layout.modality}")
        return steps

    def order(self, steps: int) -> list[tuple[int, int]]:
        """(codebook, step) of each code in turn.

        Of a picture step by step, all codebooks of each. Of sound in the delay pattern of MusicGen (Copet et al. 2023):
        with step s of the first codebook come step s − 1 of the second, s − 2 of the third and so on, so that each is
        written when all that is coarser around it is known.
        """
        books = self.layout.num_codebooks
        if self.layout.grid is not None:
            return [(book, step) for step in range(steps) for book in range(books)]
        rows = ((book, row - book) for row in range(steps + books - 1) for book in range(books))
        return [(book, step) for book, step in rows if 0 <= step < steps]


class CodePlaces:
    """Where the tokens of a request stand in the pictures that they write; remembers from one pass to the next."""

    def __init__(self, span: CodeSpan | None) -> None:
        self.span = span
        self._since: Tensor | None = None  # tokens since the last opening boundary [R]

    def of(self, ids: Tensor) -> Tensor | None:
        """Places of ids [R, T]: 0 at the opening boundary, n at the n-th code, −1 outside; None without pictures."""
        if self.span is None:
            return None
        step = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        opened = torch.where(ids == self.span.begin, step, -1).cummax(1).values
        before = ids.new_full((len(ids),), self.span.layout.rows) if self._since is None else self._since
        since = torch.where(opened >= 0, step - opened, before.unsqueeze(1) + step + 1)
        if self._since is None:
            self._since = since[:, -1].clone()
        else:
            self._since.copy_(since[:, -1])  # where it lies, as a captured step needs
        inside = (ids >= self.span.begin) & (ids < self.span.begin + self.span.layout.rows) & (ids != self.span.end)
        return torch.where(inside, since, -1)

    def repeat(self, times: int) -> None:
        """From here on each row comes `times` times, one after the other."""
        if self._since is not None:
            self._since = self._since.repeat_interleave(times)


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
