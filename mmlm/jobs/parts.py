"""What a job has done: a file of rows for each shard, and beside it what tells that the file is whole."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmlm.jobs.files import create, replace

log = logging.getLogger(__name__)

Row = Mapping[str, Any]
"""What is written for an item: its "key", and what was made of it or the "error"."""


@dataclass(frozen=True)
class Done:
    """A shard that is done: its rows, how many of them are errors, and the size in bytes and SHA-256 of its file."""

    rows: int
    failed: int
    bytes: int
    sha256: str


class Parts:
    """`part-00012.jsonl` in a folder, and `done/00012.json`, which is written after it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, number: int) -> Path:
        """Where the rows of a shard lie."""
        return self.folder / f"part-{number:05d}.jsonl"

    def listed(self) -> set[int]:
        """The shards of which something is said."""
        return {int(note.stem) for note in (self.folder / "done").glob("[0-9]*.json")}

    def done(self, number: int) -> Done | None:
        """What is said of a shard, if its file has the size that is said; None where it is still to do."""
        try:
            said = Done(**json.loads(self._note(number).read_bytes()))
            return said if self.path(number).stat().st_size == said.bytes else None
        except (OSError, ValueError, TypeError, RecursionError):
            return None

    def settled(self, number: int, rows: int) -> Done | None:
        """The same for one who has the shard's lease, from the file's content; `rows`: how many it must have.

        Where a process was killed after it published a file and before it said so, that is made good. A damaged file is
        removed.
        """
        path, said = self.path(number), self.done(number)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        found = _described(data)
        if found is not None and found.rows == rows and (said == found or not self._note(number).exists()):
            if said is None:
                self._say(number, found)
            return found
        log.warning("%s is damaged: it is made anew", path)
        self._note(number).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        return None

    def publish(self, number: int, rows: Sequence[Row]) -> None:
        """Writes a shard's rows, unless another process did so meanwhile: then its file stays."""
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        # Names that are no valid Unicode have escapes in Python, which are those of JSON too.
        data = "".join(lines).encode("utf-8", "backslashreplace")
        if create(self.path(number), data):
            found = _described(data)
            assert found is not None, "rows that are written can be read"
            self._say(number, found)

    def _note(self, number: int) -> Path:
        return self.folder / "done" / f"{number:05d}.json"

    def _say(self, number: int, found: Done) -> None:
        self._note(number).parent.mkdir(exist_ok=True)
        replace(self._note(number), json.dumps(asdict(found)).encode())


def _described(data: bytes) -> Done | None:
    """None for what is no file of rows."""
    try:
        rows = [json.loads(line) for line in data.splitlines()]
        failed = sum("error" in row for row in rows if "key" in row)
    except (ValueError, TypeError, RecursionError):
        return None
    return Done(len(rows), failed, len(data), hashlib.sha256(data).hexdigest())
