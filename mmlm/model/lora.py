"""Low-rank adapters (Hu et al. 2021), of DoRA too (Liu et al. 2024), which act in the requests that ask for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mmlm.model.config import LoraConfig

AT_ONCE = 1024  # inputs of a layer whose weights are asked for


class LowRank(nn.Module):
    """What is added to the output of one linear layer: `[..., in]` → `[..., out]`, zero at initialisation.

    scale: of the output.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` → `[..., out]` of the same dtype, computed in the dtype of the adapter."""
        return F.linear(F.linear(x.to(self.down.dtype), self.down), self.up).to(x.dtype)

    def adapt(self, layer: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """The output `[..., out]` of a linear layer for inputs `[..., in]` → the adapted one."""
        return output + self.scale * self(x)


class Dora(LowRank):
    """A low-rank adapter that also scales each row of the adapted weight (Liu et al. 2024, arXiv 2402.09353).

    A row of W + scale · up · down is brought to the length of that row of W, times its entry of `magnitude`, which is 1
    at initialisation; so the layer then computes the same bits. The gradient takes the lengths as constants, as in the
    paper's section 4.3.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float) -> None:
        super().__init__(inputs, outputs, rank, scale)
        self.magnitude = nn.Parameter(torch.ones(outputs))
        self._lengths: Tensor | None = None  # of the rows of W, which is frozen
        self._ratio: Tensor | None = None  # kept while no weight changes
        self._ratio_of: tuple | None = None

    def adapt(self, layer: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        gain = self.magnitude * self._lengths_ratio(layer)
        product = output if (bias := _bias(layer)) is None else output - bias.to(output.dtype)
        return output + (gain - 1).to(output.dtype) * product + gain.to(output.dtype) * (self.scale * self(x))

    def _lengths_ratio(self, layer: nn.Module) -> Tensor:
        """The lengths `[out]` of the rows of the layer's weight, by those of the adapted weight."""
        # Changes by a fused optimizer are not counted, nor those of tensors of inference mode.
        uncounted = torch.is_grad_enabled() or self.up.is_inference()
        state = None if uncounted else tuple((own.data_ptr(), own._version) for own in (self.down, self.up))
        if self._ratio is None or state is None or state != self._ratio_of:
            found = self._computed(layer)
            if self._ratio is None or not torch.equal(found, self._ratio):  # a recorded step reads the old one
                self._ratio = found
            self._ratio_of = state
        return self._ratio

    @torch.no_grad()
    def _computed(self, layer: nn.Module) -> Tensor:
        """|W| / |W + sBA| by row: the square of the latter is |W|² + 2s (WAᵀ)·B + s² (BAAᵀ)·B."""
        down, up = self.down.float(), self.up.float()
        if self._lengths is None or self._lengths.device != up.device:
            self._lengths = row_lengths(layer, up)
        square, crossed = self._lengths.square(), _without_bias(layer, self.down).T.float()
        adapted = square + (2 * self.scale * crossed * up).sum(1) + ((up @ (down @ down.T)) * up).sum(1) * self.scale**2
        return (square / adapted).sqrt().to(self.down.dtype)


@torch.no_grad()
def row_lengths(layer: nn.Module, like: Tensor) -> Tensor:
    """The lengths `[out]` of the rows of a linear layer's weight W, in whatever form that is kept: by running it.

    like: a tensor of the dtype and the device that they get.
    """
    inputs = (linear_size(layer) or (0, 0))[0]
    parts = (_without_bias(layer, rows.to(like)) for rows in torch.eye(inputs).split(AT_ONCE))
    return torch.stack([part.float().square().sum(0) for part in parts]).sum(0).sqrt().to(like)


def _without_bias(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer's own product `[..., in]` → `[..., out]`, in which nobody's hooks take part."""
    own = next(layer.parameters(), x)  # quantised weights are integers, or no parameters
    output = layer.forward(x.to(own.dtype) if own.is_floating_point() else x)
    return output if (bias := _bias(layer)) is None else output - bias.to(output.dtype)


def _bias(layer: nn.Module) -> Tensor | None:
    bias: Any = getattr(layer, "bias", None)  # which torch's quantised layers give when they are called
    return cast("Tensor | None", bias() if callable(bias) else bias)


class LoraAdapters(nn.ModuleDict):
    """One `LowRank` or `Dora` for each linear layer inside the blocks that a config names, applied by forward hooks.

    The layers themselves are not changed. peft, in contrast, wraps the layers and switches its adapters for all threads
    at once; here `active()` is called in each pass and tells whether the adapters act in the current request, or bool
    `[B]`, in which of its rows. ValueError when the blocks hold no such layers, and where a layer is not given its rows
    one by one.
    """

    def __init__(self, blocks: nn.ModuleList, config: LoraConfig, active: Callable[[], bool | Tensor]) -> None:
        super().__init__()
        found: list[str] = []
        kind, wanted = Dora if config.dora else LowRank, config.layer_names
        for name, layer in blocks.named_modules():
            size = linear_size(layer)
            if size is None or any(name.startswith(f"{outer}.") for outer in found):
                continue
            found.append(name)
            if wanted and name.rpartition(".")[2] not in wanted:
                continue
            self[name.replace(".", "/")] = adapter = kind(*size, config.rank, config.alpha / config.rank)
            layer.register_forward_hook(_Hook(adapter, active))
        if not self:
            there = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in found)) or "none"
            raise ValueError(
                f"LoRA has no linear layers {config.layers} in the language model's blocks, which have: {there}; "
                "name others, or leave it out with lora=LoraConfig(rank=0)"
            )


def linear_size(layer: nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer, in whatever coat: quantised, or wrapped by peft; None for another layer."""
    if isinstance(layer, Conv1D):
        return layer.nx, layer.nf
    size = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    return size if isinstance(size[0], int) and isinstance(size[1], int) else None  # pyright: ignore[reportReturnType]


class _Hook:
    """Adapts the output of one layer; an object, not a closure, so that a deep copy of a model has its own hooks."""

    def __init__(self, adapter: LowRank, active: Callable[[], bool | Tensor]) -> None:
        self.adapter, self.active = adapter, active

    def __call__(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        acts = self.active()
        if acts is False:
            return output
        adapted = self.adapter.adapt(layer, args[0], output)
        if acts is True:
            return adapted
        if output.ndim != 3 or len(output) != len(acts):  # as in a mixture of experts
            raise ValueError("a layer gets the tokens of all rows in one: its adapter cannot act in some of the rows")
        return torch.where(acts.view(-1, 1, 1), adapted, output)
