"""Messages of a request, with their pictures and recordings through the guarded door."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from encoders.media.sound import load_audio
from encoders.transcription.transcript import Transcript
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.messages import Message, as_messages
from mmlm.prompting.parts import Image, Sound
from mmlm.serving.errors import ApiError, ClientLeftError, lacks, told
from mmlm.serving.media import MediaDoor
from mmlm.serving.models import Loaded
from mmlm.tasks.chat import Mode, heard, template_of

FIELDS = {
    "text": {"text"}, "refusal": {"refusal"}, "image_url": {"image_url"}, "input_audio": {"input_audio"},
}  # fmt: skip
"""The types of content, and the field of each beside its type."""

LOOKING = 0.05  # seconds, after which it is looked whether somebody still waits


def read_messages(given: Sequence[Mapping[str, Any]], door: MediaDoor) -> list[Message]:
    """The messages as the library takes them; ApiError that names the place of what is wrong."""
    read: list[dict[str, Any]] = []
    for index, message in enumerate(given):
        place = f"messages[{index}].content"
        content = message.get("content")
        if isinstance(content, list):
            content = [_part(item, f"{place}[{at}]", door) for at, item in enumerate(content)]
        elif content is not None and not isinstance(content, str):
            raise ApiError(400, f"{place} is a text or a list of parts", place, "invalid_value")
        if message.get("role") == "assistant":
            message, content = _earlier(message, content, f"messages[{index}]", door)
        read.append({**message, "content": content})
    try:
        return as_messages(read)
    except (ValueError, TypeError) as error:
        raise ApiError(400, told(error), "messages", "invalid_value") from None


def _earlier(
    message: Mapping[str, Any], content: Any, place: str, door: MediaDoor
) -> tuple[Mapping[str, Any], str | list[Any] | None]:
    """An answer of the assistant's as it came from here, and its content with what it said and drew."""
    audio, images = message.get("audio"), message.get("images")
    if not content and isinstance(audio, Mapping):
        content = audio.get("transcript")
        if not isinstance(content, str):
            what = "this server keeps no sounds: send the transcript of the answer as its content"
            raise ApiError(400, f"{place}.audio: {what}", f"{place}.audio", "unsupported")
    message = {name: value for name, value in message.items() if name != "images"}
    if not images:
        return message, content
    if not isinstance(images, list):
        raise ApiError(400, f"{place}.images is a list", f"{place}.images", "invalid_value")
    parts: list[Any] = content if isinstance(content, list) else [content] if content else []
    for at, item in enumerate(images):
        if not isinstance(item, Mapping) or item.get("type") != "image_url":
            where = f"{place}.images[{at}]"
            raise ApiError(400, f"{where} is an object whose type is image_url", where, "invalid_value")
        own = {name: value for name, value in item.items() if name != "index"}
        parts = [*parts, _part(own, f"{place}.images[{at}]", door)]
    return message, parts


def has_sound(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether messages of a request, not read yet, hold recordings."""
    contents = [message.get("content") for message in messages]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return any(isinstance(part, Mapping) and part.get("type") == "input_audio" for part in parts)


def heard_messages(
    loaded: Loaded, turns: Sequence[Message], mode: Mode, language: str | None, door: MediaDoor, left: threading.Event
) -> list[Message]:
    """The messages with their recordings written down as `mode` says; what is left of them is heard as features.

    door: that the recordings came through, by their headers; none is longer than its limit as it is decoded either.
    left: set once nobody waits; ClientLeftError then.
    """
    most, timeout = door.limits.max_seconds, door.limits.timeout + door.seconds

    def write_down(recording: Any) -> Transcript:
        ticket = loaded.engine.transcribe(recording, language=language, timeout=timeout, max_seconds=most)
        while not ticket.wait(LOOKING):
            if left.is_set():
                ticket.cancel()
                raise ClientLeftError
        return ticket.results()

    if mode != "transcript":
        turns = [replace(turn, content=tuple(_decoded(part, most) for part in turn.content)) for turn in turns]
    template = template_of(loaded.model)
    return [heard(loaded.model, turn, mode, language, template, write_down) for turn in turns]


def _decoded(part: Any, most: float) -> Any:
    """A part as it is, but of a recording its samples, of at most so many seconds."""
    return Sound(load_audio(part.source, max_seconds=most)) if isinstance(part, Sound) else part


def check_parts(model: MultimodalNetwork, name: str, turns: Sequence[Message]) -> None:
    """ApiError where a model has no encoder for what messages hold."""
    parts = [part for turn in turns for part in turn.content]
    if "image" not in model.encoders and any(isinstance(part, Image) for part in parts):
        raise lacks(name, "image encoder", "it takes texts and recordings alone", "messages")
    if "audio" not in model.encoders and any(isinstance(part, Sound) for part in parts):
        raise lacks(name, "audio encoder", "it takes texts and pictures alone", "messages")


def _part(item: Any, place: str, door: MediaDoor) -> Any:
    kind = item.get("type") if isinstance(item, Mapping) else None
    if not isinstance(item, Mapping) or not isinstance(kind, str) or kind not in FIELDS:
        known = ", ".join(FIELDS)
        raise ApiError(400, f"{place} is an object whose type is one of {known}", place, "invalid_value")
    _only(item, {"type", *FIELDS[kind]}, place)
    if kind == "image_url":
        inner = _inner(item, kind, {"url", "detail"}, place)
        if inner.get("detail", "auto") not in ("auto", "low", "high"):
            raise ApiError(400, f"{place}: detail is auto, low or high", place, "invalid_value")
        return Image(door.picture_at(inner.get("url"), f"{place}.image_url.url"))
    if kind == "input_audio":
        inner = _inner(item, kind, {"data", "format"}, place)
        return Sound(door.sound_of(inner.get("data"), f"{place}.input_audio.data"))
    return dict(item)


def _inner(item: Mapping[str, Any], kind: str, known: Collection[str], place: str) -> Mapping[str, Any]:
    inner = item.get(kind)
    if not isinstance(inner, Mapping):
        raise ApiError(400, f"{place}.{kind} is an object", place, "invalid_value")
    _only(inner, known, f"{place}.{kind}")
    return inner


def _only(item: Mapping[str, Any], known: Collection[str], place: str) -> None:
    if unknown := sorted(map(str, item.keys() - set(known))):
        raise ApiError(400, f"{place}: unknown field {unknown[0][:80]!r}", place, "unknown_field")
