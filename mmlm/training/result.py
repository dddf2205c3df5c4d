"""What a run gives, and how far it has come."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path


class NonFiniteLossError(ValueError):
    """Several steps in a row had a loss or gradient that is not finite, or weights are not finite."""


@dataclass(frozen=True)
class TrainResult:
    """What a finished run gives.

    model: what was saved, such as a folder for `mmlm.load`. loss: the mean over the steps since the last log line.
    figures: those of the last evaluation. skipped: steps with a loss or gradient that was not finite.
    best: of the step with the lowest held-out loss, in the form of `model`; None where nothing was held out.
    """

    model: Path
    steps: int
    loss: float
    figures: dict[str, float]
    skipped: int
    bad_records: int = 0
    best: Path | None = None

    @property
    def held_out_loss(self) -> float | None:
        """Of the last evaluation, in the unit of `loss`; None where nothing was held out."""
        return self.figures.get("held_out_loss")


@dataclass
class Progress:
    """How far a run has come: what a checkpoint holds beside tensors. The sums reach back to the last log line.

    best: the lowest held-out loss, and best_step: its step; None before the first.
    """

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    loss_sum: float = 0.0
    count: int = 0
    last_loss: float = math.nan
    figures: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    best_step: int | None = None
