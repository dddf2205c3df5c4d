"""Checks of the values of settings, where they are given: their kinds by the annotations, their ranges by name."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import types
import typing
from collections.abc import Callable, Mapping
from numbers import Integral, Number, Real
from typing import Any, Literal, Union

NAMES = {
    int: "a whole number", float: "a number", str: "a text", bool: "True or False", type(None): "None",
    Callable: "a function", Mapping: "a dict", dict: "a dict", frozenset: "a frozenset",
}  # fmt: skip


def check_kinds(settings: Any) -> None:
    """TypeError for a field of a dataclass whose value is not of the kind that its annotation says.

    A whole number is a number too, and becomes a float where the annotation says so, so that 32 and 32.0 are written
    alike; NaN is none. ValueError for a value that is not among those of a `Literal`.
    Annotations other than numbers, texts, dataclasses, tuples, sets and mappings of these, and functions are not looked
    at.
    """
    hints = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        check_kind(field.name, value, hints[field.name])
        if isinstance(value, Number) and not isinstance(value, int | float):  # NumPy's cannot be written as JSON
            raise TypeError(f"{field.name} must be one of Python's own numbers, not {value!r}")
        kinds = (hints[field.name], *typing.get_args(hints[field.name]))
        if type(value) is int and float in kinds and int not in kinds:
            object.__setattr__(settings, field.name, float(value))  # as a frozen dataclass takes it


def check_kind(name: str, value: Any, hint: Any) -> None:
    """The same for one value by its name and annotation, such as `int | None`."""
    if fits(value, hint):
        return
    if isinstance(value, str) and (choices := choices_of(hint)):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    raise TypeError(f"{name} must be {described(hint)}, not {value!r}")


def checked_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function's parameters, but for those that name what only a type checker imports."""
    found = {}
    for name, annotation in function.__annotations__.items():
        one = types.SimpleNamespace(__annotations__={name: annotation})
        with contextlib.suppress(NameError):
            found |= typing.get_type_hints(one, vars(sys.modules[function.__module__]))
    return found


def choices_of(hint: Any) -> tuple[Any, ...]:
    """The values that an annotation lists, as a `Literal` or several."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return tuple(choice for own in inner for choice in choices_of(own))
    return inner if origin is Literal else ()


def check_least(settings: Any, **least: float) -> None:
    """ValueError for a field that is below its least value."""
    for name, lowest in least.items():
        if getattr(settings, name) < lowest:
            raise ValueError(f"{name} must be at least {lowest}, not {getattr(settings, name)!r}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the kind of an annotation; True for annotations that are not looked at."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, own) for own in inner)
    if origin is Literal:
        return any(isinstance(value, type(own)) and value == own for own in inner)
    if origin is Callable:
        return callable(value)
    if origin in (Mapping, dict):
        good = isinstance(value, Mapping)
        return good and all(fits(one, kind) for pair in value.items() for one, kind in zip(pair, inner, strict=True))
    if origin is frozenset:
        return isinstance(value, frozenset) and all(fits(one, inner[0]) for one in value)
    if origin is tuple:
        several = isinstance(value, tuple | list)
        kinds = [inner[0]] * len(value) if several and inner[-1] is Ellipsis else inner
        return several and len(kinds) == len(value) and all(map(fits, value, kinds))
    if hint is float:
        return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if hint in NAMES or (isinstance(hint, type) and dataclasses.is_dataclass(hint)):
        return isinstance(value, hint)
    return True


def described(hint: Any) -> str:
    """An annotation in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(described(own) for own in inner)
    if origin is Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if origin in NAMES:
        return NAMES[origin]
    if origin is tuple:
        return f"a tuple of {len(inner) if inner[-1] is not Ellipsis else 'any number'}, each {described(inner[0])}"
    return NAMES.get(hint, f"a {getattr(hint, '__name__', hint)}")
