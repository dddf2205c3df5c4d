"""Low-rank adapters (Hu et al. 2021) that act only while a request writes codes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


class LowRank(nn.Module):
    """What is added to the output of one linear layer: `[..., in]` → `[..., out]`, zero at initialisation."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` → `[..., out]` of the same dtype, computed in the dtype of the adapter."""
        return F.linear(F.linear(x.to(self.down.dtype), self.down), self.up).to(x.dtype)


class LoraAdapters(nn.ModuleDict):
    """One `LowRank` for each linear layer inside the blocks, applied by forward hooks.

    The layers themselves are not changed. peft, in contrast, wraps the layers and switches its adapters for all threads
    at once; here `active()` is called in each pass and tells whether the adapters act in the current request.
    ValueError when the blocks hold no linear layers.
    """

    def __init__(self, blocks: nn.ModuleList, rank: int, alpha: float, active: Callable[[], bool]) -> None:
        super().__init__()
        found: list[str] = []
        for name, layer in blocks.named_modules():
            size = linear_size(layer)
            if size is None or any(name.startswith(f"{outer}.") for outer in found):
                continue
            found.append(name)
            self[name.replace(".", "/")] = adapter = LowRank(*size, rank)
            layer.register_forward_hook(_Hook(adapter, alpha / rank, active))
        if not found:
            raise ValueError(
                "the language model's blocks have no linear layers for LoRA: leave it out with lora=LoraConfig(rank=0)"
            )


def linear_size(layer: nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer, in whatever coat: quantised, or wrapped by peft; None for another layer."""
    if isinstance(layer, Conv1D):
        return layer.nx, layer.nf
    size = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    return size if isinstance(size[0], int) and isinstance(size[1], int) else None  # pyright: ignore[reportReturnType]


class _Hook:
    """Adds the output of one adapter; an object, not a closure, so that a deep copy of a model has its own hooks."""

    def __init__(self, adapter: LowRank, scale: float, active: Callable[[], bool]) -> None:
        self.adapter, self.scale, self.active = adapter, scale, active

    def __call__(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + self.scale * self.adapter(args[0]) if self.active() else output
