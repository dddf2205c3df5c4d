"""What tells a file, or a tar elsewhere, from what lay there before: for runs and jobs that are gone on with.

A version is the same while nobody writes there, and costs nothing. A content is the same of a copy, too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmlm.data.readers.tar import edges
from mmlm.data.records import FileSlice, RecordSet
from mmlm.data.streams.shards import Shard, UnreachableError, is_remote

_END = 1 << 16  # bytes at the end of a table


def versions_of(sources: Iterable[Path | Shard]) -> dict[str, dict[str, Any]]:
    """{"NUMBER: NAME": version} of files and tars. Of a file, its folder's name and its own, wherever it is mounted."""
    found = {}
    for number, one in enumerate(sources, 1):
        name = one.name if isinstance(one, Shard) else str(one)
        if not is_remote(name):
            name = f"{Path(name).absolute().parent.name}/{Path(name).name}"
        found[f"{number}: {name}"] = version_of(one)
    return found


def versions_within(records: RecordSet) -> dict[str, dict[str, Any]]:
    """The `versions_of` the tars and tables in which media of records lie."""
    places = (place for record in records for _, place in record.places)
    return versions_of(dict.fromkeys(own.path for own in places if isinstance(own, FileSlice) and not own.whole))


def contents_within(records: RecordSet) -> dict[str, dict[str, Any]]:
    """{"NUMBER: NAME": content} of the tars and tables in which media of records lie, by the `edges` of the media.

    Of a table, whose end describes all of it, by its own.
    """
    parts: dict[Path, dict[tuple[int, int], None]] = {}
    for own in (place for record in records for _, place in record.places):
        if isinstance(own, FileSlice) and not own.whole:
            parts.setdefault(own.path, {})[own.offset, own.size or 0] = None
    found = {}
    for number, (path, places) in enumerate(parts.items(), 1):
        size, content = path.stat().st_size, hashlib.sha256()
        with open(path, "rb") as file:
            for offset, length in places:
                content.update(edges(file, offset, length) if length else edges(file, 0, size, _END))
        found[f"{number}: {path.name}"] = {"bytes": size, "content": content.hexdigest()[:16]}
    return found


def version_of(source: Path | Shard) -> dict[str, Any]:
    """Its size, and the time of its last change; of a tar at an address, what its server tells of its version."""
    if isinstance(source, Shard):
        return {"bytes": source.size, "changed": source.version}
    state = source.stat()
    return {"bytes": state.st_size, "changed": state.st_mtime_ns}


def check_version(source: Path | Shard, version: dict[str, Any]) -> None:
    """UnreachableError, one line, where another one lies there now, or none."""
    name = source.name if isinstance(source, Shard) else str(source)
    try:
        now = version_of(source.now() if isinstance(source, Shard) else source)
    except Exception as error:  # each file system has its own
        raise UnreachableError(
            f"{name} cannot be read any more; when it is there again, the same call goes on"
        ) from error
    if now != version:
        raise UnreachableError(
            f"{version_changed(name, version, now)}: what was read of it meanwhile is not kept; put back what was "
            "there, and the same call goes on"
        )


def version_changed(name: str, before: Any, now: Any) -> str:
    """How two versions of what has this name, or key of `versions_of`, differ, in words; None is that of nothing."""
    name = re.sub(r"^\d+: ", "", name)
    if before is None or now is None:
        return f"{name} {'is new' if before is None else 'is not given now'}"
    sizes = before.get("bytes"), now.get("bytes")
    return f"{name} " + ("had {:,} bytes, now {:,}".format(*sizes) if sizes[0] != sizes[1] else "has changed since")
