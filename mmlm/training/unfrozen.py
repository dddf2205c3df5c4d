"""A module while some of it trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.nn import Parameter


@contextmanager
def unfrozen(module: nn.Module, trained: Sequence[Parameter]) -> Iterator[None]:
    """Gradients for `trained` alone; afterwards modes and gradients are as they were before."""
    modes = [(part, part.training) for part in module.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        module.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in trained:
            parameter.grad = None
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)
        for part, training in modes:
            part.training = training
