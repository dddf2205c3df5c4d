"""Items of a request for a response, as the messages of a chat."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmlm.serving.errors import ApiError

KINDS = ("message", "function_call", "function_call_output", "reasoning", "image_generation_call")
ROLES = ("user", "assistant", "system", "developer")
PARTS = ("input_text", "output_text", "input_image", "input_audio", "refusal")


def read_items(given: str | Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[int | None]]:
    """The messages that items stand for, and of which item each is. Earlier thoughts are left out, as templates do.

    ApiError that names the place of what is wrong.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}], [0]
    messages: list[dict[str, Any]] = []
    places: list[int | None] = []
    for at, item in enumerate(given):
        kind, place = item.get("type", "message"), f"input[{at}]"
        if kind not in KINDS:
            raise _wrong(f"{place}: items are {', '.join(KINDS)}, not {str(kind)[:60]!r}", place)
        if kind == "reasoning":
            continue
        if kind == "function_call":
            call = _call(item, place)
            if messages and messages[-1]["role"] == "assistant":  # one message holds all calls of an answer
                messages[-1].setdefault("tool_calls", []).append(call)
                continue
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        elif kind == "image_generation_call":
            picture = {"type": "image_url", "image_url": {"url": _picture(item, place)}}
            message = {"role": "assistant", "content": None, "images": [picture]}
        elif kind == "function_call_output":
            content = _content(item.get("output"), f"{place}.output")
            message = {"role": "tool", "tool_call_id": _text(item, "call_id", place), "content": content}
        else:
            if item.get("role") not in ROLES:
                raise _wrong(f"{place}.role is one of {', '.join(ROLES)}", f"{place}.role")
            message = {"role": item["role"], "content": _content(item.get("content"), f"{place}.content")}
        messages.append(message)
        places.append(at)
    if not messages:
        raise _wrong("input holds no message", "input")
    return messages, places


def misplaced(error: ApiError, places: Sequence[int | None]) -> ApiError:
    """An error about a message as one about its item of the input."""

    def item(found: re.Match[str]) -> str:
        at = int(found[1])
        place = places[at] if at < len(places) else None
        return "instructions" if place is None else f"input[{place}]"

    def own(text: str) -> str:
        return re.sub(r"\bmessages\[(\d+)\]", item, text)

    renamed = {"messages": "input", "response_format": "text", "max_completion_tokens": "max_output_tokens",
               "reasoning_effort": "reasoning", "modalities": "tools"}  # fmt: skip
    param = None if error.param is None else own(renamed.get(error.param, error.param))
    return ApiError(error.status, own(error.message), param, error.code)


def _call(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    function = {name: _text(item, name, place) for name in ("name", "arguments")}
    return {"id": _text(item, "call_id", place), "type": "function", "function": function}


def _picture(item: Mapping[str, Any], place: str) -> str:
    """The address of a picture that an earlier response holds."""
    if item.get("result") is None:
        raise _wrong(f"{place}.result is needed: pictures are not kept here", f"{place}.result")
    form = str(item.get("output_format") or "png")
    return f"data:image/{form};base64,{_text(item, 'result', place)}"


def _text(item: Mapping[str, Any], name: str, place: str) -> str:
    if not isinstance(item.get(name), str):
        raise _wrong(f"{place}.{name} is a text", f"{place}.{name}")
    return item[name]


def _content(given: Any, place: str) -> Any:
    """Content with the names that parts have in a chat."""
    if isinstance(given, str):
        return given
    if not isinstance(given, list):
        raise _wrong(f"{place} is a text or a list of parts", place)
    return [_part(part, f"{place}[{at}]") for at, part in enumerate(given)]


def _part(part: Any, place: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or kind not in PARTS:
        raise _wrong(f"{place} is an object whose type is one of {', '.join(PARTS)}", place)
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": _text(part, "text", place)}
    if kind == "input_image":
        if part.get("image_url") is None:
            raise _wrong(f"{place}.image_url is needed: files are not kept here", f"{place}.image_url")
        detail = {"detail": part["detail"]} if part.get("detail") is not None else {}
        return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
    return dict(part)


def _wrong(message: str, place: str) -> ApiError:
    return ApiError(400, message, place, "invalid_value")
