"""Media through the frozen encoders: each item once, in batches, videos frame by frame."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from encoders.base import Features, FrozenEncoder
from encoders.media.video import Video, is_video, load_video
from mmlm.model.modules import ModuleMap
from mmlm.prompting.parts import as_part, modality_of

ENCODER_BATCH = 32


def encode_media(encoders: ModuleMap[FrozenEncoder], items: Sequence[Any]) -> list[Features]:
    """Each item through the encoder of its modality: one Features with tokens `[1, S, D]` per item.

    See `MultimodalNetwork.encode_media`.
    """
    parts = [item if isinstance(item, Features) else as_part(item) for item in items]
    sources = [part if isinstance(part, Features) else part.source for part in parts]
    found: list[Features | None] = [source if isinstance(source, Features) else None for source in sources]
    first = {id(source): index for index, source in reversed(list(enumerate(sources)))}
    todo = [index for index, source in enumerate(sources) if found[index] is None and first[id(source)] == index]
    for modality in ("image", "audio"):
        own = [index for index in todo if modality_of(parts[index]) == modality]
        if own and modality not in encoders:
            raise ValueError(f"the model has no {modality} encoder: assemble it with one")
        for start in range(0, len(own), ENCODER_BATCH):
            chunk = own[start : start + ENCODER_BATCH]
            encoded = _encode(encoders[modality], [sources[index] for index in chunk])
            for index, features in zip(chunk, encoded, strict=True):
                found[index] = features
    return [found[first[id(source)]] for source in sources]


def _encode(encoder: FrozenEncoder, sources: Sequence[Any]) -> list[Features]:
    """Sources of one modality; the features of a video are those of its frames in order, each with its time."""
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
    """The tokens of a video's frames in order, `[1, F·S, D]`, with the time of each frame."""
    tokens = torch.cat([own.tokens for own in encoder.features(video.frames)])  # [F, S, D]
    times = torch.tensor(video.times, device=tokens.device).repeat_interleave(tokens.shape[1])
    return Features(tokens.flatten(0, 1)[None], None, times[None])


def stack_features(items: Sequence[Features], device: torch.device) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """N Features of one item each → tokens `[N, S, D]`, mask `[N, S]` and times `[N, S]`.

    Shorter items are padded and masked. The mask is None where every token is real, times are None where no item has
    any.
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
