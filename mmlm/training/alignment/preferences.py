"""Losses of preferences, as functions of the log-probabilities of whole answers: one value `[N]` a pair or an answer.

A log-ratio is log π − log π_ref of an answer: the sum over its tokens, or the mean where that is said.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dpo(chosen: Tensor, rejected: Tensor, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290) of log-ratios `[N]`.

    label_smoothing: the share of pairs whose labels are taken to be wrong (conservative DPO).
    """
    margin = beta * (chosen - rejected)
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def ipo(chosen: Tensor, rejected: Tensor, beta: float = 0.1) -> Tensor:
    """Identity preference optimisation (Azar et al. 2023, arXiv 2310.12036) of log-ratios `[N]` that are means over
    tokens."""
    return (chosen - rejected - 1 / (2 * beta)).square()


def simpo(chosen: Tensor, rejected: Tensor, beta: float = 2.0, gamma: float = 0.5) -> Tensor:
    """SimPO (Meng et al. 2024, arXiv 2405.14734) of mean log-probabilities `[N]`; there is no reference."""
    return -F.logsigmoid(beta * (chosen - rejected) - gamma)


def kto(ratios: Tensor, good: Tensor, kl: Tensor | float, beta: float = 0.1, weights: tuple = (1.0, 1.0)) -> Tensor:
    """Kahneman–Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306) of log-ratios `[N]` of single answers.

    good: bool `[N]`. kl: the mean log-ratio of answers to other prompts, not below 0; no gradient passes through it.
    weights: of good and of bad answers.
    """
    liked = weights[0] * (1 - torch.sigmoid(beta * (ratios - kl)))
    return torch.where(good, liked, weights[1] * (1 - torch.sigmoid(beta * (kl - ratios))))


def bradley_terry(chosen: Tensor, rejected: Tensor, centre: float = 0.0) -> Tensor:
    """The loss of rewards `[N]` of pairs (Ouyang et al. 2022, arXiv 2203.02155).

    centre: weight of the square of the pair's sum, which keeps rewards about 0 (Eisenstein et al. 2023).
    """
    return -F.logsigmoid(chosen - rejected) + centre * (chosen + rejected).square()
