"""What the codecs' networks are built of, for pictures (two dimensions) and sound (one)."""

from __future__ import annotations

from torch import Tensor, nn

CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d}


class ResidualBlock(nn.Module):
    """Two convolutions of three, each after a norm and SiLU, added to what came in: [B, C, *grid] → the same."""

    def __init__(self, dimensions: int, channels: int) -> None:
        super().__init__()
        convolution = CONVOLUTION[dimensions]
        self.layers = nn.Sequential(
            norm(dimensions, channels), nn.SiLU(), convolution(channels, channels, 3, padding=1),
            norm(dimensions, channels), nn.SiLU(), convolution(channels, channels, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class StepNorm(nn.LayerNorm):
    """Layer norm of the channels of each step of sound [B, C, T], whatever comes before and after.

    Group norm takes in all of a recording: what follows a word would change how loud the word is.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def norm(dimensions: int, channels: int) -> nn.Module:
    """For sound StepNorm, for pictures group norm over groups of about sixteen channels."""
    if dimensions == 1:
        return StepNorm(channels)
    return nn.GroupNorm(next(n for n in range(max(1, channels // 16), 0, -1) if channels % n == 0), channels)


def body(dimensions: int, channels: int, blocks: int) -> nn.Sequential:
    """So many residual blocks in a row."""
    return nn.Sequential(*(ResidualBlock(dimensions, channels) for _ in range(blocks)))


def down(dimensions: int, channels: int, out: int) -> nn.Module:
    """Half as many steps along each dimension."""
    return CONVOLUTION[dimensions](channels, out, 4, stride=2, padding=1)


def up(dimensions: int, channels: int, out: int) -> nn.Sequential:
    """Twice as many; repeated, then smoothed, which leaves no checkerboard (Odena et al. 2016)."""
    smooth = CONVOLUTION[dimensions](channels, out, 3, padding=1)
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), smooth)


def head(dimensions: int, channels: int, out: int) -> nn.Sequential:
    """From hidden channels to what is put out."""
    return nn.Sequential(norm(dimensions, channels), nn.SiLU(), CONVOLUTION[dimensions](channels, out, 1))
