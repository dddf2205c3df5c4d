"""Arguments of a call against the JSON schema of its tool: what is wrong with them, in words for the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "null": (type(None),),
    "array": (list,), "object": (Mapping,),
}  # fmt: skip


def read_arguments(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a model has written; ValueError that names the first fault."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the arguments are no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("the arguments are a JSON object")
    if fault := fault_of(found, schema):
        raise ValueError(fault)
    return found


def fault_of(value: Any, schema: Any, where: str = "the arguments", depth: int = 0) -> str | None:
    """The first fault of a value, or None.

    Of the schema's words those are looked at that a model can be told of: types, enumerations, properties, items,
    ranges and lengths. What refers to other schemas is taken as it is.
    """
    if not isinstance(schema, Mapping) or depth > 32:
        return None
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if value is None and schema.get("nullable"):
        return None
    if isinstance(kinds, Sequence) and not any(_is_a(value, kind) for kind in kinds):
        return f"{where} must be of type {' or '.join(map(str, kinds))}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} must be one of {json.dumps(schema['enum'], ensure_ascii=False)[:300]}"
    if "const" in schema and value != schema["const"]:
        return f"{where} must be {json.dumps(schema['const'], ensure_ascii=False)[:300]}"
    for key in ("anyOf", "oneOf"):
        faults = [fault_of(value, one, where, depth + 1) for one in schema.get(key) or ()]
        if faults and None not in faults:
            return faults[0]
    if isinstance(value, Mapping):
        return _fault_of_object(value, schema, where, depth)
    if isinstance(value, list):
        return _fault_of_list(value, schema, where, depth)
    return _fault_of_size(value, schema, where)


def _is_a(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(kind, (object,)))


def _fault_of_object(value: Mapping[str, Any], schema: Mapping[str, Any], where: str, depth: int) -> str | None:
    known = schema.get("properties") or {}
    if missing := [name for name in schema.get("required") or () if name not in value]:
        return f"{where}: {missing[0]!r} is missing"
    others = schema.get("additionalProperties", True)
    for name, own in value.items():
        if name not in known and others is False:
            return f"{where}: there is no {name[:60]!r}; known are {', '.join(map(str, known))}"
        inner = known.get(name, others)
        if fault := fault_of(own, inner, name[:60] if depth == 0 else f"{where}.{name[:60]}", depth + 1):
            return fault
    return None


def _fault_of_list(value: list[Any], schema: Mapping[str, Any], where: str, depth: int) -> str | None:
    least, most = schema.get("minItems", 0), schema.get("maxItems", len(value))
    if not least <= len(value) <= most:
        return f"{where} must have {least if least == most else f'{least} to {most}'} items, not {len(value)}"
    first = schema.get("prefixItems") or []
    for place, own in enumerate(value):
        inner = first[place] if place < len(first) else schema.get("items")
        if fault := fault_of(own, inner, f"{where}[{place}]", depth + 1):
            return fault
    return None


def _fault_of_size(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    if isinstance(value, str):
        least, most = schema.get("minLength", 0), schema.get("maxLength", len(value))
        return None if least <= len(value) <= most else f"{where} must have {least} to {most} characters"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        least, most = schema.get("minimum", value), schema.get("maximum", value)
        if not least <= value <= most:
            return f"{where} must be {'at least' if value < least else 'at most'} {least if value < least else most}"
        over, under = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        if isinstance(over, int | float) and value <= over:
            return f"{where} must be more than {over}"
        if isinstance(under, int | float) and value >= under:
            return f"{where} must be less than {under}"
    return None
