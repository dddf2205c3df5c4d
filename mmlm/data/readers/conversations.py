"""Conversations in records: `messages` as OpenAI and transformers have them, `conversations` as LLaVA's files do, and
`texts` as the_cauldron's tables do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from encoders.media.source import MAX_BYTES, read_bytes
from mmlm.data.readers.fields import Find
from mmlm.data.records import FileSlice
from mmlm.prompting.messages import Message, as_messages
from mmlm.prompting.parts import Image, Sound

FIELDS = ("messages", "conversations")  # either makes a record a conversation, as do `texts` that are turns

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_MARKS = re.compile(r"\s*<(image|audio|video)>\s*")
_FILMS = ("video", "videos")
_BESIDE = {"image": ("image", "images", "file_name", *_FILMS), "audio": ("audio", "audios")}
# Of items of a content: where the name of their medium stands, and what it is. Films have the place of pictures.
_NAMED = {"image": ("image", "path", "url"), "audio": ("audio", "path", "url"), "video": ("video", "path", "url")}
_ADDRESSES = {"image_url": "image", "input_image": "image", "audio_url": "audio", "video_url": "image"}


def is_conversation(fields: Mapping[str, Any]) -> bool:
    """Whether the fields are those of a conversation. "texts" may also be those of a document."""
    if any(name in fields for name in FIELDS):
        return True
    turns = fields.get("texts")
    return isinstance(turns, list) and bool(turns) and all(isinstance(turn, Mapping) for turn in turns)


def messages_of(fields: Mapping[str, Any], find: Find) -> tuple[Message, ...]:
    """The messages of a record.

    "conversations" is a list of {"from": "human" | "gpt" | "system", "value": text}; "messages" is one of {"role",
    "content"}. In texts of "conversations", and in contents of "messages" that are plain texts, `<image>` and `<audio>`
    stand for the media that "image" or "images", "audio" or "audios" name, in their order, as do items {"type":
    "image"} that name none. Media that no text has a place for come before the first question. "texts" is a list of
    {"user": text, "assistant": text}.
    Films have the place of pictures: "video" or "videos" name them, `<image>` or `<video>` stand for them.
    ValueError where places and media differ in number, or an entry is none.
    """
    if any(fields.get(film) for film in _FILMS) and any(fields.get(name) for name in ("image", "images")):
        raise ValueError('"image" and "video", whose order is not told: name all of them as "images", in their order')
    beside = {modality: names_of(fields, names) for modality, names in _BESIDE.items()}
    waiting = {modality: iter(names) for modality, names in beside.items()}
    places = _Places(find, waiting)
    if "messages" in fields:
        given = _list(fields, "messages")
        turns = [{**turn, "content": places.content(turn.get("content"))} for turn in map(_object, given)]
    elif "conversations" not in fields:
        said = [(role, turn.get(role)) for turn in fields["texts"] for role in ("user", "assistant")]
        turns = [{"role": role, "content": places.content(text)} for role, text in said]
    else:
        turns = []
        for turn in map(_object, _list(fields, "conversations")):
            role, text = _ROLES.get(str(turn.get("from"))), turn.get("value")
            if role is None or not isinstance(text, str):
                raise ValueError('an entry of "conversations" is {"from": "human" or "gpt", "value": text}')
            turns.append({"role": role, "content": places.content(text)})
    left = [(modality, name) for modality, names in waiting.items() for name in names]
    if left:
        total = sum(map(len, beside.values()))
        first = next((turn for turn in turns if turn.get("role") == "user"), None)
        if len(left) < total or first is None:
            raise ValueError(f"{total} media, but the texts have places for {total - len(left)}")
        first["content"] = [*(places.part(*one) for one in left), *first["content"]]
    try:
        return tuple(as_messages(turns))
    except TypeError as error:
        raise ValueError(str(error)) from error


class _Places:
    """Makes the content of messages: texts, and media where `find` finds them."""

    def __init__(self, find: Find, waiting: Mapping[str, Iterator[str]]) -> None:
        self.find, self.waiting = find, waiting

    def content(self, content: Any) -> list[Any]:
        if isinstance(content, str):
            pieces = _MARKS.split(content)
            texts = [piece.strip() for piece in pieces[::2]]
            found: list[Any] = [texts[0]]
            for mark, text in zip(pieces[1::2], texts[1:], strict=True):
                found += [self.next("audio" if mark == "audio" else "image"), text]
            return [one for one in found if one != ""]
        if not isinstance(content, list):
            raise ValueError("a message whose content is neither text nor a list")
        return [self._item(item) for item in content]

    def next(self, modality: str) -> Image | Sound:
        name = next(self.waiting[modality], None)
        if name is None:
            raise ValueError(f"more places for {modality}s than {modality}s")
        return self.part(modality, name)

    def part(self, modality: str, name: Any) -> Image | Sound:
        if isinstance(name, FileSlice | bytes):
            place = name  # a cell of a table
        elif not isinstance(name, str) or not name:
            raise ValueError(f"the name of a medium is {name!r:.80}")
        elif name[:5].lower() == "data:":
            place = read_bytes(name, name[:40], MAX_BYTES, allow_url=False)
        elif "://" in name[:32]:
            raise ValueError(f"{name[:80]} is an address: download it, training reads files")
        else:
            place = self.find(name, modality)
        return Image(place) if modality == "image" else Sound(place)

    def _item(self, item: Any) -> Any:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind in _ADDRESSES:
            address = item.get(kind, item.get("image_url"))
            return self.part(_ADDRESSES[kind], address.get("url") if isinstance(address, dict) else address)
        if kind in _NAMED and (kind == "video" or item.get("base64") is None):
            names = [item[key] for key in _NAMED[kind] if item.get(key) is not None]
            modality = "audio" if kind == "audio" else "image"
            return self.part(modality, names[0]) if names else self.next(modality)
        if isinstance(item, dict):  # without the nulls that columns of a table leave
            return {key: value for key, value in item.items() if value is not None}
        return item


def names_of(fields: Mapping[str, Any], names: tuple[str, ...]) -> list[Any]:
    """The media that fields of these names name, one or a list of them each."""
    found = [fields[name] for name in names if fields.get(name) is not None]
    listed = (value if isinstance(value, list) else [value] for value in found)
    return [one for value in listed for one in value if one is not None]


def _list(fields: Mapping[str, Any], name: str) -> list:
    if not isinstance(fields[name], list) or not fields[name]:
        raise ValueError(f'"{name}" is no list of messages')
    return fields[name]


def _object(turn: Any) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise ValueError("a message that is no object")
    return turn
