"""The frozen encoders of a model by themselves: what looks and listens, without the language model and the adapters."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from encoders.base import FrozenEncoder
from encoders.files import at_home
from mmlm.assembly.arguments import check_arguments, check_name
from mmlm.assembly.codecs import Codecs
from mmlm.assembly.frozen import audio_encoder_of, image_encoder_of
from mmlm.assembly.load import fetch_parts, model_folder, read_config, sources_of
from mmlm.assembly.needed import ENCODERS, needed_of
from mmlm.assembly.presets import ASSEMBLED, OPEN_FLAMINGO


def load_encoders(
    name: str | Path,
    *,
    image_encoder: str | Path | FrozenEncoder | None = None,
    audio_encoder: str | Path | FrozenEncoder | None = None,
    encoders: Collection[str] = ENCODERS,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> dict[str, FrozenEncoder]:
    """Those `encoders`, of "image" and "audio", that a model has, by these names; nothing else of it is loaded.

    name, and encoders in place of its own, are given as to `mmlm.load`, whose encoders these are. dtype: of an image
    encoder that is named. Errors are those of `load`.
    """
    check_name(name, "a model")
    check_arguments(dtype, device, codecs=Codecs())
    needed_of((), encoders)
    given: dict[str, Any] = {"image_encoder": image_encoder, "audio_encoder": audio_encoder}
    final_norm = True
    if str(name) in ASSEMBLED:
        found = {part: source or getattr(ASSEMBLED[str(name)], part) for part, source in given.items()}
    elif str(name) in OPEN_FLAMINGO:
        from mmlm.assembly.interop.open_flamingo import IMAGE_ENCODER

        if audio_encoder is not None:
            raise ValueError(f"{name} has no audio encoder: leave it out")
        found, final_norm = {"image_encoder": image_encoder or IMAGE_ENCODER, "audio_encoder": None}, False
    else:
        name = at_home(name)
        folder = model_folder(name, ["config.json"])
        config = read_config(folder)
        own = {part: source for part, source in given.items() if part.removesuffix("_encoder") in encoders}
        fetch_parts(name, folder, config, {field: own.get(field, name) for field in vars(config)})
        found = sources_of(config, own)
        final_norm = config.image_encoder is None or config.image_encoder.final_norm
    made: dict[str, Any] = {}
    if "image" in encoders and (source := found["image_encoder"]) is not None:
        made["image"] = image_encoder_of(source, final_norm, dtype).to(device)
    if "audio" in encoders and (source := found["audio_encoder"]) is not None:
        made["audio"] = audio_encoder_of(source).to(device)
    return made
