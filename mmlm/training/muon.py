"""Muon (Jordan et al. 2024): each matrix moves by its momentum, made orthogonal by five Newton-Schulz steps.

As `torch.optim.Muon` with `match_rms_adamw`, but for two things. torch computes the steps in bfloat16 everywhere, and a
processor without such multiplication takes twenty times as long for them as in float32; here the hardware decides.
And where processes have parts of a matrix, one after another is gathered, changed and split again: what Muon does to a
part depends on all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from mmlm.acceleration.hardware import multiplies
from mmlm.training.dtensors import full, split_like

MOMENTUM = 0.95
STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic, steepest at zero
LEAST_NORM = 1e-7
SIZE = 0.2  # root mean square of an update at a learning rate of 1, as AdamW's usually have


class Muon(Optimizer):
    """Of matrices [M, N] alone, plain ones or torch's DTensor. groups: torch's parameter groups.

    A learning rate of AdamW serves as it is: updates are as large as AdamW's (Liu et al. 2025).
    """

    def __init__(self, groups: Sequence[dict], lr: float, weight_decay: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Changes the matrices; all processes call it together."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._change(matrix, matrix.grad, group["lr"], group["weight_decay"])

    def _change(self, matrix: Parameter, gradient: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"]
        momentum.lerp_(gradient, 1 - MOMENTUM)
        update = orthogonal(full(gradient.lerp(momentum, MOMENTUM)))
        matrix.mul_(1 - lr * weight_decay)
        matrix.add_(split_like(update, matrix), alpha=-lr * SIZE * math.sqrt(max(matrix.shape)))


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest orthogonal matrix [M, N]: singular values become 0.7 to 1.2, the very smallest less."""
    first, second, third = COEFFICIENTS
    dtype = torch.bfloat16 if multiplies(torch.bfloat16, matrix.device) else torch.float32
    tall = matrix.size(0) > matrix.size(1)
    found = (matrix.T if tall else matrix).to(dtype)
    found = found / found.norm().clamp(min=LEAST_NORM)
    for _ in range(STEPS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=second, alpha=third), found, beta=first)
    return (found.T if tall else found).to(matrix.dtype)
