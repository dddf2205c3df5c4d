"""The Fréchet distance of two sets of features (Heusel et al. 2017, arXiv 1706.08500)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from mmlm.evaluation.metrics.measure import Measure

RESAMPLES = 50  # of the interval: each takes a decomposition


def frechet_distance(real: Tensor, made: Tensor, name: str = "FID") -> Measure:
    """FID of `made` beside `real`, features `[N, D]` of one net; lower is better, 0 for equal means and covariances.

    It grows as sets get smaller: compare sets of one size only. Single items have no score. The interval resamples
    `made` alone. ValueError for fewer than two of a set, or features of two widths.
    """
    reals, mades = (features.double().cpu().numpy() for features in (real, made))
    if min(len(reals), len(mades)) < 2 or reals.shape[1] != mades.shape[1]:
        raise ValueError(f"FID needs two sets of features of one width, not {reals.shape} and {mades.shape}")
    mean, root = _moments(reals, np.ones(len(reals)))

    def of(counts: np.ndarray) -> float:
        other_mean, other_root = _moments(mades, counts)
        # The trace of the root of a product of covariances is the sum of the singular values of their roots' product.
        shared = np.linalg.svd(root @ other_root.T, compute_uv=False).sum()
        return float(((mean - other_mean) ** 2).sum() + (root**2).sum() + (other_root**2).sum() - 2 * shared)

    return Measure(name, of, np.full(len(mades), np.nan), lower_is_better=True, centred=True, resamples=RESAMPLES)


def _moments(features: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean `[D]` and a root `[min(N, D), D]` of the covariance, where row n counts `counts[n]` times."""
    total = counts.sum()
    mean = counts @ features / total
    scaled = (features - mean) * np.sqrt(counts / (total - 1))[:, None]
    wide = len(scaled) <= scaled.shape[1]
    return mean, scaled if wide else np.asarray(np.linalg.qr(scaled, mode="r"))
