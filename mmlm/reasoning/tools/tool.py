"""Tools: Python functions that a model may call, with what it is told of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mmlm.prompting.tool_schemas import as_schemas


class ToolError(ValueError):
    """What a tool could not do, in words for the model."""


@dataclass(frozen=True)
class Tool:
    """A function that a model may call.

    name: letters, digits and . : / - _. description: what it does, for the model.
    parameters: JSON schema of an object, the arguments. call: takes them as keywords. It gives a text, a picture, an
    `Audio`, anything that JSON can hold, or a list of these; what it raises is told to the model in one line.
    sees: whether `call` is given the pictures and recordings of the conversation before them, a list of parts.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    call: Callable[..., Any]
    sees: bool = False

    def __post_init__(self) -> None:
        as_schemas([self.schema])

    @property
    def schema(self) -> dict[str, Any]:
        """What the model is told, as OpenAI's API has it."""
        described = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": described}


def as_tool(value: Any) -> Tool:
    """A `Tool` as it is, or one of a function with type hints and a docstring in Google's style.

    TypeError or ValueError that says what the function lacks: a docstring, a description or a type of each argument.
    """
    if isinstance(value, Tool):
        return value
    if not callable(value):
        raise TypeError(
            f"a tool is a function or an mmlm.reasoning.Tool, not {type(value).__name__}; those of an MCP server come "
            "from mmlm.reasoning.mcp_tools"
        )
    name = getattr(value, "__name__", type(value).__name__)
    if inspect.iscoroutinefunction(value):
        raise TypeError(f"the tool {name} is a coroutine: give a plain function, which may call asyncio.run")
    for parameter in inspect.signature(value).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ValueError(f"the tool {name}: the argument {parameter.name} cannot be given by its name")
    from transformers.utils.chat_template_utils import get_json_schema

    try:
        function = get_json_schema(value)["function"]
    except Exception as error:  # upstream raises several kinds, some of them no ValueError
        raise ValueError(
            f"the tool {name}: {str(error).strip()[:300]}. A tool has a docstring that says what it does, and under "
            '"Args:" a line "name: what it is" for each argument, all with type hints that JSON knows; or it is an '
            "mmlm.reasoning.Tool with a schema of its own"
        ) from error
    schema = {**function["parameters"], "additionalProperties": False}
    return Tool(function["name"], function["description"] or "", schema, value)


def as_tools(values: Any) -> list[Tool]:
    """Tools, of which no two share a name."""
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(f"tools are a list of functions and mmlm.reasoning.Tool, not {type(values).__name__}")
    found = [as_tool(value) for value in values]
    as_schemas([tool.schema for tool in found])
    return found
