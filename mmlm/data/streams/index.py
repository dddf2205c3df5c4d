"""Where the records of a shard lie: made once by reading it, and kept in a file beside others of its kind."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mmlm.data.readers.paths import without_secrets, without_user
from mmlm.data.readers.tar import index_members
from mmlm.data.streams.shards import Shard, UnreachableError, is_remote, retried

_FORM = 2  # of the file
_COLUMNS = 3  # suffix, offset, size


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The records of a shard in its order. 30 to 100 bytes a record.

    suffixes: of all members. members: int64 [M, 3], the number of the suffix, the offset and the size of each member,
    record after record. starts: int64 [N + 1], where those of a record begin. keys: of all records, with a NUL between.
    content: a digest of the `edges` of all members. digest: changes with any of these.
    """

    suffixes: tuple[str, ...]
    members: np.ndarray
    starts: np.ndarray
    keys: bytes
    content: str
    digest: str

    def __len__(self) -> int:
        return len(self.starts) - 1

    def key(self, record: int) -> str:
        """The name of a record."""
        return self._keys[record].decode(errors="surrogateescape")

    @cached_property
    def _keys(self) -> list[bytes]:
        return self.keys.split(b"\0")

    def of(self, record: int) -> dict[str, tuple[int, int]]:
        """{suffix: (offset, size)} of a record."""
        rows = self.members[self.starts[record] : self.starts[record + 1]].tolist()
        return {self.suffixes[suffix]: (offset, size) for suffix, offset, size in rows}


def index_of(shard: Shard, folder: Path) -> ShardIndex:
    """The index of a shard: from the folder or, where that lacks it, by reading the shard once.

    ValueError, one line, where the shard is damaged, or two members of it have the same name; UnreachableError where it
    cannot be read.
    """
    path = index_path(shard, folder)
    found = _read(path)
    if found is None:
        found = _made(shard)
        _write(path, found)
    return found


def index_path(shard: Shard, folder: Path) -> Path:
    """The file of an index; another one when the shard was written again, the same one for all who may read it."""
    about = f"{_FORM}\n{without_user(shard.url)}\n{shard.size}\n{shard.version}"
    return folder / f"{hashlib.sha256(about.encode(errors='surrogateescape')).hexdigest()[:24]}.index"


def _made(shard: Shard) -> ShardIndex:
    def members_of() -> tuple[dict[str, dict[str, list[tuple[int, int]]]], str]:
        content = hashlib.sha256()
        with shard.open() as file:
            return index_members(file, shard.name, content.update), content.hexdigest()[:16]

    try:
        found, content = retried(members_of, shard.name) if is_remote(shard.url) else members_of()
    except (tarfile.TarError, RecursionError) as error:
        raise ValueError(f"{shard.name} is damaged or not a plain tar ({error}); fetch or write it again") from error
    except Exception as error:  # each file system has its own
        if isinstance(error, ValueError) and shard.name in str(error):
            raise  # what is wrong with a member
        raise UnreachableError(f"{shard.name} cannot be read ({without_secrets(str(error))})") from error
    suffixes: dict[str, int] = {}
    rows, starts = [], [0]
    for key, members in found.items():
        if twice := [suffix for suffix, places in members.items() if len(places) > 1]:
            raise ValueError(f"{shard.name}: several members are named {key}.{twice[0]}; write each key once")
        for suffix, ((offset, size),) in members.items():
            rows.append((suffixes.setdefault(suffix, len(suffixes)), offset, size))
        starts.append(len(rows))
    members = np.array(rows, np.int64).reshape(-1, _COLUMNS)
    keys = "\0".join(found).encode(errors="surrogateescape")
    return _index(tuple(suffixes), members, np.array(starts, np.int64), keys, content)


def _index(suffixes: tuple[str, ...], members: np.ndarray, starts: np.ndarray, keys: bytes, content: str) -> ShardIndex:
    whole = hashlib.sha256(json.dumps([suffixes, content]).encode())
    for part in (members.tobytes(), starts.tobytes(), keys):
        whole.update(hashlib.sha256(part).digest())
    return ShardIndex(suffixes, members, starts, keys, content, whole.hexdigest()[:16])


def _write(path: Path, index: ShardIndex) -> None:
    """A line of JSON, which tells the sizes, then members, starts and keys; whole or not at all."""
    body = index.members.tobytes() + index.starts.tobytes() + index.keys
    about = {"suffixes": index.suffixes, "members": len(index.members), "records": len(index), "content": index.content}
    about["crc"] = zlib.crc32(body)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(json.dumps(about).encode() + b"\n" + body)
    os.replace(temporary, path)


def _read(path: Path) -> ShardIndex | None:
    """None where there is no index, or it is not as it was written."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        about = json.loads(head)
        members, starts = int(about["members"]), int(about["records"]) + 1
        first, second = 8 * _COLUMNS * members, 8 * starts
        if min(members, starts) < 0 or first + second > len(body) or zlib.crc32(body) != about["crc"]:
            return None
        found = np.frombuffer(body, np.int64, _COLUMNS * members).reshape(-1, _COLUMNS)
        own = np.frombuffer(body, np.int64, starts, first)
        return _index(tuple(about["suffixes"]), found, own, body[first + second :], str(about["content"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
