"""Diffusion decoders in folders. The codec is not saved with them, only its fingerprint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from decoders.codecs.base import MediaCodec
from decoders.codecs.checkpoint import codec_fingerprint
from decoders.diffusion.decoder import DiffusionDecoder, DiffusionDecoderConfig
from decoders.folder import damage_reported, read_folder, write_folder


def save_decoder(decoder: DiffusionDecoder, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Save a diffusion decoder, with the fingerprint of its codec instead of the codec; returns the folder.

    dtype: of the saved weights.
    """
    config = {"kind": "diffusion", **dataclasses.asdict(decoder.config), "codec": codec_fingerprint(decoder.codec)}
    own = {name: tensor for name, tensor in decoder.state_dict().items() if not name.startswith("codec.")}
    return write_folder(folder, config, own, dtype)


def load_decoder(folder: str | Path, codec: MediaCodec) -> DiffusionDecoder:
    """Load a diffusion decoder from a folder that `save_decoder` wrote: frozen, in float32 and in eval mode.

    codec: the one that it was trained with. ValueError for another codec, and for a folder that is damaged or holds
    something else; FileNotFoundError if a file is missing.
    """
    config, tensors = read_folder(folder)
    if config.pop("kind", None) != "diffusion":
        raise ValueError(f"{folder} holds no diffusion decoder")
    expected, found = config.pop("codec", None), codec_fingerprint(codec)
    if expected != found:
        raise ValueError(
            f"the diffusion decoder in {folder} is of codec {expected}, but the given codec is {found}; pass the codec "
            "that it was trained with"
        )
    with damage_reported(folder):
        decoder = DiffusionDecoder(codec, DiffusionDecoderConfig(**{**config, "channels": tuple(config["channels"])}))
        codec_weights = {f"codec.{name}": tensor for name, tensor in codec.state_dict().items()}
        decoder.load_state_dict(codec_weights | tensors)
    return decoder.requires_grad_(False).eval()
