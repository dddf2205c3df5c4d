"""`key=value` on top of a recipe: texts and paths as they are written, other values as YAML reads them."""

from __future__ import annotations

import types
import typing
from dataclasses import is_dataclass
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

NULLS = ("", "~", "null", "Null", "NULL")  # of YAML 1.1


def override_of(text: str, schema: type | None) -> DictConfig:
    """`key=value` as the part of a recipe that it is.

    The value of a text or a path is what is written: of YAML it would lose what follows " #", and `1.10` would become
    1.1. In quotation marks, and as a list, a mapping or null, it is YAML, as are the values of all other keys.
    schema: the recipe's class; None while it is not known, when every value that is not YAML is a text.
    ValueError for what is not key=value; errors of YAML and OmegaConf come out.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not key=value")
    is_text = _is_text(schema, key)
    if not is_text or value[:1] in ("'", '"', "[", "{") or value in NULLS:
        try:
            return OmegaConf.from_dotlist([text])
        except yaml.YAMLError:
            if not is_text:
                raise
    config = OmegaConf.create({})
    OmegaConf.update(config, key, value)
    return config


def _is_text(schema: type | None, key: str) -> bool:
    """Whether a key of a recipe has texts as values; `data`, which may be a list of them, and `model` have, too."""
    if schema is None:
        return True
    hint: Any = schema
    for name in key.split("."):
        hint = typing.get_type_hints(hint).get(name) if is_dataclass(hint) else None
        if isinstance(hint, types.UnionType):
            hint = next(one for one in typing.get_args(hint) if one is not types.NoneType)
    return hint in (str, Any) or is_dataclass(hint)
