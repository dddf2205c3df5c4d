"""Published codecs of audio, all from transformers: residual codebooks between a convolutional encoder and decoder."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from decoders.codecs.pretrained.frozen import FrozenCodec

NUM_CODEBOOKS = 8  # what Moshi uses of Mimi's 32; 6 kbit/s for EnCodec at 24 kHz


class SoundCodec(FrozenCodec):
    """Audio [B, 1, T] in −1..1 ↔ codes [B, K, T/downsample].

    num_codebooks: K, the number of codebooks to use of the `available` ones, the first K; None for 8, or for all if
    there are fewer. Subclasses define `_codes`, for whole steps of samples, and `_sound`, whose result is padded or cut
    to the length of the codes.
    """

    modality = "audio"

    def __init__(
        self, network: Any, num_codebooks: int | None, available: int, downsample: int, latent_dim: int
    ) -> None:
        channels = getattr(network.config, "audio_channels", 1)
        if channels != 1:
            raise ValueError(f"this codec takes {channels} channels; only codecs of one channel are supported")
        if num_codebooks is None:
            num_codebooks = min(NUM_CODEBOOKS, available)
        if not 1 <= num_codebooks <= available:
            raise ValueError(f"num_codebooks must be 1 to {available} for this codec, not {num_codebooks}")
        super().__init__(network)
        self.codebook_size, self.num_codebooks = network.config.codebook_size, num_codebooks
        self.sample_rate, self.downsample = network.config.sampling_rate, downsample
        self.latent_dim = latent_dim

    def _encode(self, media: Tensor) -> tuple[Tensor, Tensor, None]:
        # Pad with silence first: DAC would drop the remainder, EnCodec mirror it, Mimi pad after each convolution.
        codes = self._codes(F.pad(media.float(), (0, -media.shape[-1] % self.downsample)))
        return codes, self._latents(codes), None

    def _decode(self, latents: Tensor) -> Tensor:
        sound = self._sound(latents)
        # DAC with odd strides gives a few samples too few. Negative padding cuts.
        return F.pad(sound, (0, latents.shape[-1] * self.downsample - sound.shape[-1]))

    @abstractmethod
    def _codes(self, sound: Tensor) -> Tensor: ...

    @abstractmethod
    def _sound(self, latents: Tensor) -> Tensor: ...


class EncodecCodec(SoundCodec):
    """transformers' `EncodecModel` of one channel, such as facebook/encodec_24khz and facebook/encodec_32khz
    (transformers/models/encodec/modeling_encodec.py).

    ValueError for a model that normalises audio or splits it into chunks: its codes are not enough to decode, which
    also needs the loudness of each chunk.
    """

    def __init__(self, network: Any, num_codebooks: int | None = None) -> None:
        config = network.config
        if config.normalize or config.chunk_length_s is not None:
            raise ValueError(
                "this EnCodec stores the loudness of each chunk in addition to codes, which is not supported; use a "
                "model without normalisation and chunks, such as facebook/encodec_24khz"
            )
        super().__init__(network, num_codebooks, config.num_quantizers, config.hop_length, config.hidden_size)

    def _codes(self, sound: Tensor) -> Tensor:
        # Each codebook quantises the residual of those before it, so the first K of all codes are those of K codebooks.
        codes = self.network.quantizer.encode(self.network.encoder(sound))  # [all, B, T]
        return codes[: self.num_codebooks].transpose(0, 1)

    def _latents(self, codes: Tensor) -> Tensor:
        return self.network.quantizer.decode(codes.transpose(0, 1))

    def _sound(self, latents: Tensor) -> Tensor:
        return self.network.decoder(latents)


class DacCodec(SoundCodec):
    """transformers' `DacModel`, such as descript/dac_16khz (transformers/models/dac/modeling_dac.py)."""

    def __init__(self, network: Any, num_codebooks: int | None = None) -> None:
        config = network.config
        super().__init__(network, num_codebooks, config.n_codebooks, config.hop_length, config.hidden_size)

    def _codes(self, sound: Tensor) -> Tensor:
        return self.network.encode(sound, n_quantizers=self.num_codebooks).audio_codes

    def _latents(self, codes: Tensor) -> Tensor:
        return self.network.quantizer.from_codes(codes)[0]

    def _sound(self, latents: Tensor) -> Tensor:
        return self.network.decoder(latents)


class MimiCodec(SoundCodec):
    """transformers' `MimiModel`, such as kyutai/mimi (transformers/models/mimi/modeling_mimi.py)."""

    def __init__(self, network: Any, num_codebooks: int | None = None) -> None:
        config = network.config
        if network.encoder is None or network.decoder is None:
            raise ValueError("this Mimi has no encoder or no decoder; load the complete model")
        least = config.num_semantic_quantizers
        if num_codebooks is not None and num_codebooks < least:
            raise ValueError(f"num_codebooks must be at least {least}, Mimi's semantic codebooks, not {num_codebooks}")
        downsample = math.prod(config.upsampling_ratios) * config.latent_stride
        super().__init__(network, num_codebooks, config.num_quantizers, downsample, config.hidden_size)

    def _codes(self, sound: Tensor) -> Tensor:
        return self.network.encode(sound, num_quantizers=self.num_codebooks).audio_codes

    def _latents(self, codes: Tensor) -> Tensor:
        return self.network.quantizer.decode(codes)

    def _sound(self, latents: Tensor) -> Tensor:
        return self.network.decoder(latents).audio_values
