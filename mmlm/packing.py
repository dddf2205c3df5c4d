"""Linear layers by oneDNN, on packed copies of their weights, while a request runs on a CPU.

torch hands float32 products to MKL, which gives a matrix times a vector to one core alone and, on AMD's processors, is
slow for the thin matrices of a decode loop. oneDNN reads weights once, in an order made for it, on all cores. Sums are
taken in another order, so the last bits of a result differ; the texts do not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_active: ContextVar[bool] = ContextVar("mmlm_packed", default=False)


@contextmanager
def use_packed() -> Iterator[None]:
    """While open, in this thread, and without gradients: layers that were packed compute on their packed weights."""
    token = _active.set(True)
    try:
        yield
    finally:
        _active.reset(token)


def available() -> bool:
    """Whether this build of torch has oneDNN's packed linear layers."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def pack(root: nn.Module) -> None:
    """Lets every linear layer in `root` use a packed weight, which is made when first needed: a copy of its weights.

    The layers stay the modules they are, with the weights they have, and compute as ever outside `use_packed`.
    """
    for module in root.modules():
        if type(module).forward in (nn.Linear.forward, Conv1D.forward):
            module.forward = _PackedForward(module)


def unpack(root: nn.Module) -> None:
    """Takes back what `pack` did, and the memory."""
    for module in root.modules():
        if isinstance(vars(module).get("forward"), _PackedForward):
            del module.forward


class _PackedForward:
    """In place of one layer's `forward`; an object and no closure, so that a deep copy of a model has its own."""

    def __init__(self, layer: nn.Module):
        self.layer = layer
        self.source: Tensor | None = None  # what the packed weight was made of, kept so that its address stays its own
        self.version = -1
        self.packed: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        if not _active.get() or torch.is_grad_enabled():
            return type(layer).forward(layer, x)
        weight = layer._parameters["weight"]
        # Both, so that neither what writes into a weight nor what puts another in its place (`.to()`) is missed.
        if self.source is None or self.source.data_ptr() != weight.data_ptr() or self.version != weight._version:
            self.packed = _packed_weight(weight if isinstance(layer, nn.Linear) else weight.t())
            self.source, self.version = weight.detach(), weight._version
        if self.packed is None or x.dtype != weight.dtype:
            return type(layer).forward(layer, x)
        return torch.ops.mkldnn._linear_pointwise.default(x, self.packed, layer._parameters["bias"], "none", [], "")

    def __getstate__(self) -> dict:
        return vars(_PackedForward(self.layer))  # packed weights can be neither copied nor saved: they are made anew


def _packed_weight(weight: Tensor) -> Tensor | None:
    """The weight `[out, in]` in oneDNN's order; None where it has none for it."""
    plain = type(weight) in (nn.Parameter, Tensor) and weight.device.type == "cpu"
    if not plain or weight.dtype not in (torch.float32, torch.bfloat16):
        return None
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)
