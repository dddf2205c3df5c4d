"""How wide frozen parts are, told by their settings: no weights are read into memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from encoders.clip_forms.source import SETTINGS, find_clip
from encoders.guarded import settings_of, torch_file
from mmlm.assembly.forms.named import language_model_config
from mmlm.assembly.presets import preset_path

WHISPERS = {"tiny": 384, "base": 512, "small": 768, "medium": 1024, "large": 1280, "turbo": 1280}  # by their first word


def language_model_size(name: str) -> tuple[int, int]:
    """The width of a language model, and the number of its blocks. Errors are those of loading its settings."""
    config = language_model_config(preset_path(name))
    return config.hidden_size, config.num_hidden_layers


def encoder_width(modality: str, name: str) -> int | None:
    """The width of the tokens of an "image" or "audio" encoder; None where its settings do not tell.

    Errors are those of an encoder that cannot be found.
    """
    path = preset_path(name)
    found = _clip_width(path) if modality == "image" else _whisper_width(path)
    return found if isinstance(found, int) else None


def _clip_width(name: str) -> Any:
    source = find_clip(name)
    if source.form != "open_clip":
        return _inner(settings_of(source.place), "vision_config").get("hidden_size")
    if source.pretrained is not None:
        import open_clip

        settings = open_clip.get_model_config(source.place) or {}
    else:
        place = source.place.removeprefix("local-dir:").removeprefix("hf-hub:")
        settings = _inner(settings_of(place, name=SETTINGS), "model_cfg")
    return _inner(settings, "vision_cfg").get("width")  # towers of timm have none


def _whisper_width(name: str) -> Any:
    if Path(name).is_file():
        try:
            content = torch_file(name, mmap=True)
        except RuntimeError:  # a compressed file cannot be mapped; small ones are compressed
            content = torch_file(name)
        return _inner(content, "dims").get("n_audio_state")
    own = name.removeprefix("whisper/").split(".")[0].split("-")[0]
    return WHISPERS.get(own) or settings_of(name).get("d_model")


def _inner(settings: Any, name: str) -> Mapping[str, Any]:
    """The settings under a name; none where there is nothing of the kind."""
    found = settings.get(name) if isinstance(settings, Mapping) else None
    return found if isinstance(found, Mapping) else {}
