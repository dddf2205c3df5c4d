"""Diffusion decoders in folders, without their codecs, whose fingerprints they keep."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from decoders.codecs.base import MediaCodec
from decoders.codecs.checkpoint import _explained, _floats, _read, _write, codec_fingerprint


def save_decoder(decoder: nn.Module, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Writes a diffusion decoder without its codec, whose fingerprint it keeps."""
    config = {"kind": "diffusion", **dataclasses.asdict(decoder.config), "codec": codec_fingerprint(decoder.codec)}
    own = {name: tensor for name, tensor in decoder.state_dict().items() if not name.startswith("codec.")}
    return _write(folder, config, own, dtype)


def load_decoder(folder: str | Path, codec: MediaCodec) -> nn.Module:
    """The diffusion decoder of a folder, for this codec; ValueError if it was trained for another."""
    from decoders.diffusion.decoder import DiffusionDecoder, DiffusionDecoderConfig  # diffusers takes seconds to import

    config, tensors = _read(folder)
    if config.pop("kind", None) != "diffusion":
        raise ValueError(f"{folder} holds no diffusion decoder")
    expected, found = config.pop("codec", None), codec_fingerprint(codec)
    if expected != found:
        raise ValueError(f"the diffusion decoder in {folder} is of codec {expected}; this one is {found}")
    with _explained(folder):
        decoder = DiffusionDecoder(codec, DiffusionDecoderConfig(**{**config, "channels": tuple(config["channels"])}))
        codecs_own = {f"codec.{name}": tensor for name, tensor in codec.state_dict().items()}
        decoder.load_state_dict(codecs_own | _floats(tensors))
    return decoder.requires_grad_(False).eval()
