"""Layers of the codecs' networks, for images (two dimensions) and audio (one dimension)."""

from __future__ import annotations

from torch import Tensor, nn

CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d}


class ResidualBlock(nn.Module):
    """Two convolutions, each after a norm and SiLU, with a skip connection: [B, C, *grid] → [B, C, *grid]."""

    def __init__(self, dimensions: int, channels: int, kernel: int = 3) -> None:
        super().__init__()
        convolution = CONVOLUTION[dimensions]
        self.layers = nn.Sequential(
            ChannelNorm(channels), nn.SiLU(), convolution(channels, channels, kernel, padding=kernel // 2),
            ChannelNorm(channels), nn.SiLU(), convolution(channels, channels, kernel, padding=kernel // 2),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each position of [B, C, *grid], independent of all other positions.

    Group norm takes its statistics over the whole grid. Then the codes at one position would depend on distant ones:
    a word's on what is said later, an empty background's on what is in another corner of the image.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def body(dimensions: int, channels: int, blocks: int, kernel: int = 3) -> nn.Sequential:
    """`blocks` residual blocks in a row."""
    return nn.Sequential(*(ResidualBlock(dimensions, channels, kernel) for _ in range(blocks)))


def down(dimensions: int, channels: int, out: int, overlap: int = 1) -> nn.Module:
    """Halve each dimension: a strided convolution over two steps and `overlap` more on either side."""
    return CONVOLUTION[dimensions](channels, out, 2 + 2 * overlap, stride=2, padding=overlap)


def up(dimensions: int, channels: int, out: int) -> nn.Sequential:
    """Double each dimension: repeat, then smooth, which avoids checkerboard artefacts (Odena et al. 2016)."""
    smooth = CONVOLUTION[dimensions](channels, out, 3, padding=1)
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), smooth)


def head(dimensions: int, channels: int, out: int) -> nn.Sequential:
    """Hidden channels → output channels."""
    return nn.Sequential(ChannelNorm(channels), nn.SiLU(), CONVOLUTION[dimensions](channels, out, 1))


def halvings(downsample: int, name: str, unit: int) -> int:
    """The number n with downsample = unit · 2^n: how often the resolution is halved.

    ValueError if there is none; the message calls `unit` by this `name`.
    """
    ratio, rest = divmod(downsample, unit) if unit > 0 and downsample > 0 else (0, 0)
    if rest or ratio < 1 or ratio & (ratio - 1):
        raise ValueError(f"downsample ({downsample}) must be {name} ({unit}) times a power of two")
    return ratio.bit_length() - 1
