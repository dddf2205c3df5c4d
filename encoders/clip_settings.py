"""What the settings of a CLIP of open_clip may name: no code, no paths, and a preprocessing that pictures pass."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from encoders.settings import check_tokenizer_class, settings_of
from encoders.sizes import RefusedError, check_counts
from encoders.tokenizer_rules import check_tokens

TOKENIZER_SETTINGS = {  # what a CLIP's settings may give its tokenizer; all else could name files, servers or code
    "additional_special_tokens", "clean", "language", "reduction_mask", "strip_sep_token", "trust_remote_code",
}  # fmt: skip
CHOICES = {  # of a preprocessing, as open_clip knows them
    "mode": ("RGB",), "interpolation": ("bicubic", "bilinear", "random"),
    "resize_mode": ("shortest", "longest", "squash"),
}  # fmt: skip


def check_clip(name: str) -> str | None:
    """Where open_clip will look for the tokenizer of a CLIP of a folder or the hub; None where it has its own.

    `RefusedError` for settings that name code, paths, or counts beyond belief.
    """
    schema, _, source = name.partition(":")
    if schema not in ("local-dir", "hf-hub"):
        return None  # a name that open_clip itself describes
    check_tokenizer_class(settings_of(source, "", "tokenizer_config.json"), source)
    written = settings_of(source, "", "open_clip_config.json")
    check_preprocessing(source, written.get("preprocess_cfg"))
    settings = settings if isinstance(settings := written.get("model_cfg"), dict) else {}
    check_counts(settings, source)
    text, vision = (part if isinstance(part := settings.get(key), dict) else {} for key in ("text_cfg", "vision_cfg"))
    given = text.get("tokenizer_kwargs") or {}
    if not isinstance(given, dict) or given.keys() - TOKENIZER_SETTINGS:
        raise RefusedError(f"{source} gives its tokenizer settings that are not passed on: {given}")
    check_tokens(given, source)
    check_clip_names(source, vision.get("timm_model_name"), text.get("hf_tokenizer_name"), text.get("hf_model_name"))
    return source if schema == "local-dir" else text.get("hf_tokenizer_name") or source


def check_preprocessing(source: str, settings: Any) -> None:
    """ValueError for settings with which no picture could be prepared: a mean that is not three numbers, and others."""
    settings = settings if isinstance(settings, dict) else {}
    place = f"the preprocessing of {source} (preprocess_cfg in open_clip_config.json) has"
    for name, least in (("mean", -math.inf), ("std", 0.0)):
        values = settings.get(name)
        numbers = isinstance(values, list) and len(values) == 3 and all(type(value) in (int, float) for value in values)
        if values is not None and not (numbers and all(least < value < math.inf for value in values)):
            raise ValueError(f"{place} {name} {str(values)[:80]}, which is not three numbers")
    for name, choices in CHOICES.items():
        if (value := settings.get(name)) is not None and value not in choices:
            raise ValueError(f"{place} {name} {str(value)[:80]!r}, which is none of {', '.join(choices)}")
    fill = settings.get("fill_color")
    if fill is not None and not (type(fill) is int and 0 <= fill <= 255):
        raise ValueError(f"{place} fill_color {str(fill)[:80]!r}, which is no number from 0 to 255")


def check_clip_names(source: str, vision: Any, tokenizer: Any, text: Any) -> None:
    """`RefusedError` where a CLIP's settings name a part by a path, or a text tower that is code."""
    if vision and (not isinstance(vision, str) or ":" in vision or "/" in vision):
        raise RefusedError(f"{source} names the image tower {vision!r}: only timm's own are built")
    for named in (tokenizer, text):
        if named and (not isinstance(named, str) or named.startswith(("/", "~", "..", "./")) or ".." in named):
            raise RefusedError(f"{source} names a part by the path {named!r}: parts lie in the folder, or on the hub")
    if text and ("auto_map" in (config := settings_of(text)) or Path(text).exists()):
        raise RefusedError(f"{source} has a text tower with Python code of its own, or in another folder: {text!r}")
    elif text:
        check_counts(config, text)
