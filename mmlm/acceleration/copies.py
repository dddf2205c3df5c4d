"""Copies of parameters, widened or packed for a kernel: made when first needed, and again if the parameter changed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmlm.acceleration.choosing import choose, rows_of
from mmlm.acceleration.kernels import HALVES, Product, Weights, kernels
from mmlm.acceleration.tape import unrecorded

active: ContextVar[bool] = ContextVar("mmlm_packed", default=False)


@contextmanager
def use_packed() -> Iterator[None]:
    """While open, in this thread, and without gradients: layers that were packed use their packed weights."""
    token = active.set(True)
    try:
        yield
    finally:
        active.reset(token)


def is_wide(x: Tensor, weight: Tensor) -> bool:
    """Whether inputs are float32 and the weight has 16 bits. Layers accept this while `use_packed` is open."""
    return x.dtype == torch.float32 and weight.dtype in HALVES and active.get()


@dataclass(frozen=True)
class _Kept:
    """Copies of one state of a parameter, by key."""

    source: Tensor  # what was copied; kept alive, so that no other tensor gets its address
    version: int
    made: dict[Any, Any] = field(default_factory=dict)

    def are_of(self, parameter: Tensor) -> bool:
        """Whether the copies are of this parameter: it was neither written to nor replaced, as `.to()` does."""
        source = self.source
        return (
            source.data_ptr() == parameter.data_ptr()
            and self.version == parameter._version
            and source.shape == parameter.shape
            and source.stride() == parameter.stride()
        )


class Copies:
    """Copies of a parameter by key, made when first needed, and made again if the parameter has changed.

    Threads may use them at once: what is read and replaced is one object, a state with its copies.
    """

    def __init__(self) -> None:
        self.kept: _Kept | None = None

    def forget(self, parameter: Tensor | None) -> None:
        """Drops the copies of a trained parameter: fused optimizers change it without counting the change."""
        if parameter is not None and parameter.requires_grad:
            self.kept = None

    def get(self, parameter: Tensor, key: Any, make: Callable[[Any], Any]) -> Any:
        """`make(key)`, or its earlier result if the parameter has not changed since."""
        kept = self.kept
        if kept is None or not kept.are_of(parameter):
            kept = self.kept = _Kept(parameter.detach(), parameter._version)
        if key not in kept.made:
            with unrecorded():
                kept.made[key] = make(key)
        return kept.made[key]

    def widened(self, parameter: Tensor | None) -> Tensor | None:
        """A float32 copy; it is not kept if there may be gradients, or if torch does not count changes."""
        if parameter is None:
            return None
        if torch.is_grad_enabled() or parameter.is_inference():
            return parameter.float()
        return self.get(parameter, torch.float32, parameter.to)

    def __getstate__(self) -> dict:
        # Packed weights can be neither copied nor pickled: they are made again.
        return vars(Copies())


class PackedWeight:
    """Packed copies of one weight, by kernel."""

    def __init__(self, weights: Weights, transposed: bool = False):
        self.weights: Weights = weights
        self.transposed = transposed
        self.products = Copies()  # by kernel, and by inputs: the product of the kernel chosen for them
        self.biases = Copies()

    def forget(self, weight: Tensor, bias: Tensor | None) -> None:
        """Drops the copies of trained parameters."""
        self.products.forget(weight)
        self.biases.forget(bias)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """x·Wᵀ + b (x·W + b if `transposed`); None where the layer's own forward is to compute it.

        That is outside `use_packed`, with gradients, and wherever it is the fastest.
        """
        if torch.is_grad_enabled():
            self.forget(weight, bias)
            return None
        counted = not weight.is_inference()  # torch counts no changes of tensors made in inference mode
        if not active.get() or torch.is_autocast_enabled("cpu") or not counted:
            return None
        inputs = weight.shape[0 if self.transposed else 1]
        wide = is_wide(x, weight)
        if not (wide or x.dtype == weight.dtype) or not x.numel() or x.shape[-1] != inputs:
            return None
        key = (x.dtype, rows_of(x.numel() // inputs))
        multiply = self.products.get(weight, key, lambda key: self._chosen(weight, bias, *key))
        if multiply is None:
            return None
        bias = self.biases.widened(bias) if wide else bias
        return multiply(x, bias) if x.ndim > 1 else multiply(x.unsqueeze(0), bias).squeeze(0)

    def rows(self, weight: Tensor) -> Tensor | None:
        """The weight `[out, in]`; None if it cannot be packed."""
        plain = type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.numel()
        if not plain or weight.dtype not in (torch.float32, *HALVES):
            return None
        return weight.detach().t() if self.transposed else weight.detach()

    def _chosen(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, rows: int) -> Product | None:
        """The product of the kernel that is chosen for these inputs; None for the layer's own forward."""
        packable = self.rows(weight)
        if packable is None:
            return None
        own = None if bias is None else bias.detach()
        name = choose([(packable, own)], self.weights, dtype, rows)
        if name == "torch":
            return None
        wide = dtype != weight.dtype
        kernel = next(kernel for kernel in kernels(packable, self.weights, wide) if kernel.name == name)
        return self.products.get(weight, name, lambda _: kernel.make(packable))
