"""Records: media with texts about them, conversations, documents; and the records that cannot be used, with reasons."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, overload

from PIL import Image

from decoders.values import check_kind
from encoders.media.image import load_image
from encoders.texts import check_text
from mmlm.data.judged import check_judged
from mmlm.data.place import FileSlice
from mmlm.prompting.messages import Message
from mmlm.prompting.parts import Image as Picture
from mmlm.prompting.parts import Sound, modality_of


@dataclass(frozen=True)
class Text:
    """One training target of a record, `answer`, with what the prompt gives.

    kind: "caption" describes the picture and "transcript" the recording; "question" answers `question`, which is text;
        "reply" answers the question that is asked in the recording. In a "conversation" it is all that the assistant
        says, and `question` all that others say; of a "document" it is all text.
    hears: the prompt holds the recording. reads: the prompt holds the transcript of the recording.
    """

    kind: Literal["caption", "transcript", "question", "reply", "conversation", "document"]
    answer: str
    question: str | None = None
    hears: bool = True
    reads: bool = False

    @property
    def asked(self) -> bool:
        """Whether it answers a question. The others describe."""
        return self.kind in ("question", "reply", "conversation")


@dataclass(frozen=True)
class Record:
    """A picture (`source`), a recording (`sound`) or both, and at least one text about them; or a conversation, or a
    document, with any number of media.

    key: its name, for messages. captions: of the picture. qa: questions with their answers. transcript: what is said
    in the recording, "" where nobody speaks. reply: the answer to the question that is asked in the recording.
    messages: a conversation, in which everything that the assistant says is learned. document: texts and media in their
    order; all text is learned. The source of their media is a FileSlice or bytes. Either stands alone.
    rejected: a worse answer than its one text, or a worse medium than the one drawn or spoken for that text. good:
    whether its one text is a good answer. Both are for alignment alone.
    ValueError where there is no medium, no text, or one that is empty or invalid; TypeError for values of other kinds.
    """

    key: str
    source: FileSlice | bytes | None = None
    captions: tuple[str, ...] = ()
    qa: tuple[tuple[str, str], ...] = ()
    sound: FileSlice | bytes | None = None
    transcript: str | None = None
    reply: str | None = None
    messages: tuple[Message, ...] = ()
    document: tuple[str | Picture | Sound, ...] = ()
    rejected: str | FileSlice | bytes | None = None
    good: bool | None = None

    def __post_init__(self) -> None:
        check_kind("messages", self.messages, tuple[Message, ...])
        check_kind("document", self.document, tuple[str | Picture | Sound, ...])
        for medium in (self.source, self.sound, *(place for _, place in self.places)):
            if not isinstance(medium, FileSlice | bytes | None):
                raise TypeError(f"the medium of a record is a FileSlice or bytes, not {medium!r:.80}")
        if self.messages or self.document:
            self._check_script()
        else:
            self._check_pair()
        if self.rejected is not None or self.good is not None:
            check_judged(self)

    def _check_script(self) -> None:
        pair = (self.source, self.sound, self.captions, self.qa, self.transcript, self.reply)
        if any(part not in (None, ()) for part in pair) or (self.messages and self.document):
            raise ValueError("a conversation or a document, and something beside it: give each its own record")
        (text,) = self.texts
        check_text(f"{text.answer}\n{text.question or ''}", f"a text of record {self.key!r}")
        if not text.answer.strip():
            raise ValueError("the assistant says nothing" if self.messages else "a document without text")
        for turn in self.messages:
            if turn.role == "assistant" and (turn.tool_calls or not all(isinstance(one, str) for one in turn.content)):
                raise ValueError("the assistant calls tools, or shows media, which is not learned from conversations")

    def _check_pair(self) -> None:
        check_kind("captions", self.captions, tuple[str, ...])
        check_kind("qa", self.qa, tuple[tuple[str, str], ...])
        for name, text in {"transcript": self.transcript, "reply": self.reply}.items():
            check_kind(name, text, str | None)
        asked = (part for pair in self.qa for part in pair)
        for text in (*self.captions, self.transcript or "", self.reply or "", *asked):
            check_text(text, f"a text of record {self.key!r}")
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
        """All training targets of the record. A conversation and a document are one each.

        Where a recording has a transcript, each question comes three times: with the recording, with the recording and
        the transcript, and with the transcript alone. So the model learns each way by itself.
        """
        if self.messages:
            said = [(turn.role == "assistant", one) for turn in self.messages for one in turn.content]
            texts = [(its, one) for its, one in said if isinstance(one, str)]
            own, others = ("\n".join(one for its, one in texts if its is assistant) for assistant in (True, False))
            return (Text("conversation", own, others),)
        if self.document:
            return (Text("document", "\n".join(part for part in self.document if isinstance(part, str))),)
        found = [Text("caption", caption) for caption in self.captions]
        found += [] if self.transcript is None else [Text("transcript", self.transcript)]
        ways = ((True, False), (True, True), (False, True)) if self.transcript else ((True, False),)
        for hears, reads in ways:
            found += [Text("question", answer, question, hears, reads) for question, answer in self.qa]
            found += [] if self.reply is None else [Text("reply", self.reply, None, hears, reads)]
        return tuple(found)

    @property
    def media(self) -> dict[str, FileSlice | bytes]:
        """Where its picture and its recording lie, by modality: "image" and "audio", in this order.

        Conversations and documents have none of these, but `places`.
        """
        places = {"image": self.source, "audio": self.sound}
        return {name: place for name, place in places.items() if place is not None}

    @functools.cached_property
    def places(self) -> tuple[tuple[str, FileSlice | bytes], ...]:
        """(modality, place) of all its media, in the order in which a prompt has them."""
        if not self.messages and not self.document:
            return tuple(self.media.items())
        parts = (*(part for turn in self.messages for part in turn.content), *self.document)
        return tuple((modality_of(part), part.source) for part in parts if not isinstance(part, str))

    @property
    def script(self) -> tuple[tuple[str, ...], ...]:
        """Who says what, and where media stand in it, in a conversation or a document; () for other records.

        Each entry is a role and its texts; a medium is "" and its modality.
        """
        turns = [(turn.role, turn.content) for turn in self.messages] or [("", self.document)] * bool(self.document)

        def said(part: str | Picture | Sound) -> tuple[str, ...]:
            return (part,) if isinstance(part, str) else ("", modality_of(part))

        return tuple((role, *(text for part in content for text in said(part))) for role, content in turns)

    def identity(self) -> tuple[object, ...]:
        """What of it a run depends on, beside the bytes of its media."""
        judged = [(self.rejected, self.good)] * (isinstance(self.rejected, str) or self.good is not None)
        return (*self.texts, *[self.script] * bool(self.script), *judged)

    @property
    def image(self) -> bytes:
        """The encoded picture (JPEG, PNG, …), read from disk at each access."""
        return _read(self.source, self.key, "picture")

    @property
    def audio(self) -> bytes:
        """The encoded recording (FLAC, WAV, …), read from disk at each access."""
        return _read(self.sound, self.key, "recording")

    def decode(self) -> Image.Image:
        """The decoded picture. ValueError, with the record's key, where it cannot be read or decoded."""
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
    """Too many records are bad; `bad` holds all of them."""

    def __init__(self, message: str, bad: Sequence[BadRecord] = ()) -> None:
        super().__init__(message)
        self.bad = tuple(bad)


@dataclass(frozen=True)
class RecordSet(Sequence[Record]):
    """Usable records in a fixed order, and the bad ones beside them. `total` counts both, so no loss goes unnoticed."""

    records: tuple[Record, ...]
    bad: tuple[BadRecord, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Record, ...]: ...
    def __getitem__(self, index: int | slice) -> Record | tuple[Record, ...]:
        return self.records[index]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    @property
    def total(self) -> int:
        return len(self.records) + len(self.bad)

    def without(self, bad: dict[int, str]) -> RecordSet:
        """The same set with the records at these indices moved to the bad ones. `bad` maps indices to reasons."""
        good = tuple(record for i, record in enumerate(self.records) if i not in bad)
        found = tuple(BadRecord(self.records[i].key, reason) for i, reason in bad.items())
        return RecordSet(good, self.bad + found)

    def check(self, limit: float, shown: int = 20) -> RecordSet:
        """The set itself. BadRecordsError if more than `limit` of its records (a share, 0–1) are bad, or none is good.

        The message lists the first `shown` bad records.
        """
        if len(self.bad) > limit * self.total:
            names = "\n".join(f"  {bad.key}: {bad.reason}" for bad in self.bad[:shown])
            rest = f"\n  … and {len(self.bad) - shown} more" if len(self.bad) > shown else ""
            missing = any(bad.reason.startswith("no picture at") for bad in self.bad)
            where = " (where paths of pictures start from another folder, give images=)" if missing else ""
            raise BadRecordsError(
                f"{len(self.bad)} of {self.total} records are bad, more than the limit of {limit:.1%}:\n{names}{rest}\n"
                f"Repair or remove them, or raise bad_limit{where}.",
                self.bad,
            )
        if not self.records:
            raise BadRecordsError("there are no records to use", self.bad)
        return self

    def fingerprint(self) -> str:
        """16 hex digits that change with the keys, the texts and their order. Media are not read."""
        digest = hashlib.sha256()
        for record in self.records:
            digest.update(repr((record.key, record.identity())).encode())
        return digest.hexdigest()[:16]


def as_record_set(data: Sequence[Record]) -> RecordSet:
    """A RecordSet from a RecordSet or a sequence of Records."""
    return data if isinstance(data, RecordSet) else RecordSet(tuple(data))


RecordSource: TypeAlias = "str | os.PathLike[str] | Record | RecordSet | Sequence[RecordSource]"
"""What `mmlm.data.read_records` reads."""
