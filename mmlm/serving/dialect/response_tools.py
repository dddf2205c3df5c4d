"""The tools of a request for a response: functions, which the client calls, or `image_generation`, which is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmlm.serving.errors import ApiError, not_yet

DRAWS = "image_generation"
SETTINGS = {
    "action": ("auto", "generate"), "background": ("auto", "opaque"), "moderation": ("auto", "low"),
    "output_format": ("png",), "partial_images": (0,), "quality": ("auto",), "size": ("auto",),
}  # fmt: skip
"""Of a picture, with the values that change nothing here."""


def modalities_of(tools: Sequence[Mapping[str, Any]], choice: Any) -> list[str] | None:
    """What an answer with these tools may hold, in the words of a chat; None for text alone.

    ApiError for settings of pictures that are not here, and for pictures beside functions.
    """
    drawing = [at for at, tool in enumerate(tools) if tool.get("type") == DRAWS]
    if isinstance(choice, Mapping) and choice.get("type") == DRAWS and not drawing:
        raise ApiError(400, f"tool_choice: {DRAWS} is not among the tools", "tool_choice", "invalid_value")
    if not drawing or choice == "none":
        return None
    if len(tools) > 1:
        message = f"tools: {DRAWS} stands alone, for functions are called in answers without pictures"
        raise ApiError(400, message, "tools", "invalid_value")
    for name, value in tools[0].items():
        if name != "type" and value is not None and value not in SETTINGS.get(name, ()):
            raise not_yet(f"tools[0].{name[:80]}={str(value)[:80]!r}", "tools")
    return ["image"] if choice == "required" or isinstance(choice, Mapping) else ["text", "image"]


def functions_of(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The functions among tools, as those of a chat; ApiError for tools of other types."""
    found = []
    for at, tool in enumerate(tools):
        if tool.get("type") == "function":
            inner = {name: value for name, value in tool.items() if name != "type"}
            found.append({"type": "function", "function": inner})
        elif tool.get("type") != DRAWS:
            kind = str(tool.get("type"))[:60]
            message = f"tools[{at}]: tools of the types function and {DRAWS} are taken, not {kind!r}"
            raise ApiError(400, message, "tools", "unsupported")
    return found
