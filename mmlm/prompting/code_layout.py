"""Codes of images and audio as token ids: which ids they use, and the order in which they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from decoders.values import check_kinds, check_least

Modality = Literal["image", "audio"]

BOUNDARIES = {"image": ("<image_out>", "</image_out>"), "audio": ("<audio_out>", "</audio_out>")}
"""The opening and the closing token around the codes of one item, by modality."""


@dataclass(frozen=True)
class CodeLayout:
    """The shape of the codes of one modality.

    codebook_size: entries per codebook. num_codebooks: K, codes per step.
    grid: rows and columns of an image; None for audio, which has any number of steps.
    max_steps: the largest number of steps written for audio.
    ValueError for an unknown modality, an image without a grid, or audio with one.
    """

    modality: Modality
    codebook_size: int
    num_codebooks: int = 1
    grid: tuple[int, int] | None = None
    max_steps: int = 250

    def __post_init__(self) -> None:
        check_kinds(self)
        check_least(self, codebook_size=1, num_codebooks=1, max_steps=1)
        if self.modality not in BOUNDARIES:
            raise ValueError(f'the modality of codes must be "image" or "audio", not {self.modality!r}')
        if (self.grid is None) != (self.modality == "audio"):
            raise ValueError("image codes need a grid (rows, columns), and audio codes must have none")

    @property
    def codes(self) -> int:
        """Number of codes in one image; 0 for audio, where it varies."""
        return 0 if self.grid is None else self.grid[0] * self.grid[1] * self.num_codebooks

    @property
    def rows(self) -> int:
        """Number of token ids: two boundaries, and every entry of every codebook."""
        return 2 + self.num_codebooks * self.codebook_size


@dataclass(frozen=True)
class CodeSpan:
    """The token ids of a layout: `begin` opens, `begin + 1` closes, then the codebooks one after another."""

    layout: CodeLayout
    begin: int

    @property
    def end(self) -> int:
        """The id of the closing boundary."""
        return self.begin + 1

    def __contains__(self, token_id: int) -> bool:
        return self.begin <= token_id < self.begin + self.layout.rows

    def ids_of(self, codebook: int) -> range:
        """The ids of one codebook's entries."""
        first = self.begin + 2 + codebook * self.layout.codebook_size
        return range(first, first + self.layout.codebook_size)

    def to_ids(self, codes: Tensor) -> list[int]:
        """Codes `[K, h, w]` or `[K, T]` → ids in writing order, between the boundaries.

        ValueError for another shape, codes that are not integers, or codes out of range.
        """
        layout = self.layout
        shape = list(codes.shape)
        fits = shape == [layout.num_codebooks, *layout.grid] if layout.grid else codes.ndim == 2 and shape[1] > 0
        if not fits or shape[0] != layout.num_codebooks:
            expected = f"[{layout.num_codebooks}, {', '.join(map(str, layout.grid)) if layout.grid else 'T'}]"
            raise ValueError(f"{layout.modality} codes must have the shape {expected}, not {shape}")
        if codes.is_floating_point() or int(codes.min()) < 0 or int(codes.max()) >= layout.codebook_size:
            raise ValueError(f"{layout.modality} codes must be integers in 0..{layout.codebook_size - 1}")
        flat = codes.flatten(1).tolist()
        inner = [self.ids_of(book)[flat[book][step]] for book, step in self.order(len(flat[0]))]
        return [self.begin, *inner, self.end]

    def to_codes(self, ids: Sequence[int]) -> Tensor:
        """The inverse of `to_ids`: ids with their boundaries → codes `[K, h, w]` or `[K, T]`.

        ValueError for ids that `to_ids` cannot produce.
        """
        steps = self._steps(ids)
        found = torch.full((self.layout.num_codebooks, steps), -1)
        for token, (book, step) in zip(ids[1:-1], self.order(steps), strict=True):
            if token not in self.ids_of(book):
                raise ValueError(f"id {token} is at a position that needs a code of codebook {book}")
            found[book, step] = token - self.ids_of(book).start
        return found.unflatten(1, self.layout.grid) if self.layout.grid else found

    def _steps(self, ids: Sequence[int]) -> int:
        if len(ids) < 3 or ids[0] != self.begin or ids[-1] != self.end:
            raise ValueError(f"ids of one {self.layout.modality} are {self.begin}, its codes, and {self.end}")
        steps, rest = divmod(len(ids) - 2, self.layout.num_codebooks)
        expected = self.layout.grid and self.layout.grid[0] * self.layout.grid[1]
        if rest or (expected and steps != expected):
            raise ValueError(f"{len(ids) - 2} codes are not one complete {self.layout.modality}")
        return steps

    def order(self, steps: int) -> list[tuple[int, int]]:
        """(codebook, step) of each code in writing order.

        An image is written step by step, with all codebooks of a step together. Audio is written in the delay pattern
        of MusicGen (Copet et al. 2023): step s of the first codebook comes with step s − 1 of the second, s − 2 of the
        third, and so on. Each code is thus written when the coarser codes around it are known.
        """
        books = self.layout.num_codebooks
        if self.layout.grid is not None:
            return [(book, step) for step in range(steps) for book in range(books)]
        rows = ((book, row - book) for row in range(steps + books - 1) for book in range(books))
        return [(book, step) for book, step in rows if 0 <= step < steps]
