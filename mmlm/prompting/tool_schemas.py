"""Functions that a model may call, as OpenAI's API describes them, checked, and as a chat template is shown them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmlm.prompting.chat_template import PLACE
from mmlm.prompting.messages import NAME

PLACES_FROM = 1_000_000  # what messages say has the places before
MOST_CHARACTERS = 100_000  # of all schemas together

_PLAIN = re.compile(r"[\w.:/$-]{1,128}", re.ASCII)  # words of schemas, which cannot be markup


def as_schemas(tools: Any) -> list[dict[str, Any]]:
    """Functions in OpenAI's form: {"type": "function", "function": {"name": …, "description": …, "parameters": …}}.

    parameters: JSON schema of an object; without it a function takes nothing.
    ValueError or TypeError that names the function, for what has another form, for a name that is given twice, and for
    more than 100,000 characters.
    """
    if not isinstance(tools, (list, tuple)):
        raise TypeError(f"tools are a list, not {type(tools).__name__}")
    found: list[dict[str, Any]] = []
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if (
            not isinstance(tool, Mapping)
            or tool.get("type", "function") != "function"
            or not isinstance(function, Mapping)
        ):
            raise ValueError(f'tools[{index}] is {{"type": "function", "function": {{"name": …, "parameters": …}}}}')
        found.append({"type": "function", "function": _function(function, f"tools[{index}]")})
    names = [tool["function"]["name"] for tool in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"tools: the name {twice[0]!r} is given twice")
    if (count := len(json.dumps(found, ensure_ascii=False))) > MOST_CHARACTERS:
        raise ValueError(
            f"tools: their schemas have {count:,} characters, and no more than {MOST_CHARACTERS:,} are read"
        )
    return found


def _function(function: Mapping[str, Any], where: str) -> dict[str, Any]:
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"{where}: the name is of letters, digits and . : / - _, not {str(name)[:60]!r}")
    description = function.get("description") or ""
    if not isinstance(description, str):
        raise TypeError(f"{where}: the description of {name} is a text, not {type(description).__name__}")
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise ValueError(f'{where}: the parameters of {name} are the JSON schema of an object: {{"type": "object", …}}')
    if not isinstance(parameters.get("properties", {}), Mapping):
        raise ValueError(f"{where}: the properties of {name} are an object")
    try:
        parameters = json.loads(json.dumps(parameters, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where}: the parameters of {name} are no JSON ({error})") from error
    whole = {"type": "object", **parameters, "properties": parameters.get("properties", {})}
    return {"name": name, "description": description, "parameters": whole}


def shown_tools(tools: Sequence[Mapping[str, Any]]) -> tuple[list[Any], dict[int, str]]:
    """Schemas with places for all texts but plain words, as a chat template is shown them, and the texts by place.

    So what the author of a tool writes cannot become markup.
    """
    texts: dict[int, str] = {}

    def shown(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {shown(key): shown(own) for key, own in value.items()}
        if isinstance(value, (list, tuple)):
            return [shown(own) for own in value]
        if not isinstance(value, str) or not value.strip() or _PLAIN.fullmatch(value):
            return value
        number = PLACES_FROM + len(texts)
        texts[number] = value
        return f"{PLACE}{number}{PLACE}"

    return [shown(tool) for tool in tools], texts
