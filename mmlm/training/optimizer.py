"""AdamW and its schedule: which weights decay, which learn at a rate of their own, and how the rate runs."""

from __future__ import annotations

import math

from torch.nn import Parameter
from torch.optim import AdamW

from .config import TrainConfig


def make_optimizer(parameters: dict[str, Parameter], config: TrainConfig) -> AdamW:
    """AdamW over the added parameters by name; each group's rate is to be the schedule's times its `lr_scale`."""
    groups: dict[tuple[bool, bool], list[Parameter]] = {}
    for name, parameter in parameters.items():
        groups.setdefault((decays(name, parameter), name.endswith("_gate")), []).append(parameter)
    settings = [
        {
            "params": group,
            "weight_decay": config.weight_decay if decay else 0.0,
            "lr_scale": config.gate_learning_rate_scale if gate else 1.0,
        }
        for (decay, gate), group in groups.items()
    ]
    return AdamW(settings, lr=config.learning_rate, betas=tuple(config.betas), fused=True)


def decays(name: str, parameter: Parameter) -> bool:
    """Whether weight decay applies: matrices of linear layers only, not norms, gates, latents and added rows."""
    return parameter.ndim >= 2 and not name.endswith("latents") and ".added." not in f".{name}"


def learning_rate(config: TrainConfig, step: int, steps: int, warmup: int) -> float:
    """Of step `step` (from 0): linear from `1/warmup` of the peak up to it, then a cosine that ends just above zero."""
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
