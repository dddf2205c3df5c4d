"""How near decoded media are to real ones, as a crowd; and how many codes they keep."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from decoders.codecs.base import MediaCodec

PATCH = 5  # pixels a side


def patch_distance(made: Tensor, real: Tensor) -> float:
    """Fréchet distance of the patches of PATCH × PATCH RGB pixels in two crowds of pictures [N, 3, H, W]."""
    return _frechet(*(_moments(_patches(batch) for batch in pictures.split(50)) for pictures in (made, real)))


def frame_distance(made: Tensor, real: Tensor) -> float:
    """Fréchet distance of two crowds of frames [N, D]."""
    return _frechet(_moments([made]), _moments([real]))


def _patches(pictures: Tensor) -> Tensor:
    return F.unfold(pictures, PATCH).transpose(1, 2).flatten(0, 1)  # [N·places, 75]


def _frechet(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """|m₁ − m₂|² + tr(C₁ + C₂ − 2·√(C₁C₂)) of means and covariances (Heusel et al. 2017, there of features)."""
    (mean, spread), (other_mean, other_spread) = first, second
    # The eigenvalues of a product of two covariances are real and not negative, but for rounding.
    roots = torch.linalg.eigvals(spread @ other_spread).real.clamp(min=0).sqrt().sum()
    return float((mean - other_mean).square().sum() + spread.trace() + other_spread.trace() - 2 * roots)


def _moments(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D, D] of vectors that come in parts [N, D]."""
    count, total, products = 0, 0.0, 0.0
    for part in parts:
        part = part.double()
        count += len(part)
        total, products = total + part.sum(0), products + part.T @ part
    mean = total / count
    return mean, products / count - mean.outer(mean)


def fine_power(pictures: Tensor) -> float:
    """Mean power of pictures [N, 3, H, W] above 0.25 cycles a pixel."""
    rows, columns = (torch.fft.fftfreq(side) for side in pictures.shape[2:])
    fine = (rows[:, None].square() + columns.square()).sqrt() > 0.25
    return float((torch.fft.fft2(pictures.double()).abs().square() * fine).mean())


def agreement(codec: MediaCodec, made: Tensor, codes: Tensor) -> float:
    """The share of codes [N, K, *grid] that decoded media have when they are encoded again."""
    again = torch.cat([codec.encode(batch).codes for batch in made.split(50)])
    return float((again == codes).double().mean())
