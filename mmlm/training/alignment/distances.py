"""Distances of a student's distribution from a teacher's, as functions of log-probabilities `[N, V]`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_RARE = 1e-7  # what the tail of a distribution has at least


def jsd(student: Tensor, teacher: Tensor, beta: float = 0.5) -> Tensor:
    """The generalised Jensen–Shannon divergence of log-probabilities `[N, V]` (Agarwal et al. 2023, arXiv 2306.13649).

    With M = β·teacher + (1 − β)·student it is β·KL(teacher‖M) + (1 − β)·KL(student‖M), `[N]`. beta: 0 is
    KL(teacher‖student), which covers all that the teacher might say, 1 is KL(student‖teacher), which keeps to a part.
    """
    if beta == 0:
        return kl(teacher, student)
    if beta == 1:
        return kl(student, teacher)
    middle = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * kl(teacher, middle) + (1 - beta) * kl(student, middle)


def kl(own: Tensor, other: Tensor) -> Tensor:
    """KL(own‖other) of log-probabilities `[N, V]`: `[N]`, in nats."""
    return (own.exp() * (own - other)).sum(-1)


def bucketed(log_probs: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of `ids [N, k]` among `[N, V]` and, last, of all others together: `[N, k + 1]`."""
    kept = log_probs.gather(-1, ids)
    rest = (1 - kept.exp().sum(-1, keepdim=True)).clamp(min=_RARE)
    return torch.cat([kept, rest.log()], dim=-1)
