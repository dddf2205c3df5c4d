"""Checks of what `assemble` and `load` are given, before anything is read."""

from __future__ import annotations

import os
from typing import Any

import torch

from encoders.base import check_device
from mmlm.assembly.codecs import Codecs
from mmlm.model.config import FusionConfig, LoraConfig, ResamplerConfig
from mmlm.prompting.templates import PromptTemplate

KINDS = {
    "codecs": Codecs, "lora": LoraConfig, "resampler": ResamplerConfig, "audio_resampler": ResamplerConfig,
    "fusion": FusionConfig, "template": PromptTemplate,
}  # fmt: skip


def check_arguments(dtype: torch.dtype, device: str | torch.device, **settings: Any) -> None:
    """TypeError for values of another kind, ValueError for a device that is not there.

    settings: by the names in `KINDS`; each is of that kind or None.
    """
    if not isinstance(dtype, torch.dtype):
        hint = f": write torch.{dtype}" if isinstance(getattr(torch, str(dtype), None), torch.dtype) else ""
        raise TypeError(f"dtype is one of torch's types, such as torch.bfloat16, not {dtype!r}{hint}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype is a type of floating-point numbers, such as torch.bfloat16, not {dtype}")
    check_device(device)
    for name, value in settings.items():
        if value is not None and not isinstance(value, KINDS[name]):
            raise TypeError(f"{name} is a {KINDS[name].__name__}(…), not {type(value).__name__}")


def check_name(source: Any, what: str) -> None:
    """TypeError for what can be no name of a model or a part."""
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"{what} is given by its name or path, not as {type(source).__name__}")
