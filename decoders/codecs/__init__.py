"""Codecs: images and audio ↔ discrete codes, all behind one interface, `MediaCodec`.

`ImageVQVAE` and `AudioVQVAE` are trained here and saved in folders, and so is `BlockTruncationCodec`, whose codebooks
are learned by k-means in seconds; `PaletteCodec` and `MuLawCodec` need no training; `load_pretrained` loads published
codecs (VQGAN, LlamaGen, Emu3, EnCodec, DAC, Mimi, …).
Names are imported when first used: the library of quantisers alone takes two seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decoders.codecs.audio_vqvae import AudioVQVAE, AudioVQVAEConfig
    from decoders.codecs.base import Encoding, MediaCodec, NonFiniteLatentsError
    from decoders.codecs.block_truncation import BlockTruncationCodec, BlockTruncationConfig
    from decoders.codecs.checkpoint import codec_fingerprint, load_codec, save_codec
    from decoders.codecs.image_vqvae import ImageVQVAE, ImageVQVAEConfig
    from decoders.codecs.pretrained import load_pretrained
    from decoders.codecs.quantizer import QuantizerConfig
    from decoders.codecs.raw import MuLawCodec, PaletteCodec

__all__ = [
    "AudioVQVAE",
    "AudioVQVAEConfig",
    "BlockTruncationCodec",
    "BlockTruncationConfig",
    "Encoding",
    "ImageVQVAE",
    "ImageVQVAEConfig",
    "MediaCodec",
    "MuLawCodec",
    "NonFiniteLatentsError",
    "PaletteCodec",
    "QuantizerConfig",
    "codec_fingerprint",
    "load_codec",
    "load_pretrained",
    "save_codec",
]

_MODULE = {
    "AudioVQVAE": "audio_vqvae",
    "AudioVQVAEConfig": "audio_vqvae",
    "BlockTruncationCodec": "block_truncation",
    "BlockTruncationConfig": "block_truncation",
    "Encoding": "base",
    "ImageVQVAE": "image_vqvae",
    "ImageVQVAEConfig": "image_vqvae",
    "MediaCodec": "base",
    "MuLawCodec": "raw",
    "NonFiniteLatentsError": "base",
    "PaletteCodec": "raw",
    "QuantizerConfig": "quantizer",
    "codec_fingerprint": "checkpoint",
    "load_codec": "checkpoint",
    "load_pretrained": "pretrained",
    "save_codec": "checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)
