"""From codes to media: by the diffusion decoder, or by the codec alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from encoders.media.image import load_image
from encoders.media.sound import Audio
from mmlm.generation.constraints.codes import GenerationMode
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.code_layout import CodeSpan
from mmlm.prompting.parts import Codes

RENDERED_AT_ONCE = 16  # pictures
DIFFUSION_STEPS = 4  # where there is a diffusion decoder and no number is given

Medium = Image.Image | Audio
Preview = Callable[[int, int, list[Medium]], None]
"""Called after each step of the diffusion decoder with its number, how many there are, and the media so far."""


def media_spans(model: MultimodalNetwork, mode: GenerationMode, max_seconds: float) -> dict[str, CodeSpan]:
    """The media that a mode may write, sound at most `max_seconds` long; ValueError where the model writes none."""
    if mode not in ("image", "audio", "any"):
        raise ValueError(f'generation_mode is "text", "image", "audio" or "any", not {mode!r}')
    spans = model.language_model.vocabulary.spans
    wanted = spans if mode == "any" else {name: span for name, span in spans.items() if name == mode}
    if not wanted:
        what = {"image": "no pictures", "audio": "no sound", "any": "neither pictures nor sound"}[mode]
        raise ValueError(
            f"the model writes {what}: load it with its codecs, or assemble it with a codec and train it on codes"
        )
    if "audio" in wanted:
        if not max_seconds > 0:
            raise ValueError(f"max_seconds must be above 0, not {max_seconds}")
        span = wanted["audio"]
        steps = max(1, round(min(span.layout.max_steps, max_seconds * (model.codecs["audio"].frame_rate or 0.0))))
        wanted = {**wanted, "audio": CodeSpan(dataclasses.replace(span.layout, max_steps=steps), span.begin)}
    return wanted


def check_steps(model: MultimodalNetwork, modality: str, steps: int | None) -> None:
    """ValueError for a number of diffusion steps that `render` cannot take, raised before anything is generated."""
    if steps is not None and steps < 0:
        raise ValueError(f"steps must be at least 0, not {steps}")
    if steps and modality not in model.decoders:
        raise ValueError(f"the model has no diffusion decoder for {modality}: take its codec's own decoding, steps=0")


@torch.no_grad()
def render(
    model: MultimodalNetwork,
    codes: Sequence[Codes],
    steps: int | None = None,
    seed: int = 0,
    preview: Preview | None = None,
) -> list[Medium]:
    """Media of codes of one modality: by `steps` steps of the diffusion decoder or, with `steps=0`, by the codec alone.

    steps None: 4 where there is a diffusion decoder, else 0. Sounds may differ in length. ValueError for media that are
    NaN or infinite.
    """
    if not codes:
        return []
    modality = codes[0].modality
    check_steps(model, modality, steps)
    if steps is None:
        steps = DIFFUSION_STEPS if modality in model.decoders else 0
    at_once = RENDERED_AT_ONCE if modality == "image" else 1
    found: list[Medium] = []

    def shown(step: int, of: int, media: Tensor) -> None:
        if preview is not None:
            preview(step, of, as_media(model, modality, media))

    for first in range(0, len(codes), at_once):
        batch = torch.stack([one.codes for one in codes[first : first + at_once]])
        with model.changes.passing():
            batch = batch.to(model.device)
            if steps == 0:
                media = model.codecs[modality].decode(batch)
            else:
                callback = None if preview is None else shown
                decoder: Any = model.decoders[modality]  # a DiffusionDecoder, which takes seconds to import
                media = decoder.decode(batch, steps, seed + first, callback=callback)
        if not bool(media.isfinite().all()):
            precision = str(media.dtype).removeprefix("torch.")
            raise ValueError(
                f"the decoding of {modality} codes gives values that are NaN or infinite: it computes in {precision}. "
                "Load the model in float32; if it is, the weights of its codec or diffusion decoder are damaged"
            )
        found += as_media(model, modality, media)
    return found


def as_media(model: MultimodalNetwork, modality: str, media: Tensor) -> list[Medium]:
    """Tensors of a codec `[B, C, *size]` as pictures or recordings."""
    if modality == "image":
        return list(as_pictures(media))
    rate = model.codecs["audio"].sample_rate
    assert rate is not None, "codecs of sound have a rate"
    return [Audio(row[0].float().cpu().numpy(), rate) for row in media]


def as_pictures(pixels: Tensor) -> list[Image.Image]:
    """Pixels `[B, 3, H, W]` in 0..1 as pictures."""
    rows = (pixels.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(row) for row in rows]


def picture_tensor(picture: Any, size: int) -> Tensor:
    """A picture, its middle square, as a codec takes it: `[1, 3, size, size]` in 0..1."""
    pixels = np.array(ImageOps.fit(load_image(picture), (size, size)))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
