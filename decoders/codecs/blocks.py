"""What the codecs' networks are built of, for pictures (two dimensions) and sound (one)."""

from __future__ import annotations

from torch import Tensor, nn

CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d}


class ResidualBlock(nn.Module):
    """Two convolutions, each after a norm and SiLU, added to what came in: [B, C, *grid] → the same."""

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
    """Layer norm of the channels at each place of [B, C, *grid], whatever lies around it.

    Group norm takes in all of a medium: what follows a word would change how loud the word is, and what stands in one
    corner of a picture which code its empty ground has in another.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def body(dimensions: int, channels: int, blocks: int, kernel: int = 3) -> nn.Sequential:
    """So many residual blocks in a row."""
    return nn.Sequential(*(ResidualBlock(dimensions, channels, kernel) for _ in range(blocks)))


def down(dimensions: int, channels: int, out: int, overlap: int = 1) -> nn.Module:
    """Half as many steps along each dimension, each of two and of `overlap` more at either side."""
    return CONVOLUTION[dimensions](channels, out, 2 + 2 * overlap, stride=2, padding=overlap)


def up(dimensions: int, channels: int, out: int) -> nn.Sequential:
    """Twice as many; repeated, then smoothed, which leaves no checkerboard (Odena et al. 2016)."""
    smooth = CONVOLUTION[dimensions](channels, out, 3, padding=1)
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), smooth)


def head(dimensions: int, channels: int, out: int) -> nn.Sequential:
    """From hidden channels to what is put out."""
    return nn.Sequential(ChannelNorm(channels), nn.SiLU(), CONVOLUTION[dimensions](channels, out, 1))
