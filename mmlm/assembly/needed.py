"""The parts of a saved model that a job needs: what it does not need is neither fetched nor loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from torch import Tensor

from mmlm.assembly.config import ModelConfig

ENCODERS = ("image", "audio")


def needed_of(had: Collection[str], needed: Collection[str] | None) -> set[str]:
    """Of the encoders that a model has, those that are needed; all where none is."""
    for name in needed or ():
        if name not in ENCODERS:
            raise ValueError(f"encoders are {' and '.join(map(repr, ENCODERS))}, not {name!r}")
    return set(had) & set(needed or ()) or set(had)


def unneeded(config: ModelConfig, encoders: Collection[str] | None, without_codecs: bool) -> list[str]:
    """The fields of a config that are not needed, and that it has."""
    had = [name for name in ENCODERS if getattr(config, f"{name}_encoder") is not None]
    fields = [f"{name}_encoder" for name in sorted(set(had) - needed_of(had, encoders))]
    if without_codecs:
        fields += [f"{name}_{part}" for part in ("codec", "decoder") for name in ENCODERS]
    return [field for field in fields if getattr(config, field) is not None]


def without(
    left_out: Collection[str], config: ModelConfig, tensors: dict[str, Tensor], given: dict[str, Any]
) -> tuple[ModelConfig, dict[str, Tensor], dict[str, Any]]:
    """Config, tensors and given parts of a model without these fields; if it has no codec then, without its codes."""
    wrote = config.has_codecs
    config = dataclasses.replace(config, **dict.fromkeys(left_out))
    unused = [f"resamplers.{field.removesuffix('_encoder')}." for field in left_out if field in given]
    if wrote and not config.has_codecs:
        unused += ["language_model.codes."] + ([] if config.lora.reads else ["language_model.lora."])
    tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(tuple(unused))}
    return config, tensors, given | {field: None for field in left_out if field in given}
