"""Losses of policy gradients, as functions of the log-probabilities of single tokens: `[N, T]`, with a mask of those
that count."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Scale = Literal["group", "none"]
Aggregation = Literal["tokens", "sequences", "constant"]

_STEADY = 1e-4  # beside the spread of a group
_TINY = 1e-8  # beside a variance


def group_advantages(rewards: Tensor, scale: Scale = "group") -> Tensor:
    """Advantages of rewards `[P, G]` of G answers to each of P prompts: what is above the group's mean.

    scale: "group" divides by the group's spread (GRPO, Shao et al. 2024, arXiv 2402.03300), "none" does not (Dr. GRPO,
    Liu et al. 2025, arXiv 2503.20783). Where all of a group have one reward, its advantages are 0.
    """
    above = rewards - rewards.mean(1, keepdim=True)
    if scale == "none" or rewards.shape[1] == 1:
        return above
    return above / (rewards.std(1, keepdim=True) + _STEADY)


def clipped(log_probs: Tensor, old: Tensor, advantages: Tensor, low: float = 0.2, high: float = 0.2) -> Tensor:
    """PPO's loss of each token (Schulman et al. 2017, arXiv 1707.06347): nothing is gained outside 1 − low, 1 + high.

    advantages: `[N, 1]` or `[N, T]`. A `high` above `low` lets rare tokens grow (clip-higher, DAPO, arXiv 2503.14476).
    """
    ratio = (log_probs - old).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def k3(log_probs: Tensor, reference: Tensor) -> Tensor:
    """Schulman's estimate of KL(π‖π_ref) from one sample of each token: unbiased and never below 0."""
    difference = reference - log_probs
    return difference.exp() - difference - 1


def aggregated(losses: Tensor, mask: Tensor, way: Aggregation, longest: int) -> tuple[Tensor, int]:
    """One loss, and the number of things that it is the mean of, by which parts of a step are weighed.

    way: "tokens", the mean over all tokens, so that a long answer counts more (DAPO); "sequences", the mean of the
    means of answers (GRPO); "constant", the sum of an answer's tokens over `longest`, so that length is not favoured
    (Dr. GRPO).
    """
    kept = losses * mask
    if way == "tokens":
        count = int(mask.sum())
        return kept.sum() / max(1, count), count
    own = kept.sum(1) / (mask.sum(1).clamp(min=1) if way == "sequences" else longest)
    return own.mean(), len(losses)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates (Schulman et al. 2015, arXiv 1506.02438) and returns, both `[N, T]`.

    rewards, values: `[N, T]`, of answers that begin at the left; what the mask leaves out is 0.
    """
    found, after, value = [], torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards[:, 0])
    for step in reversed(range(rewards.shape[1])):
        delta = rewards[:, step] + gamma * value - values[:, step]
        after = (delta + gamma * lam * after) * mask[:, step]
        value = values[:, step] * mask[:, step]
        found.append(after)
    advantages = torch.stack(found[::-1], dim=1)
    return advantages, (advantages + values) * mask


def whitened(advantages: Tensor, mask: Tensor) -> Tensor:
    """Advantages `[N, T]` with mean 0 and variance 1 over the tokens that count, as PPO has them; 0 elsewhere."""
    own = advantages[mask]
    if len(own) < 2:
        return advantages * mask
    return (advantages - own.mean()) * (own.var() + _TINY).rsqrt() * mask


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float = 0.2) -> Tensor:
    """Half the square error of each token's value, which gains nothing from moving further than `clip` from the old."""
    near = torch.clamp(values, old - clip, old + clip)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square())
