"""Which examples share a row of a batch, where short texts follow one another in it: sequence packing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from encoders.base import Features
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.model.segments import keeps_apart
from mmlm.prompting.parts import modality_of
from mmlm.prompting.processor import Batch, Example, Processor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ready:
    """An example and the features of its media, in their order."""

    example: Example
    features: list[Features]


def room_in(model: MultimodalLM, row_length: int | None) -> int | None:
    """How many positions texts may share; None, with a warning, where the language model does not keep them apart."""
    host = model.language_model
    if row_length is None:
        return None
    with host.accelerated():
        apart = keeps_apart(host, host.device, torch.float32 if host.is_wide else host.dtype)
    if not apart:
        name = type(host.model).__name__
        log.warning("row_length: %s does not keep texts of one row apart, as running it shows; rows are padded", name)
        return None
    return row_length if host.max_length is None else min(row_length, host.max_length)


def in_rows(model: MultimodalLM, ready: Sequence[Ready], room: int | None) -> list[list[Ready]]:
    """Rows of at most `room` positions, as few as first fit finds with the longest first; None gives each its own.

    So does, to all, a text that is longer than the language model's attention reaches: the mask of shared rows knows of
    no window. A text longer than `room` has a row for itself.
    """
    lengths = [positions_of(model, one) for one in ready]
    reach = getattr(model.language_model.config, "sliding_window", None) or max(lengths)
    if room is None or max(lengths) > reach:
        return [[one] for one in ready]
    rows: list[list[Ready]] = []
    left: list[int] = []
    for index in sorted(range(len(ready)), key=lambda index: -lengths[index]):
        own = next((row for row, free in enumerate(left) if free >= lengths[index]), len(rows))
        if own == len(rows):
            rows.append([])
            left.append(room)
        rows[own].append(ready[index])
        left[own] -= lengths[index]
    return rows


def positions_of(model: MultimodalLM, ready: Ready) -> int:
    """How many positions an example takes in a row, with those of its media beside their tokens."""
    media = zip(ready.example.media, ready.features, strict=True)
    more = [model.media_positions(modality_of(part), own.tokens.shape[1]) - 1 for part, own in media]
    return len(ready.example.input_ids) + sum(more)


def batch_of(processor: Processor, rows: Sequence[Sequence[Ready]]) -> tuple[Batch, list[list[Features]]]:
    """A batch padded on the right to its longest row, and each row's media."""
    batch = processor.pack([[one.example for one in row] for row in rows])
    return batch, [[own for one in row for own in one.features] for row in rows]
