"""A scaling law, loss = E + Σ A_k / x_k ** a_k, fitted to finished runs in float64 (Hoffmann et al. 2022, 2203.15556).

With two axes, parameters and examples, it is Chinchilla's law. As there, Huber's loss of the errors in log loss is
minimised from several starts, since it has several minima. Here all starts, and all resamples of the bootstrap, are
minimised together, by the method of Levenberg and Marquardt with Huber's weights.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

HUBER = 1e-2
"""Errors in log loss up to here count by their square, larger ones by their size: about the noise between seeds."""
EXPONENTS, FLOORS = (0.2, 0.5, 1.0), (0.2, 0.6, 0.95)  # of the starts; floors in lowest losses
LONGEST, ENOUGH, TIGHTEST = 400, 1e-9, 1e6  # iterations; the relative gain, and the damping, at which a fit is finished
FROM = 3  # of the best ends, from which resamples start

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Law:
    """loss = floor + Σ scales[k] / x_k ** exponents[k], in nats."""

    floor: float
    scales: tuple[float, ...]
    exponents: tuple[float, ...]

    def __call__(self, axes: ArrayLike) -> Array:
        """The losses `[n]` at axes `[n, k]`."""
        return self.floor + (np.asarray(self.scales) * np.asarray(axes, float) ** -np.asarray(self.exponents)).sum(1)


@dataclass(frozen=True)
class Fit:
    """A fitted law, and those of resampled runs. error: Huber's loss of the fit, the mean over the runs."""

    law: Law
    resampled: tuple[Law, ...]
    error: float

    def interval(self, values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
        """The interval that holds `level` of the values, one from each resample."""
        low, high = np.quantile(np.asarray(values, float), ((1 - level) / 2, (1 + level) / 2))
        return float(low), float(high)


def fit_law(axes: ArrayLike, losses: ArrayLike, *, resamples: int, seed: int = 0, huber: float = HUBER) -> Fit:
    """The law of runs with axes `[n, k]` and losses `[n]`, and those of `resamples` draws of n runs with replacement.

    Exponents are 0 at least: an axis along which the losses rise, by noise or by training too long, tells nothing.
    ValueError where a number is not positive and finite, where runs are fewer than the law has numbers (1 + 2k), and
    for an axis that does not vary.
    """
    x, y = np.asarray(axes, float), np.asarray(losses, float)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(f"axes are [runs, axes] and losses [runs], not {list(x.shape)} and {list(y.shape)}")
    count, wide = x.shape
    if count < 1 + 2 * wide:
        raise ValueError(
            f"a law of {wide} axes has {1 + 2 * wide} numbers: it takes as many runs at least, not {count}"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (x > 0).all() and (y > 0).all()):
        raise ValueError("axes and losses must be positive and finite")
    if constant := [axis for axis in range(wide) if np.ptp(x[:, axis]) == 0]:
        raise ValueError(f"axis {constant[0]} has the same value in all runs: leave it out")
    middle = np.log(x).mean(0)
    logs, target = np.log(x) - middle, np.log(y)  # at the middle, scales and exponents hardly depend on each other
    starts = _starts(y, wide)
    ends, errors = _minimised(logs, target, np.ones((len(starts), count)), starts, huber)
    order = np.argsort(errors)
    best = ends[order[0]]
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    starts = ends[order[:FROM]]
    again, costs = _minimised(
        logs, target, np.repeat(drawn.astype(float), len(starts), 0), np.tile(starts, (resamples, 1)), huber
    )
    chosen = costs.reshape(resamples, len(starts)).argmin(1) + np.arange(resamples) * len(starts)
    laws = tuple(_law(again[index], middle) for index in chosen)
    return Fit(_law(best, middle), laws, float(errors[order[0]]) / count)


def _law(theta: Array, middle: Array) -> Law:
    """Of the numbers that are fitted: the log floor, then for each axis its log term at the middle and its exponent."""
    terms, exponents = theta[1::2], theta[2::2]
    return Law(float(np.exp(theta[0])), tuple(np.exp(terms + exponents * middle).tolist()), tuple(exponents.tolist()))


def _starts(losses: Array, wide: int) -> Array:
    """Every choice of exponents and of a floor, with equal terms that make up the median loss at the middle."""
    starts = []
    for floor, *exponents in itertools.product(FLOORS, *[EXPONENTS] * wide):
        bottom = floor * losses.min()
        term = np.log(max(np.median(losses) - bottom, 1e-3 * bottom) / wide)
        starts.append([np.log(bottom), *(number for exponent in exponents for number in (term, exponent))])
    return np.array(starts)


def _minimised(logs: Array, target: Array, weights: Array, theta: Array, huber: float) -> tuple[Array, Array]:
    """The ends `[m, 1 + 2k]` and Huber's losses `[m]` of m problems; weights `[m, n]` say how often a run counts.

    A step that would not lower the loss is not taken, and the next one is shorter. What is finished is left out.
    """
    theta, damping = theta.copy(), np.full(len(theta), 1e-2)
    costs = _cost(_errors(theta, logs, target)[0], weights, huber)
    left = np.arange(len(theta))
    for _ in range(LONGEST):
        errors, slopes = _errors(theta[left], logs, target)
        pull = weights[left] * np.minimum(1, huber / np.maximum(np.abs(errors), 1e-300))
        bend = np.matmul((slopes * pull[..., None]).transpose(0, 2, 1), slopes)
        push = np.matmul(slopes.transpose(0, 2, 1), (pull * errors)[..., None])
        size = np.einsum("mpp->mp", bend)
        bend += (damping[left, None] * (size + 1e-9))[..., None] * np.eye(theta.shape[1])
        tried = theta[left] - np.clip(np.linalg.solve(bend, push)[..., 0], -1, 1)
        tried[:, 2::2] = tried[:, 2::2].clip(0)
        found = _cost(_errors(tried, logs, target)[0], weights[left], huber)
        better = found < costs[left]
        small = better & (costs[left] - found <= ENOUGH * costs[left])
        theta[left[better]], costs[left[better]] = tried[better], found[better]
        damping[left] = np.clip(np.where(better, damping[left] / 3, damping[left] * 3), 1e-9, None)
        left = left[~small & (damping[left] < TIGHTEST)]
        if not len(left):
            break
    return theta, costs


def _errors(theta: Array, logs: Array, target: Array) -> tuple[Array, Array]:
    """Predicted less measured log losses `[m, n]`, and their derivatives `[m, n, 1 + 2k]`."""
    terms = theta[:, None, 1::2] - theta[:, None, 2::2] * logs  # [m, n, k]
    terms = np.concatenate([np.broadcast_to(theta[:, None, :1], (*terms.shape[:2], 1)), terms], 2)
    top = terms.max(2, keepdims=True)
    shares = np.exp(terms - top)
    total = shares.sum(2, keepdims=True)
    shares /= total
    slopes = np.empty((*terms.shape[:2], theta.shape[1]))
    slopes[..., 0], slopes[..., 1::2] = shares[..., 0], shares[..., 1:]
    slopes[..., 2::2] = -shares[..., 1:] * logs
    return (top + np.log(total))[..., 0] - target, slopes


def _cost(errors: Array, weights: Array, huber: float) -> Array:
    size = np.abs(errors)
    return (weights * np.where(size <= huber, 0.5 * size**2, huber * (size - 0.5 * huber))).sum(1)
