"""Records that are conversations, documents or preferences, told by their fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmlm.data.readers import conversations, documents
from mmlm.data.readers.fields import Find
from mmlm.data.readers.preferences import is_preference, preference_of
from mmlm.data.records import Record


def is_script(fields: Mapping[str, Any]) -> bool:
    """Whether the fields are those of a conversation or a document."""
    return conversations.is_conversation(fields) or documents.is_document(fields)


def is_apart(fields: Mapping[str, Any]) -> bool:
    """Whether the fields are those of a conversation, a document or a preference."""
    return is_script(fields) or is_preference(fields)


def apart_of(key: str, fields: Mapping[str, Any], find: Find) -> Record | None:
    """The record of a conversation, document or preference; None for other fields. ValueError for no good record."""
    if is_preference(fields):
        return preference_of(key, fields, find)
    return script_of(key, fields, find) if is_script(fields) else None


def named(fields: Mapping[str, Any]) -> bool:
    """Whether a conversation, document or preference names its media, or else has places for them, in their order."""
    if {"image", "images", "audio", "audios", "video", "videos"} & fields.keys() or "text_list" in fields:
        return True
    turns = fields.get("messages", ())
    return isinstance(turns, list) and any(
        isinstance(turn, dict) and isinstance(turn.get("content"), list) for turn in turns
    )


def script_of(key: str, fields: Mapping[str, Any], find: Find) -> Record:
    """The record of a conversation or a document, whose media `find` finds. ValueError where a field is no good."""
    if conversations.is_conversation(fields):
        return Record(key, messages=conversations.messages_of(fields, find))
    return Record(key, document=documents.document_of(fields, find))
