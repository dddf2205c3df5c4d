"""Records: a picture or a recording with what people wrote about it, and the account of those that are of no use."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image

from encoders.media.image import load_image


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
class Text:
    """One thing to learn from a record: its `answer`, to what is asked in this way.

    kind: "caption" and "transcript" are written of what is seen and heard; "question" answers a question in words,
    "reply" what is asked in the recording itself. hears: the recording is given; reads: what was said in it is.
    """

    kind: Literal["caption", "transcript", "question", "reply"]
    answer: str
    question: str | None = None
    hears: bool = True
    reads: bool = False

    @property
    def asked(self) -> bool:
        """Whether it answers something, rather than describes."""
        return self.kind in ("question", "reply")


@dataclass(frozen=True)
class Record:
    """A picture (`source`), a recording (`sound`) or both, and at least one text about them.

    captions; qa: questions with their answers; transcript: what is said in the recording, "" where nobody speaks;
    reply: the answer to what is asked in the recording.
    """

    key: str
    source: FileSlice | bytes | None = None
    captions: tuple[str, ...] = ()
    qa: tuple[tuple[str, str], ...] = ()
    sound: FileSlice | bytes | None = None
    transcript: str | None = None
    reply: str | None = None

    def __post_init__(self) -> None:
        if self.source is None and self.sound is None:
            raise ValueError("neither a picture nor a recording")
        if self.sound is None and (self.transcript is not None or self.reply is not None):
            raise ValueError("a transcript or a reply, but no recording")
        if not self.texts:
            raise ValueError("no caption and no question" + (", no transcript, no reply" if self.sound else ""))
        said = () if self.reply is None else (self.reply,)
        if not all(text.strip() for text in (*self.captions, *said, *(part for pair in self.qa for part in pair))):
            raise ValueError("an empty caption, question or answer")

    @functools.cached_property
    def texts(self) -> tuple[Text, ...]:
        """All that can be learned from it. Where the words of a recording are known, what is asked is asked thrice:
        by the recording alone, with its words beside it, and by its words alone, so that each way works by itself."""
        found = [Text("caption", caption) for caption in self.captions]
        found += [] if self.transcript is None else [Text("transcript", self.transcript)]
        ways = ((True, False), (True, True), (False, True)) if self.transcript else ((True, False),)
        for hears, reads in ways:
            found += [Text("question", answer, question, hears, reads) for question, answer in self.qa]
            found += [] if self.reply is None else [Text("reply", self.reply, None, hears, reads)]
        return tuple(found)

    @property
    def image(self) -> bytes:
        """The encoded picture (JPEG, PNG, …), read from disk each time it is asked for."""
        return _read(self.source, self.key, "picture")

    @property
    def audio(self) -> bytes:
        """The encoded recording (FLAC, WAV, …), read from disk each time it is asked for."""
        return _read(self.sound, self.key, "recording")

    def decode(self) -> Image.Image:
        """The picture itself; ValueError that names the record where it cannot be read or decoded."""
        try:
            return load_image(self.image)
        except (OSError, ValueError) as error:
            raise ValueError(f"the picture of record {self.key!r} cannot be used: {error}") from error


def _read(source: FileSlice | bytes | None, key: str, medium: str) -> bytes:
    if source is None:
        raise ValueError(f"record {key!r} has no {medium}")
    return source if isinstance(source, bytes) else source.read()


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
            digest.update(repr((record.key, record.texts)).encode())
        return digest.hexdigest()[:16]


def as_record_set(data) -> RecordSet:
    """A RecordSet from a RecordSet or a sequence of Records."""
    return data if isinstance(data, RecordSet) else RecordSet(tuple(data))
