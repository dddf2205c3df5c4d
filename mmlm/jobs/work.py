"""The loop of one process: take a shard, do it, publish it, until all are done by somebody."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from decoders.files import remove_left
from mmlm.data.records import BadRecord
from mmlm.jobs.items import Item
from mmlm.jobs.leases import Leases
from mmlm.jobs.parts import Done, Parts, Row
from mmlm.jobs.plan import INDEXES, WAIT, Plan

RowsOf = Callable[[Sequence[Item | BadRecord], int], Sequence[Row]]
"""The rows of a shard's items, and the place of its first item among all."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is; torchrun says so in the environment."""

    rank: int = 0
    world: int = 1

    @classmethod
    def of_environment(cls) -> Ranks:
        """ValueError where RANK and WORLD_SIZE are no such numbers."""
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if not 0 <= rank < world:
            raise ValueError(f"RANK={rank} and WORLD_SIZE={world} are not those of a process: ranks begin at 0")
        return cls(rank, world)

    def own(self, shards: int) -> range:
        """The shards that are this process's unless others help. They are neighbours: few processes index one tar."""
        return range(*(shards * edge // self.world for edge in (self.rank, self.rank + 1)))

    def order(self, shards: int) -> list[int]:
        """All shards in the order in which this process takes them: its own, then those of others, the last first."""
        own = self.own(shards)
        return [*own, *reversed([*range(own.stop, shards), *range(own.start)])]


@dataclass(frozen=True)
class Totals:
    """How far a job is: shards that are done of all, rows in them, and rows that are errors."""

    shards: int
    done: int
    rows: int
    failed: int


def work(
    plan: Plan,
    parts: Parts,
    leases: Leases,
    items_of: Callable[[int], Sequence[Item | BadRecord]],
    rows_of: RowsOf,
    ranks: Ranks,
    told: Callable[[Totals], None] = lambda totals: None,
) -> Totals:
    """Works until every shard is done, by this process or another one. Processes may come and go meanwhile.

    items_of: of a shard's number. told: is called with the totals at the beginning and after each shard.
    UnreachableError where the source of a shard was written again meanwhile; nothing of it is published then.
    """
    counts = [piece.count for _, piece in plan.shards]
    remove_left(path for own in ("", "done", INDEXES) for path in (parts.folder / own).glob(".*.tmp"))
    firsts = [0, *itertools.accumulate(counts)]
    for shard in set(ranks.own(len(counts))) & parts.listed():
        with leases.take(f"{shard:05d}") as ours:
            if ours:
                parts.settled(shard, counts[shard])
    found: dict[int, Done] = {}

    def look() -> Totals:
        for shard in parts.listed() - found.keys():
            if (done := parts.done(shard)) is not None:
                found[shard] = done
        rows, failed = (sum(getattr(one, name) for one in found.values()) for name in ("rows", "failed"))
        return Totals(len(counts), len(found), rows, failed)

    told(look())
    while len(found) < len(counts):
        before = len(found)
        for shard in ranks.order(len(counts)):
            if shard in found:
                continue
            with leases.take(f"{shard:05d}") as ours:
                if not ours:
                    continue
                if parts.settled(shard, counts[shard]) is None:
                    rows = rows_of(items_of(shard), firsts[shard])
                    plan.check(shard)  # what was read is what the job is about
                    parts.publish(shard, rows)
            told(look())
        look()
        if len(found) == before:
            time.sleep(WAIT)
    leases.end()
    return look()
