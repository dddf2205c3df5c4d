"""What asks for a text of a record, the same prompt in training and in evaluation; and what is learned of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mmlm.data.records import Record, Text
from mmlm.prompting.conversation import taught
from mmlm.prompting.messages import Message
from mmlm.prompting.parts import END_OF_CHUNK, Image, Learned, Markup, Media, Part, Sound
from mmlm.prompting.processor import Example, Processor
from mmlm.prompting.templates import PromptTemplate


def prompt_of(template: PromptTemplate, record: Record, text: Text, media: Sequence[Media]) -> list[Part]:
    """The parts that ask for `text`, one of `record.texts`, given the record's media, pictures first."""
    if text.asked:
        return template.spoken_prompt(media, record.transcript if text.reads else None, text.question)
    return [*media, template.caption if text.kind == "caption" else template.transcript]


def example_of(processor: Processor, template: PromptTemplate, record: Record, text: Text) -> Example:
    """What is learned of `text`, one of `record.texts`. The source of each of its media is a number in `record.places`.

    A document is cut behind the last position. ValueError where any other text has more tokens than positions.
    """
    if record.messages:
        return processor.encode(conversation_parts(processor.tokenizer, template, _numbered_messages(record)))
    if record.document:
        return processor.encode(document_parts(_numbered(record.document, 0)), cut=True)
    media: list[Media] = [
        _part(modality, number)
        for number, (modality, _) in enumerate(record.places)
        if modality == "image" or text.hears
    ]
    return processor.encode(prompt_of(template, record, text, media), text.answer)


def asking_parts(
    tokenizer: Any, template: PromptTemplate, record: Record, text: Text, media: Sequence[Any]
) -> list[Part]:
    """What comes before `text`, one of `record.texts`; in a conversation, before the last answer.

    media: the sources of `record.places`, read or computed.
    """
    if record.messages:
        parts = conversation_parts(tokenizer, template, _numbered_messages(record))
        parts = parts[: max(index for index, part in enumerate(parts) if isinstance(part, Learned))]
    else:
        seen = [n for n, (modality, _) in enumerate(record.places) if modality == "image" or text.hears]
        parts = prompt_of(template, record, text, [_part(record.places[number][0], number) for number in seen])
    return [type(part)(media[part.source]) if isinstance(part, (Image, Sound)) else part for part in parts]


def _part(modality: str, source: Any) -> Media:
    return Image(source) if modality == "image" else Sound(source)


def conversation_parts(tokenizer: Any, template: PromptTemplate, messages: Sequence[Message]) -> list[Part]:
    """A conversation, of which all that the assistant says is learned, with the mark that ends it.

    It is written by the tokenizer's chat template, or by `template` where there is none, as in `chat`.
    """
    if getattr(tokenizer, "chat_template", None):
        return taught(tokenizer, messages)
    parts: list[Part] = []
    for turn in messages:
        said = tuple(part for part in turn.content if isinstance(part, str))
        parts += [Learned((*said, END_OF_CHUNK))] if turn.role == "assistant" else template.conversation([turn])
    return parts


def markup_bytes(tokenizer: Any, template: PromptTemplate) -> int:
    """How many bytes are written around each message of a conversation, about."""
    said = conversation_parts(tokenizer, template, [Message("user", ("?",)), Message("assistant", ("!",))])
    pieces = [piece for part in said for piece in (part.parts if isinstance(part, Learned) else [part])]
    return sum(len((piece.text if isinstance(piece, Markup) else str(piece)).encode()) for piece in pieces)


def document_parts(document: Sequence[str | Image | Sound]) -> list[Part]:
    """A document, of which all text is learned. What follows media ends its chunk before the next, as captions do."""
    parts: list[Part] = []
    media = False
    for part, following in zip(document, (*document[1:], None), strict=True):
        if not isinstance(part, str):
            media = True
            parts.append(part)
        else:
            ends = media and not isinstance(following, str)
            parts.append(Learned((part, END_OF_CHUNK) if ends else (part,)))
    return parts


def _numbered_messages(record: Record) -> list[Message]:
    found, start = [], 0
    for turn in record.messages:
        found.append(replace(turn, content=_numbered(turn.content, start)))
        start += sum(not isinstance(part, str) for part in turn.content)
    return found


def _numbered(parts: Sequence[str | Image | Sound], start: int) -> tuple[str | Image | Sound, ...]:
    """The parts with media whose source is their number, from `start` on."""
    found: list[str | Image | Sound] = []
    for part in parts:
        found.append(part if isinstance(part, str) else type(part)(start))
        start += not isinstance(part, str)
    return tuple(found)
