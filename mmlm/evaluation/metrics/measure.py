"""A metric of a set of items, as a function of how often each of them counts: so every one gets an interval."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

RESAMPLES = 1000

Values: TypeAlias = Sequence[float] | np.ndarray


@dataclass(frozen=True, eq=False)
class Measure:
    """One metric of N items.

    of: how often each item counts, `[N]`, → the score of them all.
    items: the score of each item alone, `[N]`, by which they are ranked; NaN for one that has none.
    lower_is_better: as of error rates and distances.
    centred: items that count twice change the score by themselves, as they raise a distance of covariances. Then only
        the spread of the resamples is used, laid around the score.
    resamples: how many the interval takes; fewer where each takes long.
    """

    name: str
    of: Callable[[np.ndarray], float]
    items: np.ndarray
    lower_is_better: bool = False
    centred: bool = False
    resamples: int = RESAMPLES

    @property
    def value(self) -> float:
        """The score of all items, each counted once."""
        return self.of(np.ones(len(self.items)))

    def interval(self, units: Sequence[Hashable] | None = None, seed: int = 0) -> tuple[float, float]:
        """The 95% percentile interval of the score when units are drawn with replacement.

        units: which items are drawn together, as all questions about one picture are; by default each is by itself.
        Equal seeds give equal intervals.
        """
        rows = np.arange(len(self.items)) if units is None else rows_of(units)
        found = resampled(self.of, rows, self.resamples, seed)
        low, high = np.nanquantile(found, [0.025, 0.975])
        shift = self.value - np.nanmean(found) if self.centred else 0.0
        return float(low + shift), float(high + shift)


def mean_of(name: str, items: Values, *, lower_is_better: bool = False) -> Measure:
    """The mean of the items' scores."""
    values = np.asarray(items, dtype=np.float64)
    return Measure(name, lambda counts: float(counts @ values / counts.sum()), values, lower_is_better)


def ratio_of(name: str, parts: Values, wholes: Values, *, lower_is_better: bool = False) -> Measure:
    """The sum of `parts` by the sum of `wholes`, as of errors in transcripts; an item's own ratio is its score.

    An item whose whole is nothing has the score 0 where its part is nothing, else 1.
    """
    top, bottom = np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)
    alone = np.where(bottom > 0, top / np.maximum(bottom, 1e-300), top > 0)

    def of(counts: np.ndarray) -> float:
        whole = counts @ bottom
        return float(counts @ top / whole) if whole else float("nan")

    return Measure(name, of, alone, lower_is_better)


def rows_of(units: Sequence[Hashable]) -> np.ndarray:
    """For each item the number of its unit, `[N]`, in the order in which units first occur."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(unit, len(numbers)) for unit in units])


def resampled(of: Callable[[np.ndarray], float], rows: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """The scores of so many draws of units with replacement. rows: the unit of each item, `[N]`."""
    generator, units = np.random.default_rng(seed), int(rows.max()) + 1
    found = np.empty(resamples)
    for index in range(resamples):
        drawn = np.bincount(generator.integers(units, size=units), minlength=units)
        found[index] = of(drawn[rows].astype(np.float64))
    return found
