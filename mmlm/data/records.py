"""Records: one picture with what people wrote about it, and the account of those that could not be used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from encoders.media import load_image


@dataclass(frozen=True)
class FileSlice:
    """Where bytes lie on disk: a whole file, or `size` bytes from `offset` (a member of a tar)."""

    path: Path
    offset: int = 0
    size: int | None = None

    def read(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            data = file.read(-1 if self.size is None else self.size)
        if self.size is not None and len(data) != self.size:
            raise OSError(f"{self.path} ends {self.size - len(data)} bytes too early; the file is truncated")
        return data


@dataclass(frozen=True)
class Record:
    """One picture, its captions, and questions about it with their answers. At least one text."""

    key: str
    source: FileSlice | bytes
    captions: tuple[str, ...] = ()
    qa: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.captions and not self.qa:
            raise ValueError("no caption and no question")
        if not all(text.strip() for text in (*self.captions, *(part for pair in self.qa for part in pair))):
            raise ValueError("an empty caption, question or answer")

    @property
    def image(self) -> bytes:
        """The encoded picture (JPEG, PNG, …), read from disk each time it is asked for."""
        return self.source if isinstance(self.source, bytes) else self.source.read()

    def decode(self) -> Image.Image:
        """The picture itself; ValueError that names the record where it cannot be read or decoded."""
        try:
            return load_image(self.image)
        except (OSError, ValueError) as error:
            raise ValueError(f"the picture of record {self.key!r} cannot be used: {error}") from error


@dataclass(frozen=True)
class BadRecord:
    """A record that cannot be used, and why."""

    key: str
    reason: str


class BadRecordsError(ValueError):
    """More records are bad than the limit allows; `bad` holds all of them."""

    def __init__(self, message: str, bad: Sequence[BadRecord] = ()) -> None:
        super().__init__(message)
        self.bad = tuple(bad)


@dataclass(frozen=True)
class RecordSet(Sequence[Record]):
    """Usable records in a fixed order, and the bad ones beside them: `total` counts both, so nothing is lost unseen."""

    records: tuple[Record, ...]
    bad: tuple[BadRecord, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index):
        return self.records[index]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    @property
    def total(self) -> int:
        return len(self.records) + len(self.bad)

    def without(self, bad: dict[int, str]) -> RecordSet:
        """The set with the records at these indices moved to the bad ones; values are the reasons."""
        good = tuple(record for i, record in enumerate(self.records) if i not in bad)
        found = tuple(BadRecord(self.records[i].key, reason) for i, reason in bad.items())
        return RecordSet(good, self.bad + found)

    def check(self, limit: float, shown: int = 20) -> RecordSet:
        """Return the set itself, or raise BadRecordsError, with a list, if more than `limit` (a share, 0–1) are bad.

        An empty set is an error whatever the limit."""
        if len(self.bad) > limit * self.total:
            names = "\n".join(f"  {bad.key}: {bad.reason}" for bad in self.bad[:shown])
            rest = f"\n  … and {len(self.bad) - shown} more" if len(self.bad) > shown else ""
            raise BadRecordsError(
                f"{len(self.bad)} of {self.total} records are bad, more than the limit of {limit:.1%}:\n{names}{rest}\n"
                f"Repair or remove them, or raise bad_limit.",
                self.bad,
            )
        if not self.records:
            raise BadRecordsError("there are no records to use", self.bad)
        return self

    def fingerprint(self) -> str:
        """16 hex digits that change when a key, a text or the order changes. Pictures are not read."""
        digest = hashlib.sha256()
        for record in self.records:
            digest.update(repr((record.key, record.captions, record.qa)).encode())
        return digest.hexdigest()[:16]


def as_record_set(data) -> RecordSet:
    """A RecordSet from a RecordSet or a sequence of Records."""
    return data if isinstance(data, RecordSet) else RecordSet(tuple(data))
