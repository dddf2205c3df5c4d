"""Published codecs of images: one codebook between a convolutional encoder and decoder."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoders.codecs.base import NonFiniteLatentsError
from decoders.codecs.pretrained.frozen import FrozenCodec
from decoders.codecs.pretrained.vqgan import VQGAN


class PictureCodec(FrozenCodec):
    """Images [B, 3, H, W] in 0..1 ↔ codes [B, 1, H/downsample, W/downsample].

    codebook: [codebook_size, D], the vectors that codes stand for. pixels: the network's smallest and largest pixel
    value. Subclasses may override `_vectors`, pixels → vectors [B, D, h, w] to be quantised, and `_pixels`, latents →
    pixels.
    """

    modality = "image"
    num_codebooks = 1
    codebook: Tensor

    def __init__(
        self,
        network: nn.Module,
        codebook: Tensor,
        downsample: int,
        size: int | None = None,
        pixels: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__(network)
        if not pixels[0] < pixels[1]:
            raise ValueError(f"pixels must be (smallest, largest), not {pixels}")
        self.register_buffer("codebook", codebook.detach().float(), persistent=False)
        self.codebook_size, self.latent_dim = codebook.shape
        self.downsample, self.size, self.pixels = downsample, size, pixels

    def _encode(self, media: Tensor) -> tuple[Tensor, Tensor, None]:
        low, high = self.pixels
        codes = nearest(self._vectors(media.float() * (high - low) + low), self.codebook)
        return codes, self._latents(codes), None

    def _latents(self, codes: Tensor) -> Tensor:
        return F.embedding(codes[:, 0], self.codebook).permute(0, 3, 1, 2)

    def _decode(self, latents: Tensor) -> Tensor:
        low, high = self.pixels
        return (self._pixels(latents) - low) / (high - low)

    def _vectors(self, pixels: Tensor) -> Tensor:
        return self.network.quant_conv(self.network.encoder(pixels))

    def _pixels(self, latents: Tensor) -> Tensor:
        return self.network.decoder(self.network.post_quant_conv(latents))


class DiffusersVQ(PictureCodec):
    """diffusers' `VQModel`, of any vq_embed_dim (diffusers/models/autoencoders/vq_model.py).

    pixels: None infers the range, which no config states: 0..1 if the config has `lookup_from_codebook`, an option made
    for aMUSEd's pipelines, which do not normalise pixels; otherwise −1..1, as in latent diffusion and Kandinsky.
    """

    def __init__(self, network: Any, pixels: tuple[float, float] | None = None) -> None:
        config = network.config
        if config.in_channels != 3 or config.out_channels != 3:
            channels = f"{config.in_channels} and {config.out_channels}"
            raise ValueError(f"a codec of images needs 3 input and output channels, but this VQModel has {channels}")
        if pixels is None:
            pixels = (0.0, 1.0) if config.lookup_from_codebook else (-1.0, 1.0)
        # The latent width is the codebook's, not `latent_channels`: aMUSEd's own pipeline fails if the two differ.
        codebook = network.quantize.embedding.weight
        super().__init__(network, codebook, 2 ** (len(config.block_out_channels) - 1), pixels=pixels)

    def _pixels(self, latents: Tensor) -> Tensor:
        # Not `network.decode`, which expects ids instead of latents if the config has `lookup_from_codebook`.
        spatial = latents if self.network.config.norm_type == "spatial" else None  # Kandinsky's MoVQ
        return self.network.decoder(self.network.post_quant_conv(latents), spatial)


class JanusVQ(PictureCodec):
    """transformers' `JanusVQVAE` (transformers/models/janus/modeling_janus.py): LlamaGen's network at a fixed size.

    A code is the entry nearest in direction, as in the code that trained the model and as its decoder expects.
    transformers' own `encode` compares by distance and finds other codes than the model was trained on.
    """

    def __init__(self, network: Any) -> None:
        codebook = F.normalize(network.quantize.embedding.weight.float(), dim=-1)
        downsample = 2 ** (len(network.config.channel_multiplier) - 1)
        super().__init__(network, codebook, downsample, size=network.config.num_patches * downsample)


class Emu3VQ(PictureCodec):
    """transformers' `Emu3VQVAE`, a codec of video (transformers/models/emu3/modeling_emu3.py).

    An image is encoded as a short video of identical frames; the first frame of the decoded video is the image.
    """

    def __init__(self, network: Any) -> None:
        super().__init__(network, network.quantize.embedding.weight, network.spatial_scale_factor)

    def _vectors(self, pixels: Tensor) -> Tensor:
        video = pixels.unsqueeze(1).repeat(1, self.network.config.temporal_downsample_factor, 1, 1, 1)
        hidden = self.network.encoder(video)  # [B, 1, C, h, w]
        return self.network.quant_conv(hidden.transpose(1, 2))[:, :, 0]

    def _pixels(self, latents: Tensor) -> Tensor:
        vectors = latents.unsqueeze(2)  # [B, D, 1, h, w]
        hidden = self.network.post_quant_conv(vectors)
        frames = self.network.decoder(hidden.transpose(1, 2), vectors.transpose(1, 2))  # [B · frames, 3, H, W]
        return frames.unflatten(0, (len(latents), -1))[:, 0]


class VQGANCodec(PictureCodec):
    """taming-transformers' or LlamaGen's VQGAN, as `decoders.codecs.pretrained.checkpoints` loads it."""

    def __init__(self, network: VQGAN) -> None:
        # Normalised here and not in the network: a fingerprint hashes weights, which no processor rounds differently.
        codebook = F.normalize(network.codebook, dim=-1) if network.config.unit_entries else network.codebook
        super().__init__(network, codebook, 2 ** (len(network.config.widths) - 1))


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Vectors [B, D, h, w] → codes [B, 1, h, w] of the entries [N, D] nearest to them.

    For entries of unit length this is the entry nearest in direction, whatever the vectors' lengths.
    `NonFiniteLatentsError` for vectors that are not finite.
    """
    if not bool(torch.isfinite(vectors).all()):
        raise NonFiniteLatentsError("the network's vectors contain NaN or infinite values: its weights may be damaged")
    # |v − e|² − |v|²; the term |v|² is the same for every entry.
    distances = codebook.square().sum(1) - 2 * vectors.flatten(2).transpose(1, 2) @ codebook.T
    return distances.argmin(2).view(len(vectors), 1, *vectors.shape[2:])
