"""Exact search among vectors: one matrix product, no approximation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Rows = NDArray[np.float32]


class Vectors:
    """Rows `[N, D]` of unit length in float32, each under an id; ids grow. Adding copies seldom, searching never."""

    def __init__(self, width: int) -> None:
        self._ids: Ids = np.empty(0, np.int64)
        self._rows: Rows = np.empty((0, width), np.float32)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def width(self) -> int:
        """D."""
        return self._rows.shape[1]

    def add(self, ids: Iterable[int], rows: Rows) -> None:
        """New rows, of unit length. ids: ascending, and above those that are there."""
        new = np.fromiter(ids, np.int64)
        end = self._count + len(new)
        if end > len(self._ids):
            room = max(end, 2 * len(self._ids) if self._count else 0)
            self._ids = np.concatenate([self._ids[: self._count], np.empty(room - self._count, np.int64)])
            spare = np.empty((room - self._count, self.width), np.float32)
            self._rows = np.concatenate([self._rows[: self._count], spare])
        self._ids[self._count : end], self._rows[self._count : end] = new, rows
        self._count = end

    def remove(self, ids: Iterable[int]) -> None:
        """Takes rows away; ids that are not there are none of them."""
        kept = ~np.isin(self._ids[: self._count], np.fromiter(ids, np.int64))
        self._ids, self._rows = self._ids[: self._count][kept], self._rows[: self._count][kept]
        self._count = len(self._ids)

    def nearest(self, query: Rows, k: int, allowed: Ids | None = None) -> tuple[list[int], list[float]]:
        """Ids and cosines of the `k` rows nearest to a query `[D]` of unit length, the nearest first.

        Equal cosines come in the order of their ids, so that the result does not depend on the machine.
        allowed: the ids among which to look, ascending; None for all.
        """
        ids, scores = self._ids[: self._count], self._rows[: self._count] @ query
        if allowed is not None:
            kept = np.isin(ids, allowed, assume_unique=True)
            ids, scores = ids[kept], scores[kept]
        k = min(k, len(ids))
        if k <= 0:
            return [], []
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        near = np.flatnonzero(scores >= least)  # more than k where some are equal
        near = near[np.argsort(-scores[near], kind="stable")][:k]
        return ids[near].tolist(), scores[near].tolist()


def vector_rows(found: Any, count: int, what: str) -> Rows:
    """Embeddings `[N, D]`, a tensor of any kind or an array, in float32; ValueError for another number of rows."""
    values = found.detach().cpu().float().numpy() if hasattr(found, "detach") else np.asarray(found, np.float32)
    if values.ndim != 2 or len(values) != count:
        raise ValueError(f"{what} gives embeddings of shape {list(values.shape)} for {count} items: give [{count}, D]")
    return values


def unit_rows(found: Any, count: int, what: str) -> Rows:
    """Embeddings `[N, D]`, a tensor or an array, as rows of unit length in float32.

    ValueError for another number of rows, and for values that are NaN or infinite, or all zero.
    """
    values = vector_rows(found, count, what)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    if not np.isfinite(length).all() or not length.all():
        raise ValueError(f"{what} gives an embedding that is NaN, infinite or zero, which has no direction")
    return (values / length).astype(np.float32)
