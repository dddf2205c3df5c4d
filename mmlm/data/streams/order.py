"""The order of a stream's records, as a pure function of the seed: a position is one integer.

An epoch is a permutation of the shards, cut into windows; in a window the records are permuted. So a position is found
without a look at those before it, and the records that follow each other lie in few shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

_SHARDS, _RECORDS, _SETS = range(3)  # one stream of random numbers for each purpose

PERIOD = 10_000  # positions in which each set has its exact share


class ShardOrder:
    """The records of some shards, in another order in each epoch.

    counts: of the records of each shard. window: shards whose records are mixed.
    """

    def __init__(self, counts: Sequence[int], seed: int, window: int) -> None:
        self.counts, self.seed, self.window = np.asarray(counts, np.int64), seed, window
        self.size = int(self.counts.sum())
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)
        self._window = lru_cache(maxsize=2)(self._draw_window)

    def __getitem__(self, position: int) -> tuple[int, int]:
        """(shard, number of a record in it) at a position, counted from 0 on through all epochs."""
        epoch, place = divmod(position, self.size)
        _, ends = self._epoch(epoch)
        number = int(np.searchsorted(ends, place, side="right"))
        shards, starts, order = self._window(epoch, number)
        found = int(order[place - (int(ends[number - 1]) if number else 0)])
        own = int(np.searchsorted(starts, found, side="right")) - 1
        return int(shards[own]), found - int(starts[own])

    def _draw_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The shards in their order, and after how many records each window ends."""
        order = np.random.default_rng([self.seed, epoch, _SHARDS]).permutation(len(self.counts))
        sums = np.add.reduceat(self.counts[order], np.arange(0, len(order), self.window))
        return order, sums.cumsum()

    def _draw_window(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The shards of a window, the number of records before each, and the order of all its records."""
        order, _ = self._epoch(epoch)
        shards = order[number * self.window : (number + 1) * self.window]
        ends = self.counts[shards].cumsum()
        drawn = np.random.default_rng([self.seed, epoch, number, _RECORDS]).permutation(int(ends[-1]))
        return shards, ends - self.counts[shards], drawn


class Mixture:
    """Which of several sets each position takes, and how many it has taken of that before.

    weights: how often each is taken, in any unit. Each period of 10,000 positions has exact shares.
    ValueError for a weight that is not positive, or too small for a place in a period.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self.seed = seed
        shares = np.asarray(weights, np.float64)
        if not len(shares) or not np.isfinite(shares).all() or (shares <= 0).any():
            raise ValueError(f"weights of sets are above 0, not {list(weights)}")
        exact = shares / shares.sum() * PERIOD
        self.quotas = np.floor(exact).astype(np.int64)
        left = PERIOD - int(self.quotas.sum())
        self.quotas[np.argsort(self.quotas - exact, kind="stable")[:left]] += 1
        if (self.quotas == 0).any():
            raise ValueError(f"a weight of {list(weights)} is below one in {PERIOD:,}: leave that set out")
        self._period = lru_cache(maxsize=2)(self._draw_period)

    def __getitem__(self, position: int) -> tuple[int, int]:
        """(set, position in that set)."""
        period, place = divmod(position, PERIOD)
        sets, before = self._period(period)
        chosen = int(sets[place])
        return chosen, period * int(self.quotas[chosen]) + int(before[place])

    def _draw_period(self, period: int) -> tuple[np.ndarray, np.ndarray]:
        """The set of each position of a period, and how many before it in the period take the same."""
        sets = np.repeat(np.arange(len(self.quotas)), self.quotas)
        sets = np.random.default_rng([self.seed, period, _SETS]).permutation(sets)
        before = np.empty(PERIOD, np.int64)
        for number, quota in enumerate(self.quotas):
            before[sets == number] = np.arange(quota)
        return sets, before


def check_weights(weights: Sequence[float], sets: int) -> None:
    """ValueError for weights that are no shares of so many sets."""
    if len(weights) != sets:
        raise ValueError(f"{len(weights)} weights for {sets} sets: give one for each entry of data")
    Mixture(weights, 0)
