"""Codecs that are trained here, saved in folders; and the fingerprint that identifies a codec."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from decoders.codecs.audio_vqvae import AudioVQVAE, AudioVQVAEConfig
from decoders.codecs.base import MediaCodec
from decoders.codecs.block_truncation import BlockTruncationCodec, BlockTruncationConfig
from decoders.codecs.image_vqvae import ImageVQVAE, ImageVQVAEConfig
from decoders.codecs.quantizer import QuantizerConfig
from decoders.folder import damage_reported, read_folder, write_folder

KINDS: dict[str, tuple[type[MediaCodec], type]] = {
    "image_vqvae": (ImageVQVAE, ImageVQVAEConfig),
    "block_truncation": (BlockTruncationCodec, BlockTruncationConfig),
    "audio_vqvae": (AudioVQVAE, AudioVQVAEConfig),
}


def save_codec(codec: MediaCodec, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Save a codec of `KINDS`; returns the folder. TypeError for other codecs.

    dtype: of the saved weights.
    """
    kind = kind_of(codec)
    if kind is None:
        known = ", ".join(cls.__name__ for cls, _ in KINDS.values())
        raise TypeError(
            f"{type(codec).__name__} has its own format; only {known} are saved here: save it with the library it "
            "comes from"
        )
    settings: Any = codec.config
    return write_folder(folder, {"kind": kind, **dataclasses.asdict(settings)}, codec.state_dict(), dtype)


def kind_of(codec: nn.Module) -> str | None:
    """By what kind a codec is saved here; None for one that is not."""
    return next((kind for kind, (cls, _) in KINDS.items() if isinstance(codec, cls)), None)


def load_codec(folder: str | Path) -> MediaCodec:
    """Load a codec from a folder that `save_codec` wrote: frozen, in float32 and in eval mode.

    FileNotFoundError if a file is missing, ValueError if the folder is damaged or holds something else.
    """
    config, tensors = read_folder(folder)
    kind = config.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"{folder} holds no codec (its kind is {kind!r}); the kinds are {', '.join(KINDS)}")
    cls, config_cls = KINDS[kind]
    with damage_reported(folder):
        if "quantizer" in config:
            config["quantizer"] = QuantizerConfig(**config["quantizer"])
        codec: MediaCodec = cls(config_cls(**config))
        codec.load_state_dict(tensors)
    return codec.requires_grad_(False).eval()


def codec_fingerprint(codec: nn.Module) -> str:
    """16 hex characters of a codec's class, sizes and weights.

    Weights are compared in float16, so saving a codec in float16 does not change its fingerprint.
    """
    names = ("modality", "size", "downsample", "sample_rate", "codebook_size", "num_codebooks")
    settings = [
        type(codec).__name__,
        *(getattr(codec, name, None) for name in names),
        _changed(getattr(codec, "config", None)),
    ]
    digest = hashlib.sha256(repr(settings).encode())
    for name, tensor in sorted(codec.state_dict().items()):
        kept = tensor.half() if tensor.is_floating_point() else tensor
        digest.update(f"{name} {list(kept.shape)};".encode() + kept.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _changed(config: Any) -> Any:
    """The fields of a config that differ from their defaults, so that a field added later changes no fingerprint."""
    if not dataclasses.is_dataclass(config):
        return config
    default: Any = type(config)()
    names = [field.name for field in dataclasses.fields(config)]
    return {name: _changed(getattr(config, name)) for name in names if getattr(config, name) != getattr(default, name)}
