"""Records whose one answer is judged: by a worse one beside it, or as good or bad."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

from encoders.texts import check_text

T = TypeVar("T")


def check_judged(record: Any) -> None:
    """ValueError or TypeError where what a Record says of its answer makes no sense."""
    if record.rejected is not None and record.good is not None:
        raise ValueError("an answer that is good or bad, and a worse one: give either")
    if not isinstance(record.good, bool | None):
        raise TypeError(f"good is True or False, not {record.good!r:.80}")
    ends = not record.messages or record.messages[-1].role == "assistant"
    if len(record.texts) != 1 or record.document or not ends:
        raise ValueError("a preference is about one answer, of a conversation the last")
    if isinstance(record.rejected, str):
        check_text(record.rejected, f"a text of record {record.key!r}")
        if not record.rejected.strip():
            raise ValueError("the rejected answer is empty")


def unasking(record: Any) -> str | None:
    """Why a Record cannot be a prompt whose answer is rewarded; None where it can."""
    return "a document asks for nothing, so no answer to it can be rewarded" if record.document else None


def check_prompts(records: Iterable[Any]) -> None:
    """ValueError with the first of the Records that cannot be prompts, and how many they are."""
    found = [(record.key, why) for record in records if (why := unasking(record)) is not None]
    if found:
        (key, why), more = found[0], f" ({len(found) - 1:,} more of the kind)" if len(found) > 1 else ""
        raise ValueError(f"record {key!r}{more}: {why}; give questions, captions, transcripts or conversations")


def worse(record: T) -> T:
    """A Record with what it rejects in the place of what it prefers."""
    own: Any = record
    given = own.rejected
    if not isinstance(given, str):
        medium = {"source": given} if own.sound is None else {"sound": given}
        return replace(own, rejected=None, **medium)
    if own.messages:
        said = replace(own.messages[-1], content=(given,))
        return replace(own, rejected=None, messages=(*own.messages[:-1], said))
    if own.qa:
        return replace(own, rejected=None, qa=tuple((question, given) for question, _ in own.qa))
    told = [name for name in ("transcript", "reply") if getattr(own, name) is not None]
    return replace(own, rejected=None, **{told[0]: given} if told else {"captions": (given,)})
