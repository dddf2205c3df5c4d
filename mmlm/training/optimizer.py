"""Optimizers and their schedule: which weights decay, which learn at a rate of their own, and how the rate runs."""

from __future__ import annotations

import math

from torch.nn import Parameter
from torch.optim import AdamW, Muon, Optimizer

from mmlm.training.config import TrainConfig


def make_optimizers(parameters: dict[str, Parameter], config: TrainConfig) -> list[Optimizer]:
    """AdamW over the added parameters by name; with `optimizer="muon"`, Muon over the matrices that decay instead.

    Each group's rate is to be the schedule's times its `lr_scale`.
    """
    groups: dict[tuple[bool, bool], list[Parameter]] = {}
    for name, parameter in parameters.items():
        groups.setdefault((decays(name, parameter), name.endswith("_gate")), []).append(parameter)
    matrices = groups.pop((True, False), []) if config.optimizer == "muon" else []
    settings = [
        {
            "params": group,
            "weight_decay": config.weight_decay if decay else 0.0,
            "lr_scale": config.gate_learning_rate_scale if gate else 1.0,
        }
        for (decay, gate), group in groups.items()
    ]
    optimizers: list[Optimizer] = [AdamW(settings, config.learning_rate, betas=tuple(config.betas), fused=True)]
    if matrices:
        optimizers.append(muon(matrices, config.learning_rate, config.weight_decay))
    return optimizers


def muon(matrices: list[Parameter], learning_rate: float, weight_decay: float) -> Muon:
    """Muon (Jordan et al. 2024), its updates as large as AdamW's (Liu et al. 2025), so that one rate serves both."""
    groups = [{"params": matrices, "lr_scale": 1.0}]
    return Muon(groups, learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")


def decays(name: str, parameter: Parameter) -> bool:
    """Whether weight decay applies: matrices of linear layers only, not norms, gates, latents and added rows."""
    return parameter.ndim >= 2 and not name.endswith("latents") and ".added." not in f".{name}"


def learning_rate(config: TrainConfig, step: int, steps: int, warmup: int) -> float:
    """Of step `step` (from 0): linear from `1/warmup` of the peak up to it, then a cosine that ends just above zero."""
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
