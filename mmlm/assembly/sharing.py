"""One copy in memory of the frozen parts that several models have: a later model takes the tensors of an earlier one.

Tensors are shared, not modules: hooks, packed layers, moves and casts belong to each model.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from encoders.base import FrozenEncoder
from mmlm.acceleration.packing import unpack_layers
from mmlm.assembly.config import FrozenPart, ModelConfig
from mmlm.assembly.frozen import lasting_name
from mmlm.assembly.names import ABSOLUTE
from mmlm.assembly.presets import preset_path
from mmlm.model.network import MultimodalNetwork

M = TypeVar("M", bound=nn.Module)


def shared_parts(
    config: ModelConfig, sources: dict[str, Any], beside: Collection[MultimodalNetwork], dtype: torch.dtype
) -> dict[str, nn.Module]:
    """Twins of frozen parts of the models `beside`, by the names of `sources`, for those that are the same part.

    sources: what each part of a saved model is loaded from. The same part is one that was loaded from there, with the
    fingerprint that the config names and the type that is asked for. Parts of a model that was cast are left alone, and
    language models with rows of their own.
    """
    found: dict[str, nn.Module] = {}
    for name, source in sources.items():
        part: FrozenPart | None = getattr(config, name)
        if part is None or not isinstance(source, str | Path):
            continue
        for other in beside:
            with other.changes.passing():
                own = _part_of(other, name)
                if own is None or not _is_same(own, part, source, dtype):
                    continue
            with other.changes.changing("shared", lambda: None):  # no pass runs meanwhile, and texts go on
                found[name] = twin(own.model if name == "language_model" else own)
            break
    return found


def twin(module: M) -> M:
    """A copy of a frozen module whose parameters lie in the memory of its own, without our hooks and packed layers."""
    memo: dict[int, Any] = {
        id(tensor): nn.Parameter(tensor.detach(), requires_grad=False)
        for tensor in module.parameters()
        if type(tensor) is nn.Parameter
    }
    for inner in module.modules():
        for name, hooks in vars(inner).items():
            if name in ("_forward_hooks", "_forward_pre_hooks"):
                memo[id(hooks)] = type(hooks)((key, hook) for key, hook in hooks.items() if not _is_ours(hook))
    found = copy.deepcopy(module, memo)
    unpack_layers(found)
    return found


def _is_ours(hook: Any) -> bool:
    """Whether it is one of the hooks of a `LanguageModel`, which stand for its requests."""
    return str(getattr(hook, "__module__", "")).partition(".")[0] == "mmlm"


def _part_of(model: MultimodalNetwork, name: str) -> Any:
    """A model's frozen part by its field of `ModelConfig`; None where it has none that could be shared."""
    host = model.language_model
    if model.changes.cast or host.halved:
        return None
    if name == "language_model":
        return None if host.replaced else host
    return model.encoders.get(name.removesuffix("_encoder"))


def _is_same(own: Any, part: FrozenPart, source: str | Path, dtype: torch.dtype) -> bool:
    """Whether a part in memory is what a saved model asks for."""
    is_whisper = isinstance(own, FrozenEncoder) and own.modality == "audio"  # its weights are always float32
    return (
        own.name is not None
        and (is_whisper or own.dtype == dtype)
        and _place(own.name) == _place(source)
        and own.fingerprint() == part.fingerprint
    )


def _place(name: str | Path) -> str:
    """A name in the one form that it has for all models."""
    name = lasting_name(preset_path(name))
    match = ABSOLUTE.fullmatch(name)
    return name if match is None else match[1] + os.path.realpath(match[2])
