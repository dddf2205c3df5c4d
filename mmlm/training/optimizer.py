"""Optimizers and the learning-rate schedule: which weights decay, and which learn at a rate of their own."""

from __future__ import annotations

import math
from collections.abc import Set
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from mmlm.model.lora import LowRank
from mmlm.training.config import TrainerConfig
from mmlm.training.muon import Muon


def make_optimizers(parameters: dict[str, Parameter], hidden: Set[Parameter], config: TrainerConfig) -> list[Optimizer]:
    """AdamW or Lion over parameters by name; with `optimizer="muon"`, AdamW, and Muon for those in `hidden`.

    hidden: the matrices of hidden layers, see `hidden_matrices`.
    A group's learning rate is the schedule's times its `lr_scale`.
    """
    groups: dict[tuple[bool, bool, bool], list[Parameter]] = {}
    matrices = []
    for name, parameter in parameters.items():
        if config.optimizer == "muon" and parameter in hidden and decays(name, parameter):
            matrices.append(parameter)
        else:
            in_parts = isinstance(parameter, DTensor)  # a fused step takes these and plain ones apart
            key = (decays(name, parameter), name.endswith("_gate"), in_parts)
            groups.setdefault(key, []).append(parameter)
    settings: list[dict[str, Any]] = [
        {
            "params": group,
            "weight_decay": config.weight_decay if decay else 0.0,
            "lr_scale": config.gate_learning_rate_scale if gate else 1.0,
        }
        for (decay, gate, _), group in groups.items()
    ]
    betas = (config.betas[0], config.betas[1])  # a recipe gives a list
    optimizers: list[Optimizer] = []
    if settings and config.optimizer == "lion":
        from timm.optim.lion import Lion  # slow to import

        optimizers.append(Lion(settings, config.learning_rate, betas=betas))
    elif settings:
        optimizers.append(AdamW(settings, config.learning_rate, betas=betas, fused=True))
    if matrices:
        group = [{"params": matrices, "lr_scale": 1.0}]
        optimizers.append(Muon(group, config.learning_rate, config.weight_decay))
    return optimizers


def hidden_matrices(module: nn.Module) -> set[Parameter]:
    """The weights of linear layers and of LoRA in a module.

    An embedding, or a head tied to one, is not among them: its rows belong to single tokens.
    """

    def weights(*kinds: type[nn.Module]) -> set[Parameter]:
        return {weight for part in module.modules() if isinstance(part, kinds) for weight in part.parameters()}

    return {weight for weight in weights(nn.Linear, LowRank) - weights(nn.Embedding) if weight.ndim == 2}


def decays(name: str, parameter: Parameter) -> bool:
    """Whether weight decay applies: to matrices, not to norms, biases, gates, latents and added rows."""
    return parameter.ndim >= 2 and not name.endswith("latents") and ".added." not in f".{name}"


def learning_rate(config: TrainerConfig, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps`.

    It rises linearly from `1/warmup` of the peak to the peak, then falls by a cosine towards
    `final_learning_rate_scale` times the peak, which it would reach one step after the last.
    """
    warmup = max(1, steps // 20) if config.warmup_steps is None else config.warmup_steps
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    floor = config.final_learning_rate_scale
    return config.learning_rate * (floor + (1 - floor) * cosine)
