"""Codes of pictures and sound as token ids: where they lie, and in which order they are written."""

from __future__ import annotations

from collections.abc import Sequence
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
