"""Calls of tools: arguments checked, limits held, results as parts, errors in one line."""

from __future__ import annotations

import contextvars
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image as PILImage

from encoders.media.sound import Audio
from encoders.texts import check_text
from mmlm.prompting.messages import NAME, ToolCall
from mmlm.prompting.parts import Image, Sound
from mmlm.reasoning.tools.arguments import read_arguments
from mmlm.reasoning.tools.reading import RawCall
from mmlm.reasoning.tools.tool import Tool

Part = str | Image | Sound
MOST_MEDIA = 8  # pictures and recordings of one result


@dataclass(frozen=True)
class Called:
    """One call of a tool, and what came of it.

    call: its arguments are empty where they were no JSON object. parts: what the model was given: texts, pictures,
    recordings. error: what was wrong, None where nothing was; then it is the text of `parts`. seconds: of the call.
    """

    call: ToolCall
    parts: tuple[Part, ...]
    error: str | None = None
    seconds: float = 0.0

    def failed(self, error: Exception) -> Called:
        """The same with an error in place of what it gave."""
        told = one_line(error)
        return replace(self, parts=(told,), error=told)

    def __str__(self) -> str:
        given = self.call.arguments.items()
        arguments = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in given)
        shown = " ".join(described(part) for part in self.parts)
        return f"{self.call.name}({arguments}) → {shown}"


def called(
    raw: RawCall,
    tools: Sequence[Tool],
    media: Sequence[Image | Sound],
    number: int,
    seconds: float,
    characters: int,
) -> Called:
    """Calls a tool as the model has asked for, in a thread of its own. Nothing that a tool raises comes through.

    media: of the conversation. number: of the call, from 0. seconds: until it is given up; a thread cannot be ended,
    and goes on unheard. characters: of a result's texts, after which they are cut.
    """
    tool = next((tool for tool in tools if tool.name == raw.name), None)
    begun = time.monotonic()
    arguments: dict[str, Any] = {}
    try:
        if tool is None:
            raise ValueError(f"there is no tool {raw.name[:60]!r}; there are {', '.join(tool.name for tool in tools)}")
        arguments = read_arguments(raw.arguments, tool.parameters)
        parts, error = as_parts(_within(seconds, tool, media, arguments), characters), None
    except Exception as fault:
        error = one_line(fault)
        parts = (error,)
    return Called(_call(raw, arguments, number), parts, error, time.monotonic() - begun)


def refused(raw: RawCall, why: str, number: int) -> Called:
    """A call that is not made."""
    error = one_line(ValueError(why))
    return Called(_call(raw, {}, number), (error,), error)


def _call(raw: RawCall, arguments: Mapping[str, Any], number: int) -> ToolCall:
    """The call as messages hold it. Its id has nine letters and digits, as some templates demand."""
    return ToolCall(raw.name if NAME.fullmatch(raw.name) else "unknown", arguments, f"call{number % 100_000:05}")


def _within(seconds: float, tool: Tool, media: Sequence[Image | Sound], arguments: Mapping[str, Any]) -> Any:
    """What a tool gives, or raises; TimeoutError where it takes longer."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append((True, tool.call(list(media), **arguments) if tool.sees else tool.call(**arguments)))
        except BaseException as error:  # also what ends an interpreter: it is the tool's, not the loop's
            found.append((False, error))

    thread = threading.Thread(target=contextvars.Context().run, args=(work,), daemon=True, name=f"tool {tool.name}")
    thread.start()
    thread.join(max(0.0, seconds))
    if not found:
        raise TimeoutError(f"{tool.name} was given up after {seconds:.0f} s")
    good, value = found[0]
    if good:
        return value
    raise value if isinstance(value, Exception) else RuntimeError(f"{tool.name} ended with {type(value).__name__}")


def one_line(error: BaseException) -> str:
    """An error as the model is told it: its first line."""
    text = str(error).strip().splitlines()
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"Error: {kind}{text[0] if text else type(error).__name__}"[:300]


def as_parts(value: Any, characters: int) -> tuple[Part, ...]:
    """What a tool gave, as parts of a message; texts are cut after so many characters, and it says so.

    TypeError for what is no text, medium or JSON; ValueError for more than 8 media, or a text that is no Unicode.
    """
    values = list(value) if isinstance(value, (list, tuple)) and any(_is_part(one) for one in value) else [value]
    parts = [_as_part(one) for one in values]
    if (count := sum(not isinstance(part, str) for part in parts)) > MOST_MEDIA:
        raise ValueError(f"the tool gave {count} pictures and recordings; at most {MOST_MEDIA} are taken")
    kept: list[Part] = []
    for part in parts:
        if isinstance(part, str):
            check_text(part)
            cut, characters = part[:characters], max(0, characters - len(part))
            part = cut + f" … ({len(part) - len(cut):,} characters more)" if len(cut) < len(part) else cut
        kept.append(part)
    return tuple(part for part in kept if part != "") or ("(nothing)",)


def _is_part(value: Any) -> bool:
    return isinstance(value, (Image, Sound, PILImage.Image, Audio))


def _as_part(value: Any) -> Part:
    if isinstance(value, (str, Image, Sound)):
        return value.replace("\0", "") if isinstance(value, str) else value
    if isinstance(value, PILImage.Image):
        return Image(value)
    if isinstance(value, Audio):
        return Sound(value)
    if isinstance(value, np.generic):
        value = value.item()
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise TypeError(
            f"the tool gave {type(value).__name__}: a text, a picture, an Audio or what JSON can hold is needed"
        ) from None


def described(part: Part) -> str:
    """A part of a result in a line for people."""
    if isinstance(part, str):
        text = " ".join(part.split())
        return text if len(text) <= 200 else text[:199] + "…"
    source = part.source
    if isinstance(source, PILImage.Image):
        return f"[picture {source.width} × {source.height}]"
    if isinstance(source, Audio):
        return f"[recording of {source.seconds:.1f} s]"
    return "[picture]" if isinstance(part, Image) else "[recording]"
