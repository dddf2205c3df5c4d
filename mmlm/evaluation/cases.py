"""What a suite asks: cases, from records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

from mmlm.data.records import FileSlice, Record, Text

SuiteName: TypeAlias = Literal["captions", "vqa", "asr", "spoken", "retrieval", "drawing"]
SUITES: tuple[SuiteName, ...] = get_args(SuiteName)
Key: TypeAlias = int | str
Place: TypeAlias = FileSlice | bytes


@dataclass(frozen=True)
class Case:
    """One item to judge.

    key: its official id, or its record's key. expected: what is right, in as many ways as are known. question: what is
    asked, if it is written. unit: what is drawn for an interval: the picture that several questions are about.
    record, text: what a model is asked; None where only predictions are judged.
    """

    key: Key
    expected: tuple[str, ...]
    question: str | None = None
    unit: Key | None = None
    picture: Place | None = None
    sound: Place | None = None
    record: Record | None = None
    text: Text | None = None


def cases_of(suite: SuiteName, records: Sequence[Record]) -> list[Case]:
    """The cases that records have for a suite; [] where they have none.

    captions, retrieval, drawing: pictures with captions. vqa: written questions about pictures or recordings, where
    several "qa" entries with one question are what several people answered. asr: recordings with transcripts. spoken:
    questions that recordings ask.
    """
    found = [case for record in records for case in _of_record(suite, record)]
    seen: dict[Key, int] = {}
    unique = []
    for case in found:  # shards may share the names of their members
        seen[case.key] = number = seen.get(case.key, 0) + 1
        unique.append(case if number == 1 else replace(case, key=f"{case.key}#{number}"))
    return unique


def suites_of(records: Sequence[Record]) -> list[SuiteName]:
    """The suites that need no further net and for which records have what is asked."""
    return [name for name in SUITES if name not in ("retrieval", "drawing") and cases_of(name, records)]


def _of_record(suite: SuiteName, record: Record) -> Iterator[Case]:
    media = {"picture": record.source, "sound": record.sound, "record": record, "unit": record.key}
    asked: dict[tuple[str, str | None], list[Text]] = {}
    for text in record.texts:
        if not text.reads:
            asked.setdefault((text.kind, text.question), []).append(text)
    kinds = {"vqa": "question", "asr": "transcript", "spoken": "reply"}
    for (kind, question), texts in asked.items():
        if kind != kinds.get(suite, "caption") or (kind == "caption" and record.source is None):
            continue
        expected = tuple(text.answer for text in texts)
        if suite == "asr" and not expected[0].strip():
            continue  # nobody speaks, so no word can be wrong
        key = f"{record.key}: {question}" if suite == "vqa" else record.key
        yield Case(key, expected, question, text=texts[0], **media)
