"""Noise levels t of rectified flow (Liu et al. 2022), x_t = (1 − t) · x + t · noise, and sampling from t = 1 to 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler  # pyright: ignore[reportPrivateImportUsage]  # it is public
from torch import Tensor

TIMESTEPS = 1000  # diffusers counts noise levels 0..1 in thousandths


def training_levels(uniform: Tensor, draw: torch.Generator) -> Tensor:
    """Noise levels [B] for training: sigmoid(N(0, 1)), and one time in ten the given uniform level [B] (FlowMo)."""
    return torch.where(
        torch.rand(len(uniform), generator=draw) < 0.1, uniform, torch.randn(len(uniform), generator=draw).sigmoid()
    )


def noisy(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t of clean values [B, C, H, W] and noise of the same shape, at levels t [B]."""
    t = t.view(-1, 1, 1, 1)
    return (1 - t) * clean + t * noise


def sample(
    predict: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int, after_step: Callable[[int, Tensor], None]
) -> Tensor:
    """Noise [B, C, H, W] → clean values of the same shape, in `steps` Euler steps of equal size.

    predict: noisy values and their levels t [B] → clean values. after_step: called with the number of the step, from
    1, and the clean values predicted in it.
    """
    scheduler: Any = FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIMESTEPS)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps))
    x = noise
    for step, (timestep, sigma) in enumerate(zip(scheduler.timesteps, scheduler.sigmas[:-1], strict=True), start=1):
        clean = predict(x, sigma.expand(len(x)).to(x))
        after_step(step, clean)
        x = scheduler.step((x - clean) / sigma, timestep, x).prev_sample
    return x
