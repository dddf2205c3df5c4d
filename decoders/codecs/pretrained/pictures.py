"""Published codecs of pictures: each one codebook between two convolutional networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoders.codecs.pretrained.frozen import FrozenCodec
from decoders.codecs.pretrained.vqgan import VQGAN


class PictureCodec(FrozenCodec):
    """Pictures [B, 3, H, W] in 0..1 ↔ codes [B, 1, H/downsample, W/downsample].

    codebook: [codebook_size, D], what the codes stand for. pixels: least and largest value that the network knows.
    Subclasses define `_vectors`, pixels → vectors [B, D, h, w] to be quantised, and `_pixels`, latents → pixels.
    """

    modality = "image"
    num_codebooks = 1

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
            raise ValueError(f"pixels are (least, largest), not {pixels}")
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

    pixels: None for 0..1 where the config says `lookup_from_codebook`, which was made for aMUSEd's pipelines, and they
    do not normalise; else for −1..1, as latent diffusion's and Kandinsky's. No config says it outright.
    """

    def __init__(self, network: nn.Module, pixels: tuple[float, float] | None = None) -> None:
        config = network.config
        if config.in_channels != 3 or config.out_channels != 3:
            raise ValueError(f"a codec of pictures has 3 channels, this VQModel {config.in_channels}")
        if pixels is None:
            pixels = (0.0, 1.0) if config.lookup_from_codebook else (-1.0, 1.0)
        # Of the codebook, not of `latent_channels`: where the two differ aMUSEd's own pipeline fails.
        codebook = network.quantize.embedding.weight
        super().__init__(network, codebook, 2 ** (len(config.block_out_channels) - 1), pixels=pixels)

    def _pixels(self, latents: Tensor) -> Tensor:
        # Not `network.decode`, which takes latents for ids where the config says `lookup_from_codebook`.
        spatial = latents if self.network.config.norm_type == "spatial" else None  # Kandinsky's MoVQ
        return self.network.decoder(self.network.post_quant_conv(latents), spatial)


class JanusVQ(PictureCodec):
    """transformers' `JanusVQVAE` (transformers/models/janus/modeling_janus.py): LlamaGen's network at a fixed size.

    Codes are of the entry nearest in direction, as in the code that trained it and as its decoder reads them;
    transformers' own `encode` compares by distance and so finds other codes than the model was trained on.
    """

    def __init__(self, network: nn.Module) -> None:
        codebook = F.normalize(network.quantize.embedding.weight.float(), dim=-1)
        downsample = 2 ** (len(network.config.channel_multiplier) - 1)
        super().__init__(network, codebook, downsample, size=network.config.num_patches * downsample)


class Emu3VQ(PictureCodec):
    """transformers' `Emu3VQVAE`, a codec of video (transformers/models/emu3/modeling_emu3.py): a picture is a short
    film that stands still, and the first frame of the film that comes out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, network.quantize.embedding.weight, network.spatial_scale_factor)

    def _vectors(self, pixels: Tensor) -> Tensor:
        film = pixels.unsqueeze(1).repeat(1, self.network.config.temporal_downsample_factor, 1, 1, 1)
        hidden = self.network.encoder(film)  # [B, 1, C, h, w]
        return self.network.quant_conv(hidden.transpose(1, 2))[:, :, 0]

    def _pixels(self, latents: Tensor) -> Tensor:
        vectors = latents.unsqueeze(2)  # [B, D, 1, h, w]
        hidden = self.network.post_quant_conv(vectors)
        frames = self.network.decoder(hidden.transpose(1, 2), vectors.transpose(1, 2))  # [B · frames, 3, H, W]
        return frames.unflatten(0, (len(latents), -1))[:, 0]


class VQGANCodec(PictureCodec):
    """taming-transformers' or LlamaGen's VQGAN, as `decoders.pretrained.vqgan` reads it."""

    def __init__(self, network: VQGAN) -> None:
        # Normed here and not in the network: a fingerprint hashes weights, never what a processor made of them.
        codebook = F.normalize(network.codebook, dim=-1) if network.config.unit_entries else network.codebook
        super().__init__(network, codebook, 2 ** (len(network.config.widths) - 1))


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Vectors [B, D, h, w] → codes [B, 1, h, w] of the entries [N, D] nearest to them.

    With entries of unit length that is the nearest in direction, however long the vectors are. Raises
    FloatingPointError for vectors that are not finite, for which a code would be made up.
    """
    if not bool(torch.isfinite(vectors).all()):
        raise FloatingPointError("the network's vectors hold NaN or infinite values: its weights may be damaged")
    # |v − e|² less |v|², which is the same for every entry.
    distances = codebook.square().sum(1) - 2 * vectors.flatten(2).transpose(1, 2) @ codebook.T
    return distances.argmin(2).view(len(vectors), 1, *vectors.shape[2:])
