"""The VQGAN of taming-transformers (Esser et al. 2021), which is also LlamaGen's (Sun et al. 2024) and Janus's."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class VQGANConfig:
    """Sizes, from the outermost level to the innermost; each level but the last halves the sides of the image."""

    stem: int  # channels before the first level
    widths: tuple[int, ...]  # channels of each level, multiples of 32
    attends: tuple[bool, ...]  # whether a level has attention after each of its blocks
    blocks: int  # residual blocks per level; the decoder has one more
    latent_channels: int
    codebook_size: int
    codebook_dim: int
    unit_entries: bool = False  # whether codebook entries are normalised to unit length


class VQGAN(nn.Module):
    """Images in −1..1 ↔ vectors of `codebook`: quant_conv(encoder(·)) encodes, decoder(post_quant_conv(·)) decodes.

    Sources: taming/modules/diffusionmodules/model.py and LlamaGen's tokenizer/tokenizer_image/vq_model.py.
    """

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(config.latent_channels, config.codebook_dim, 1)
        self.codebook = nn.Parameter(torch.zeros(config.codebook_size, config.codebook_dim))
        self.post_quant_conv = nn.Conv2d(config.codebook_dim, config.latent_channels, 1)
        self.decoder = Decoder(config)


class Encoder(nn.Module):
    """Pixels [B, 3, H, W] → hidden channels [B, latent_channels, h, w]."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        width = config.widths[-1]
        self.conv_in = nn.Conv2d(3, config.stem, 3, padding=1)
        self.levels = nn.Sequential()
        for (before, own), attends in zip(pairwise((config.stem, *config.widths)), config.attends):
            self.levels.append(Level(before, own, config.blocks, attends, halve(own)))
        self.levels[-1].resample = nn.Identity()
        self.mid = nn.Sequential(ResidualBlock(width, width), Attention(width), ResidualBlock(width, width))
        self.norm_out = norm(width)
        self.conv_out = nn.Conv2d(width, config.latent_channels, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.mid(self.levels(self.conv_in(pixels)))
        return self.conv_out(F.silu(self.norm_out(hidden)))


class Decoder(nn.Module):
    """Hidden channels [B, latent_channels, h, w] → pixels [B, 3, H, W]; `levels` are in the order in which they run."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        width = config.widths[-1]
        self.conv_in = nn.Conv2d(config.latent_channels, width, 3, padding=1)
        self.mid = nn.Sequential(ResidualBlock(width, width), Attention(width), ResidualBlock(width, width))
        self.levels = nn.Sequential()
        for (before, own), attends in zip(pairwise((width, *config.widths[::-1])), config.attends[::-1]):
            self.levels.append(Level(before, own, config.blocks + 1, attends, double(own)))
        self.levels[-1].resample = nn.Identity()
        self.norm_out = norm(config.widths[0])
        self.conv_out = nn.Conv2d(config.widths[0], 3, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.levels(self.mid(self.conv_in(hidden)))
        return self.conv_out(F.silu(self.norm_out(hidden)))


class Level(nn.Module):
    """Residual blocks, each followed by attention if the level `attends`, then `resample`."""

    def __init__(self, channels: int, out: int, blocks: int, attends: bool, resample: nn.Module) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(channels if i == 0 else out, out) for i in range(blocks))
        self.attn = nn.ModuleList(Attention(out) if attends else nn.Identity() for _ in range(blocks))
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for block, attn in zip(self.block, self.attn):
            x = attn(block(x))
        return self.resample(x)


class ResidualBlock(nn.Module):
    """[B, channels, h, w] → [B, out, h, w]."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1 = norm(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.norm2 = norm(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.nin_shortcut = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(hidden)))


class Attention(nn.Module):
    """Self-attention with one head over all positions of [B, C, h, w], with a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        q, k, v = (layer(normed).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return x + self.proj_out(seen.unflatten(2, x.shape[2:]))


def norm(channels: int) -> nn.GroupNorm:
    """Upstream's group norm, always of 32 groups."""
    return nn.GroupNorm(32, channels, eps=1e-6)


def halve(channels: int) -> nn.Sequential:
    """Halve the rows and columns; padded at the bottom and right only, as upstream."""
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))


def double(channels: int) -> nn.Sequential:
    """Double the rows and columns."""
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(channels, channels, 3, padding=1))
