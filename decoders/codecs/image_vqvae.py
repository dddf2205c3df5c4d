"""A VQ-VAE for images (van den Oord et al. 2017): small, convolutional, of any size and with any quantiser."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from decoders.codecs.base import MediaCodec
from decoders.codecs.blocks import body, down, halvings, head, up
from decoders.codecs.quantizer import Quantizer, QuantizerConfig
from decoders.values import check_kinds, check_least


@dataclass(frozen=True)
class ImageVQVAEConfig:
    """Sizes. The network starts from patches of `patch` × `patch` pixels: no layer runs at full resolution.

    local: each code depends on its own `downsample` × `downsample` pixels only, so the same content gets the same codes
        anywhere in the image. Otherwise a code also depends on the pixels around it.
    """

    size: int = 64  # pixels per side
    downsample: int = 8  # pixels per side that one code covers; `patch` times a power of two
    patch: int = 4  # pixels per side that the network takes as one
    width: int = 96  # channels; 1.5 times as many below the first resolution
    blocks: int = 2  # residual blocks at each resolution
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)  # what makes codes of vectors
    local: bool = False

    def __post_init__(self) -> None:
        check_kinds(self)
        check_least(self, size=1, downsample=1, patch=1, width=1, blocks=0)
        halvings(self.downsample, "patch", self.patch)
        if self.size < self.downsample or self.size % self.downsample:
            raise ValueError(f"size ({self.size}) must be a multiple of downsample ({self.downsample})")

    @property
    def levels(self) -> int:
        """How often the resolution is halved after the patches."""
        return halvings(self.downsample, "patch", self.patch)


class ImageVQVAE(MediaCodec):
    """Images [B, 3, size, size] in 0..1 ↔ codes [B, K, size/downsample, size/downsample]."""

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
            # At the codes' resolution a 3 × 3 convolution would reach furthest, so positions are not mixed there.
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
        """For training, with gradients: the reconstruction, not clamped; the codes; the quantiser's loss."""
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
    """Reconstruction loss of images [B, 3, H, W]: squared plus 0.2 × absolute error, with pixels scaled to −1..1."""
    return 4 * F.mse_loss(made, real) + 0.4 * F.l1_loss(made, real)
