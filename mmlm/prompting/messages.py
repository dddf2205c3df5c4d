"""Conversations as programs write them: messages in the forms of transformers and of OpenAI, read into parts."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from encoders.media.image import load_image
from encoders.media.sound import load_audio
from encoders.media.source import MediaError, label_of
from encoders.media.video import load_video
from mmlm.prompting.parts import Image, Sound, as_part

Role = Literal["system", "user", "assistant", "tool"]
ROLES = (*get_args(Role), "developer")  # OpenAI's newer name of "system"

NAME = re.compile(r"[\w.:/-]{1,128}", re.ASCII)
_TEXTS = ("text", "input_text", "output_text", "refusal")
_SOURCES = {
    "image": ("image", "url", "path", "base64"),
    "audio": ("audio", "url", "path", "base64"),
    "video": ("video", "url", "path", "base64"),
}  # transformers' types of content, and where each may name its source
_ADDRESSES = {"image_url": "image", "audio_url": "audio", "video_url": "video", "input_image": "image"}
_KNOWN = {"role", "content", "name", "tool_calls", "tool_call_id"}
_LEFT_OUT = {"id", "refusal", "annotations", "audio", "reasoning", "reasoning_content", "thinking"}
"""What OpenAI's and others' answers carry beside their content, and templates are not given."""


@dataclass(frozen=True)
class ToolCall:
    """A call of a function that the assistant asked for. arguments: as they were decoded from JSON."""

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None


@dataclass(frozen=True)
class Message:
    """One turn. content: its texts, pictures and recordings, in order.

    tool_calls: functions that the assistant calls. name, tool_call_id: of a tool's message, whose result it is.
    """

    role: Role
    content: tuple[str | Image | Sound, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None
    tool_call_id: str | None = None


def as_messages(messages: Any, *, allow_url: bool = False) -> list[Message]:
    """Messages of dictionaries, in transformers' form or OpenAI's.

    messages: a list of {"role": "system" | "user" | "assistant" | "tool", "content": …}. The content is a text, or a
        list of texts, of parts such as `mmlm.Image(path)`, and of dictionaries: {"type": "text", "text": …};
        {"type": "image" | "audio" | "video"} with a "path", "url" or "base64", or with the medium itself under its
        type; OpenAI's {"type": "image_url", "image_url": {"url": …}} and {"type": "input_audio", "input_audio":
        {"data": …, "format": …}}. An assistant's message may have "tool_calls", which a tool's message answers.
    allow_url: fetch http(s) addresses, from public machines alone.
    ValueError that names the message, for an empty conversation, unknown roles, types and fields; TypeError for values
    of another kind; MediaError for an address that is not fetched.
    """
    if isinstance(messages, Iterator):
        messages = list(messages)
    if not isinstance(messages, (list, tuple)):
        raise TypeError(f"messages are a list of dictionaries with role and content, not {type(messages).__name__}")
    if not messages:
        raise ValueError("the conversation is empty: give it a message")
    return [
        one if isinstance(one, Message) else _message(one, f"messages[{index}]", allow_url)
        for index, one in enumerate(messages)
    ]


def _message(given: Any, where: str, allow_url: bool) -> Message:
    if not isinstance(given, Mapping):
        raise TypeError(f"{where} is a dictionary with role and content, not {type(given).__name__}")
    given = {key: value for key, value in given.items() if value is not None}
    role = given.get("role")
    if role not in ROLES:
        raise ValueError(f"{where}: the role is one of {', '.join(ROLES)}, not {str(role)[:60]!r}")
    if unknown := sorted(map(str, given.keys() - _KNOWN - _LEFT_OUT)):
        raise ValueError(f"{where}: unknown field {unknown[0][:60]!r}; known are {', '.join(sorted(_KNOWN))}")
    calls = tuple(_call(one, f"{where}: tool_calls") for one in _list(given.get("tool_calls", ()), where, "tool_calls"))
    if calls and role != "assistant":
        raise ValueError(f"{where}: only an assistant's message has tool_calls")
    if "content" not in given and not calls:
        raise ValueError(f"{where} has no content")
    content = given.get("content", "")
    items = [content] if isinstance(content, str) else _list(content, where, "content")
    found = tuple(_part(item, f"{where}: content", allow_url) for item in items)
    names = {key: _name(given.get(key), f"{where}: {key}") for key in ("name", "tool_call_id")}
    return Message("system" if role == "developer" else role, tuple(one for one in found if one != ""), calls, **names)


def _list(value: Any, where: str, name: str) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{where}: {name} is a {'text or a ' if name == 'content' else ''}list, not {_kind(value)}")
    return value


def _name(value: Any, where: str) -> str | None:
    """A name, which templates write as it is: so it must be no markup."""
    if value is not None and not (isinstance(value, str) and NAME.fullmatch(value)):
        raise ValueError(f"{where} is a name of letters, digits and . : / - _, not {str(value)[:60]!r}")
    return value


def _call(given: Any, where: str) -> ToolCall:
    function = given.get("function") if isinstance(given, Mapping) else None
    if not isinstance(function, Mapping) or _name(function.get("name"), f"{where}: the name of a function") is None:
        raise ValueError(f'{where}: a call is {{"function": {{"name": …, "arguments": …}}}}')
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):  # as OpenAI writes them
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: the arguments of {function['name']} are no JSON ({error})") from error
    if not isinstance(arguments, Mapping):
        raise ValueError(f"{where}: the arguments of {function['name']} are a JSON object, not {_kind(arguments)}")
    try:
        json.dumps(arguments, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where}: the arguments of {function['name']} are no JSON ({error})") from error
    return ToolCall(function["name"], arguments, _name(given.get("id"), f"{where}: the id of a call"))


def _part(item: Any, where: str, allow_url: bool) -> str | Image | Sound:
    if not isinstance(item, Mapping):
        part = as_part(item)
        if not isinstance(part, (str, Image, Sound)):
            raise TypeError(f"{where} holds texts, pictures and recordings, not {type(part).__name__}")
        return part
    kind = item.get("type")
    if kind in _TEXTS:
        text = item.get("text", item.get(kind))
        if not isinstance(text, str):
            raise TypeError(f'{where}: {{"type": "{kind}"}} has a text, not {_kind(text)}')
        return text
    if kind == "input_audio":
        given = item.get(kind)
        data = given.get("data") if isinstance(given, Mapping) else None
        return Sound(_decoded(data, where))
    if kind in _ADDRESSES:
        address = item.get(kind, item.get("image_url"))
        address = address.get("url") if isinstance(address, Mapping) else address
        if not isinstance(address, str) or not address[:8].lower().startswith(("data:", "http://", "https://")):
            medium = _ADDRESSES[kind]
            raise ValueError(
                f"{where}: {kind} is a data: URL or an http(s) address, not {str(address)[:60]!r}; a file is "
                f'{{"type": "{medium}", "path": …}}'
            )
        return _medium(_ADDRESSES[kind], address, allow_url)
    if kind not in _SOURCES:
        known = ", ".join((*_SOURCES, "text", *_ADDRESSES, "input_audio"))
        raise ValueError(f"{where}: unknown type {str(kind)[:60]!r}; known are {known}")
    named = [key for key in _SOURCES[kind] if item.get(key) is not None]
    if len(named) != 1:
        raise ValueError(f'{where}: {{"type": "{kind}"}} has one of {", ".join(_SOURCES[kind])}; here are {named}')
    value = item[named[0]]
    return _medium(kind, _decoded(value, where) if named[0] == "base64" else value, allow_url)


def _medium(kind: str, source: Any, allow_url: bool) -> Image | Sound:
    """The part of a source; what lies elsewhere is fetched here, where the caller allows it."""
    if isinstance(source, (Image, Sound)):
        return source
    away = isinstance(source, str) and source[:8].lower().startswith(("http://", "https://"))
    if kind == "audio":
        return Sound(load_audio(source, allow_url=allow_url) if away else source)
    if kind == "video":
        if away:
            raise MediaError(f"{label_of(source)}: videos are not fetched; download it")
        return Image(load_video(source))
    return Image(load_image(source, allow_url=allow_url) if away else source)


def _decoded(data: Any, where: str) -> bytes:
    if not isinstance(data, (str, bytes)):
        raise TypeError(f"{where}: data in base64 is a text, not {_kind(data)}")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{where}: data that is no base64 ({error})") from error


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
