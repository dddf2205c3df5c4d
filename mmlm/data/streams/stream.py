"""The records of each training step, read from shards when they are asked for."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mmlm.data.readers.tar import TEXTS, record_of_members
from mmlm.data.records import Record
from mmlm.data.streams.index import ShardIndex, index_of
from mmlm.data.streams.order import Mixture, ShardOrder, check_weights
from mmlm.data.streams.shards import Shard

_INDEXING = 8  # shards that are read at once to be indexed
_GAP = 1 << 16  # bytes between members that are read along, rather than by another request
_DRAW = 3  # the stream of random numbers for texts


@dataclass(frozen=True)
class Drawn:
    """A record that a step takes. position: in its set, through all epochs."""

    set: int
    position: int
    shard: Shard
    record: int


class RecordStream:
    """Records of one or more sets of shards, mixed by weights.

    sets: the shards of each set, as `find_shards` finds them.
    size: records a step. weights: how often each set is taken; None makes one set of all.
    window: shards whose records are mixed. folder: for the indexes. caption_share: as of `ExampleStream`.
    counted: called after each shard that was indexed.
    ValueError where a shard is damaged, or nothing is in them.
    """

    def __init__(
        self,
        sets: Sequence[Sequence[Shard]],
        size: int,
        *,
        folder: Path,
        seed: int = 0,
        weights: Sequence[float] | None = None,
        window: int = 8,
        caption_share: float = 0.5,
        counted: Callable[[], object] = lambda: None,
    ) -> None:
        self.size, self.seed, self.folder, self.caption_share = size, seed, folder, caption_share
        if weights is not None:
            check_weights(weights, len(sets))
        self.sets = [tuple(shards) for shards in sets] if weights else [tuple(own for shards in sets for own in shards)]
        digest = hashlib.sha256(repr((size, seed, window, weights, caption_share)).encode())
        self.orders = []
        self._contents: dict[str, dict[str, Any]] = {}
        for number, shards in enumerate(self.sets):
            counts = []
            with ThreadPoolExecutor(_INDEXING) as pool:
                for shard, (count, own) in zip(shards, pool.map(self._about, shards), strict=True):
                    counts.append(count)
                    place = f"{len(self._contents) + 1}: {posixpath.basename(shard.name)}"
                    self._contents[place] = {"bytes": shard.size, "content": own}
                    digest.update(own.encode())
                    counted()
            self.orders.append(ShardOrder(counts, seed + number, window))
            digest.update(b"/")
            if not self.orders[-1].size:
                raise ValueError(f"there are no records in {shards[0].name}" + " and the others" * (len(shards) > 1))
        self.mixture = Mixture(weights or [1.0], seed)
        self._digest = digest.hexdigest()[:16]
        self._index = lru_cache(maxsize=(window + 1) * len(self.sets))(lambda shard: index_of(shard, folder))

    def __len__(self) -> int:
        """The number of records."""
        return sum(order.size for order in self.orders)

    def fingerprint(self) -> str:
        """16 hex digits that change with what lies where in the shards, and with the order, not with names."""
        return self._digest

    def contents(self) -> dict[str, dict[str, Any]]:
        """{"NUMBER: NAME": what tells the content of a shard}. A copy elsewhere has the same."""
        return self._contents

    def step(self, index: int, rank: int = 0, world: int = 1) -> list[Drawn]:
        """The records of step `index`, counted from 0, that this rank of the world takes; those of all are the step."""
        positions = range(index * self.size + rank, (index + 1) * self.size, world)
        return [self._drawn(*self.mixture[position]) for position in positions]

    def read(self, drawn: Drawn) -> Record:
        """A record with its media in memory, read by one request where they lie together.

        ValueError where it is no good record; OSError, one line, where its shard is gone or was changed.
        """
        index = self._index(drawn.shard)
        places = index.of(drawn.record)
        begin = min(offset for offset, _ in places.values())
        end = max(offset + size for offset, size in places.values())
        if end - begin <= sum(size for _, size in places.values()) + _GAP * len(places):
            whole = drawn.shard.read(begin, end - begin)
            members = {own: whole[at - begin : at - begin + size] for own, (at, size) in places.items()}
        else:
            members = {own: drawn.shard.read(*place) for own, place in places.items()}
        texts = {name: data for name, data in members.items() if name in TEXTS}
        return record_of_members(index.key(drawn.record), members, texts)

    def name(self, drawn: Drawn) -> str:
        """For messages: the shard and the key."""
        return f"{drawn.shard.name} {self._index(drawn.shard).key(drawn.record)}"

    def text(self, drawn: Drawn, record: Record) -> int:
        """Which of the record's texts is learned at this place."""
        asked = sum(text.asked for text in record.texts)
        described = len(record.texts) - asked
        kind, which = np.random.default_rng([self.seed, drawn.set, drawn.position, _DRAW]).random(2)
        describes = not asked or (described and kind < self.caption_share)
        return int(which * described) if describes else described + int(which * asked)

    def _drawn(self, number: int, position: int) -> Drawn:
        shard, record = self.orders[number][position]
        return Drawn(number, position, self.sets[number][shard], record)

    def _about(self, shard: Shard) -> tuple[int, str]:
        """How many records a shard has, and what tells them from others."""
        index: ShardIndex = index_of(shard, self.folder)
        return len(index), index.digest
