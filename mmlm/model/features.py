"""Runs media through the frozen encoders: each item once, in batches, videos frame by frame."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from encoders.base import Features, FrozenEncoder
from encoders.media.video import Video, is_video, load_video
from mmlm.model.modules import ModuleMap
from mmlm.prompting.parts import as_media, modality_of

ENCODER_BATCH = 32  # items per pass of an encoder


def encode_media(encoders: ModuleMap[FrozenEncoder], items: Sequence[Any]) -> list[Features]:
    """Encodes each item by the encoder of its modality: one Features with tokens `[1, S, D]` per item.

    See `MultimodalNetwork.encode_media`.
    """
    parts = [as_media(item) for item in items]
    encoded: dict[tuple[str, int], Features] = {}  # by modality and identity of the source
    for modality in ("image", "audio"):
        own = {id(part.source): part.source for part in parts if modality_of(part) == modality}
        encoded |= {(modality, key): source for key, source in own.items() if isinstance(source, Features)}
        todo = [key for key, source in own.items() if not isinstance(source, Features)]
        if todo and modality not in encoders:
            raise ValueError(f"the model has no {modality} encoder: assemble it with one")
        for start in range(0, len(todo), ENCODER_BATCH):
            chunk = todo[start : start + ENCODER_BATCH]
            features = _encode(encoders[modality], [own[key] for key in chunk])
            encoded |= {(modality, key): one for key, one in zip(chunk, features, strict=True)}
    return [encoded[modality_of(part), id(part.source)] for part in parts]


def _encode(encoder: FrozenEncoder, sources: Sequence[Any]) -> list[Features]:
    """Encodes sources of one modality; the features of a video are those of its frames, each with its time."""
    if encoder.modality != "image" or not any(is_video(source) for source in sources):
        return encoder.features(sources)
    stills = [index for index, source in enumerate(sources) if not is_video(source)]
    encoded = encoder.features([sources[index] for index in stills]) if stills else []
    found = dict(zip(stills, encoded, strict=True))
    return [
        found[index] if index in found else video_features(encoder, load_video(source))
        for index, source in enumerate(sources)
    ]


def video_features(encoder: FrozenEncoder, video: Video) -> Features:
    """The tokens of a video's F frames in order, `[1, F·S, D]`, with the time of each frame in seconds."""
    tokens = torch.cat([own.tokens for own in encoder.features(video.frames)])  # [F, S, D]
    times = torch.tensor(video.times, device=tokens.device).repeat_interleave(tokens.shape[1])
    return Features(tokens.flatten(0, 1)[None], None, times[None])


def stack_features(items: Sequence[Features], device: torch.device) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Features of N single items → tokens `[N, S, D]`, mask `[N, S]` (True = real) and times `[N, S]` in seconds.

    Shorter items are padded and masked. The mask is None if every token is real; the times are None if no item has any.
    """
    longest = max(item.tokens.shape[1] for item in items)

    def padded(tensor: Tensor) -> Tensor:
        return F.pad(tensor.to(device), (0,) * 2 * (tensor.ndim - 2) + (0, longest - tensor.shape[1]))

    tokens = torch.cat([padded(item.tokens) for item in items])
    whole = all(item.mask is None and item.tokens.shape[1] == longest for item in items)
    masks = [torch.ones(item.tokens.shape[:2], dtype=torch.bool) if item.mask is None else item.mask for item in items]
    times = [torch.zeros(item.tokens.shape[:2]) if item.times is None else item.times for item in items]
    timeless = all(item.times is None for item in items)
    return (
        tokens,
        None if whole else torch.cat([padded(mask) for mask in masks]),
        None if timeless else torch.cat([padded(own.float()) for own in times]),
    )
