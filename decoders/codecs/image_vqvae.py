"""A VQ-VAE for pictures (van den Oord et al. 2017): small, convolutional, for any side and any of the quantisers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from decoders.codecs.base import MediaCodec
from decoders.codecs.blocks import body, down, head, up
from decoders.codecs.quantizer import Quantizer, QuantizerConfig


@dataclass(frozen=True)
class ImageVQVAEConfig:
    """Sizes. The network begins with patches of `patch` pixels, which keeps it away from full resolution: fast.

    `local`: a code is of its own `downsample` × `downsample` pixels and of nothing else, so that what is the same gets
    the same codes wherever it stands. Else a code tells of what lies around it, too.
    """

    size: int = 64  # pixels a side
    downsample: int = 8  # pixels a side that one code stands for; a power of two times `patch`
    patch: int = 4
    width: int = 96  # channels; half as many again at the codes' own resolution
    blocks: int = 2  # residual blocks at each resolution
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    local: bool = False

    def __post_init__(self) -> None:
        levels = math.log2(self.downsample / self.patch) if self.patch > 0 and self.downsample > 0 else -1
        if levels < 0 or levels != int(levels):
            raise ValueError(f"downsample ({self.downsample}) must be patch ({self.patch}) times a power of two")
        if self.size < self.downsample or self.size % self.downsample:
            raise ValueError(f"size ({self.size}) must be a multiple of downsample ({self.downsample})")

    @property
    def levels(self) -> int:
        """How often the resolution is halved after the patches."""
        return int(math.log2(self.downsample // self.patch))


class ImageVQVAE(MediaCodec):
    """Pictures [B, 3, size, size] in 0..1 ↔ codes [B, K, size/downsample, size/downsample]."""

    modality = "image"

    def __init__(self, config: ImageVQVAEConfig = ImageVQVAEConfig()) -> None:
        super().__init__()
        self.config = config
        self.size, self.downsample = config.size, config.downsample
        self.codebook_size, self.num_codebooks = config.quantizer.codebook_size, config.quantizer.num_codebooks
        self.latent_dim = config.quantizer.latent_dim
        width, deep = config.width, config.width * 3 // 2
        widths = [width] + [deep] * config.levels
        patches = nn.Conv2d(3, width, config.patch, stride=config.patch)
        kernel, overlap = (1, 0) if config.local else (3, 1)
        self.encoder = nn.Sequential(patches, body(2, width, config.blocks, kernel))
        for level, (before, after) in enumerate(zip(widths, widths[1:]), start=1):
            # At the codes' resolution places are not mixed: that is where the reach of a convolution is longest.
            kernel = 1 if level == config.levels else kernel
            self.encoder += nn.Sequential(down(2, before, after, overlap), body(2, after, config.blocks, kernel))
        self.encoder += nn.Sequential(head(2, widths[-1], self.latent_dim))
        self.quantizer = Quantizer(config.quantizer)
        stem = nn.Conv2d(self.latent_dim, widths[-1], 3, padding=1)
        self.decoder = nn.Sequential(stem, body(2, widths[-1], config.blocks))
        for before, after in zip(widths[::-1], widths[-2::-1]):
            self.decoder += nn.Sequential(up(2, before, after), body(2, after, config.blocks))
        self.decoder += nn.Sequential(head(2, width, 3 * config.patch**2), nn.PixelShuffle(config.patch))

    def reconstruct(self, media: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """For training: the picture again, not clamped, its codes, and the quantiser's loss; gradients pass through."""
        codes, latents, loss = self._encode(media)
        return self._decode(latents), codes, loss

    def project(self, media: Tensor) -> Tensor | None:
        return self.encoder(media * 2 - 1) if self.quantizer.nearest else None

    def _encode(self, media: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.quantizer(self.encoder(media * 2 - 1))

    def _latents(self, codes: Tensor) -> Tensor:
        return self.quantizer.latents(codes)

    def _decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents).float() * 0.5 + 0.5


def picture_loss(made: Tensor, real: Tensor) -> Tensor:
    """How far pictures are from what they should be: squares, and a fifth of absolute differences, of −1..1."""
    return 4 * F.mse_loss(made, real) + 0.4 * F.l1_loss(made, real)
