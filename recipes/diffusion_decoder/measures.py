"""How near decoded pictures are to real ones: each to its own, and all of them as a crowd."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from decoders.base import MediaCodec

PATCH = 5  # pixels a side


def patch_distance(made: Tensor, real: Tensor) -> float:
    """Fréchet distance of the patches of PATCH × PATCH RGB pixels in two crowds of pictures [N, 3, H, W].

    |m₁ − m₂|² + tr(C₁ + C₂ − 2·√(C₁C₂)) of the patches' means and covariances (Heusel et al. 2017, on pixels).
    """
    (mean, spread), (other_mean, other_spread) = (_moments(pictures) for pictures in (made, real))
    # The eigenvalues of a product of two covariances are real and not negative, but for rounding.
    roots = torch.linalg.eigvals(spread @ other_spread).real.clamp(min=0).sqrt().sum()
    return float((mean - other_mean).square().sum() + spread.trace() + other_spread.trace() - 2 * roots)


def _moments(pictures: Tensor) -> tuple[Tensor, Tensor]:
    count, total, products = 0, 0.0, 0.0
    for batch in pictures.double().split(50):
        patches = F.unfold(batch, PATCH).transpose(1, 2).flatten(0, 1)  # [N·places, 75]
        count += len(patches)
        total, products = total + patches.sum(0), products + patches.T @ patches
    mean = total / count
    return mean, products / count - mean.outer(mean)


def fine_power(pictures: Tensor) -> float:
    """Mean power of pictures [N, 3, H, W] above 0.25 cycles a pixel."""
    rows, columns = (torch.fft.fftfreq(side) for side in pictures.shape[2:])
    fine = (rows[:, None].square() + columns.square()).sqrt() > 0.25
    return float((torch.fft.fft2(pictures.double()).abs().square() * fine).mean())


def agreement(codec: MediaCodec, made: Tensor, codes: Tensor) -> float:
    """The share of codes [N, K, h, w] that decoded pictures have when they are encoded again."""
    again = torch.cat([codec.encode(batch).codes for batch in made.split(50)])
    return float((again == codes).double().mean())
