"""Codecs without a network, from the early literature: baselines for the learned ones."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from decoders.codecs.base import MediaCodec
from decoders.codecs.kmeans import kmeans
from decoders.values import check_kind


class PaletteCodec(MediaCodec):
    """Images as palette indices on a coarse grid (Chen et al. 2020, "ImageGPT": 512 colours by k-means).

    Each code is the palette colour nearest to the mean of its `downsample` × `downsample` pixels.
    """

    modality = "image"
    num_codebooks = 1
    latent_dim = 3
    palette: Tensor

    def __init__(self, palette: Tensor, size: int = 64, downsample: int = 8) -> None:
        """palette: colours [codebook_size, 3] in 0..1."""
        super().__init__()
        if palette.ndim != 2 or palette.shape[1] != 3 or len(palette) < 2:
            raise ValueError(f"a palette is [colours, 3] with at least two colours, not {list(palette.shape)}")
        if size < downsample or size % downsample:
            raise ValueError(f"size ({size}) must be a multiple of downsample ({downsample})")
        self.register_buffer("palette", palette.float())
        self.size, self.downsample, self.codebook_size = size, downsample, len(palette)

    @classmethod
    def learn(
        cls, pictures: Tensor, codebook_size: int = 512, downsample: int = 8, seed: int = 0, rounds: int = 20
    ) -> PaletteCodec:
        """Learn a palette from square images [N, 3, size, size] by k-means over the mean colours of their cells.

        seed: draws the cells that k-means starts from. ValueError if there are fewer different cells than colours.
        """
        colours = F.avg_pool2d(pictures, downsample).permute(0, 2, 3, 1).reshape(-1, 3)
        palette = kmeans(colours, codebook_size, rounds, torch.Generator().manual_seed(seed))
        if len(palette) < codebook_size:
            raise ValueError(
                f"the images have {len(palette)} different cells, fewer than {codebook_size} colours; give more images "
                "or a smaller codebook_size"
            )
        return cls(palette, pictures.shape[-1], downsample)

    def _encode(self, media: Tensor) -> tuple[Tensor, Tensor, None]:
        cells = F.avg_pool2d(media.float(), self.downsample)  # [B, 3, h, w]
        codes = torch.cdist(cells.flatten(2).transpose(1, 2), self.palette[None]).argmin(2)
        codes = codes.view(len(media), 1, *cells.shape[2:])
        return codes, self._latents(codes), None

    def _latents(self, codes: Tensor) -> Tensor:
        return self.palette[codes[:, 0]].permute(0, 3, 1, 2)

    def _decode(self, latents: Tensor) -> Tensor:
        return F.interpolate(latents, scale_factor=self.downsample, mode="nearest")


class MuLawCodec(MediaCodec):
    """Audio as one code per sample: amplitudes in `codebook_size` steps, finer near zero (µ-law, ITU-T G.711; van den
    Oord et al. 2016, "WaveNet")."""

    modality = "audio"
    num_codebooks = 1
    latent_dim = 1
    downsample = 1

    def __init__(self, sample_rate: int = 8000, codebook_size: int = 256) -> None:
        super().__init__()
        check_kind("sample_rate", sample_rate, int)
        check_kind("codebook_size", codebook_size, int)
        if codebook_size < 3 or sample_rate < 1:
            raise ValueError("codebook_size must be at least 3, and sample_rate above 0")
        self.sample_rate, self.codebook_size = sample_rate, codebook_size

    def _encode(self, media: Tensor) -> tuple[Tensor, Tensor, None]:
        most = self.codebook_size - 1
        samples = media.float().clamp(-1, 1)
        loudness = samples.sign() * torch.log1p(most * samples.abs()) / math.log1p(most)
        codes = ((loudness + 1) / 2 * most + 0.5).long()
        return codes, self._latents(codes), None

    def _latents(self, codes: Tensor) -> Tensor:
        most = self.codebook_size - 1
        loudness = codes.float() / most * 2 - 1
        return loudness.sign() * torch.expm1(loudness.abs() * math.log1p(most)) / most

    def _decode(self, latents: Tensor) -> Tensor:
        return latents
