"""Media to train a codec or a decoder on, and some to measure and to look at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from decoders.codecs.base import MediaCodec
from mmlm.data.media import Pictures, Recordings, find_media
from mmlm.training.config import CodecTrainConfig
from mmlm.training.identity import digest
from mmlm.training.shuffle import generator

MEASURED = 256  # held-out media, at most
BAD_LIMIT = 0.01  # share of media that may be unusable

MediaSource = str | os.PathLike | Sequence


@dataclass(frozen=True)
class TrainingMedia:
    """Media in memory, a batch `shown` [B, C, *size] of held-out ones, and the digest of what is trained on."""

    media: Pictures | Recordings
    shown: Tensor
    digest: str
    device: str

    @classmethod
    def read(
        cls,
        codec: MediaCodec,
        data: MediaSource,
        held_out: MediaSource | None,
        config: CodecTrainConfig,
        bad_limit: float = BAD_LIMIT,
    ) -> TrainingMedia:
        """Media at the codec's size or rate; without held-out ones, the first ones of training are shown."""
        modality = "image" if codec.modality == "image" else "audio"
        places = find_media(data, modality)
        others = None if held_out is None else find_media(held_out, modality)
        media = _read(codec, places, config, bad_limit)
        measured = media if others is None else _read(codec, others, config, bad_limit)
        shown = measured.batch(range(min(MEASURED, len(measured))), generator(config.seed, 2)).to(config.device)
        return cls(media, shown, digest(media.keys), config.device)

    def __len__(self) -> int:
        return len(self.media)

    def batch(self, indices: Tensor, draw: torch.Generator) -> Tensor:
        """Media [B, C, *size] on the config's device."""
        return self.media.batch(indices.tolist(), draw).to(self.device)


def _read(codec: MediaCodec, places: Sequence, config: CodecTrainConfig, bad_limit: float) -> Pictures | Recordings:
    if codec.size is not None:
        return Pictures(places, codec.size, bad_limit)
    assert codec.sample_rate is not None, "codecs that are trained here are of one size of picture, or of sound"
    samples = round(config.seconds * codec.sample_rate)
    return Recordings(places, codec.sample_rate, samples + -samples % codec.downsample, bad_limit)
