"""Tars at addresses, as jobs read them: in pieces, by an index that is made once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from mmlm.data.readers.paths import without_secrets
from mmlm.data.streams import Shard, find_shards
from mmlm.data.streams.index import ShardIndex, index_of

BLOCK = 1 << 20  # bytes that one request reads: small members lie behind each other and are read in their order
_KEPT = 128  # blocks in memory
_INDEXING = 8  # tars that are indexed at once
_LISTS = (".jsonl", ".json")


@dataclass(frozen=True)
class RemoteSlice:
    """`size` bytes of a tar at an address, from `offset` on: a member."""

    shard: Shard
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes. UnreachableError where the tar cannot be read, or is not the one that was found."""
        if self.size > BLOCK:
            return self.shard.read(self.offset, self.size)
        first, end = self.offset // BLOCK, -(-(self.offset + self.size) // BLOCK)
        data = b"".join(_block(self.shard, number) for number in range(first, end))
        start = self.offset - first * BLOCK
        return data[start : start + self.size]


@lru_cache(maxsize=_KEPT)
def _block(shard: Shard, number: int) -> bytes:
    start = number * BLOCK
    return shard.read(start, min(BLOCK, shard.size - start))


@dataclass(frozen=True)
class RemoteTar:
    """A tar at an address. folder: of its index."""

    shard: Shard
    folder: Path

    @property
    def name(self) -> str:
        """Its file name, as a tar on this machine has it."""
        return PurePosixPath(self.shard.name).name

    def index(self) -> ShardIndex:
        """Where its samples lie; errors are those of `index_of`."""
        return index_of(self.shard, self.folder)

    def samples(self) -> dict[str, dict[str, list[RemoteSlice]]]:
        """{key: {suffix: where the member lies}}, in the order of the tar."""
        index = self.index()
        return {
            index.key(record): {suffix: [RemoteSlice(self.shard, *place)] for suffix, place in index.of(record).items()}
            for record in range(len(index))
        }


def remote_shards(address: str) -> list[Shard]:
    """The tars of an address, as `find_shards` finds them. ValueError for a manifest or a COCO file."""
    if address.partition("?")[0].endswith(_LISTS):
        raise ValueError(
            f"{without_secrets(address)}: manifests and COCO files are read on this machine alone; of addresses, tars "
            "are read, which `mmlm data convert` writes"
        )
    return find_shards(address)


def make_indexes(tars: Sequence[RemoteTar], counted: Callable[[int, int], object]) -> None:
    """Makes the indexes that are not there yet, several at once. counted: is told how many of how many are there."""
    with ThreadPoolExecutor(_INDEXING) as pool:
        for done, _ in enumerate(pool.map(lambda tar: len(tar.index()), tars), 1):
            counted(done, len(tars))
