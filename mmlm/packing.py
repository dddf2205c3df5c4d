"""Linear layers by oneDNN, on packed copies of their weights, while a request runs on a CPU.

torch hands float32 products to MKL, which gives a matrix times a vector to one core alone and, on AMD's processors, is
slow for the thin matrices of a decode loop. oneDNN reads weights once, in an order made for it, on all cores. Sums are
taken in another order, so the last bits of a result differ; the texts do not.

In int8 the weights of a layer are a quarter of the bytes, each row with a scale of its own, and the inputs of each pass
are rounded to 8 bits by one scale for all rows: torch's own dynamic quantisation. That changes results, by about 1% of
a layer's output, and a row's text may depend on what else is in its batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

# Without VNNI, sums of 8-bit products overflow 16 bits: then inputs get 7.
REDUCE_RANGE = not torch.cpu._is_vnni_supported()

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


def pack(root: nn.Module, int8: bool = False) -> None:
    """Lets every linear layer in `root` use a packed weight, which is made when first needed: a copy of its weights.

    The layers stay the modules they are, with the weights they have, and compute as ever outside `use_packed`. A layer
    whose `forward` somebody else has set (accelerate does, to move weights about) is left to them.
    """
    unpack(root)
    for module in root.modules():
        if _packable(module):
            module.forward = _PackedForward(module, int8)


def unpack(root: nn.Module) -> None:
    """Takes back what `pack` did, and the memory."""
    for module in root.modules():
        if isinstance(vars(module).get("forward"), _PackedForward):
            del module.forward


def _packable(module: nn.Module) -> bool:
    linear = type(module).forward in (nn.Linear.forward, Conv1D.forward) and "forward" not in vars(module)
    weight = module._parameters.get("weight")  # None where it is computed, as by torch's parametrizations
    return linear and weight is not None and not weight.is_inference()  # whose changes nobody counts


class _PackedForward:
    """In place of one layer's `forward`; an object and no closure, so that a deep copy of a model has its own."""

    def __init__(self, layer: nn.Module, int8: bool):
        self.layer, self.int8 = layer, int8
        self.source: Tensor | None = None  # what the packed weight was made of, kept so that its address stays its own
        self.version = -1
        self.packed: Any = None

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        if not _active.get() or torch.is_grad_enabled():
            return type(layer).forward(layer, x)
        weight, bias = layer._parameters["weight"], layer._parameters["bias"]
        # Both, so that neither what writes into a weight nor what puts another in its place (`.to()`) is missed.
        if self.source is None or self.source.data_ptr() != weight.data_ptr() or self.version != weight._version:
            self.packed = self._pack(weight.detach())
            self.source, self.version = weight.detach(), weight._version
        if self.packed is None or x.dtype != weight.dtype or not x.numel():
            return type(layer).forward(layer, x)
        if not self.int8:
            return torch.ops.mkldnn._linear_pointwise.default(x, self.packed, bias, "none", [], "")
        y = torch.ops.quantized.linear_dynamic.default(x.float(), self.packed, REDUCE_RANGE).to(x.dtype)
        return y if bias is None else y + bias

    def _pack(self, weight: Tensor) -> Any:
        """The layer's weight in the order, or of the kind, that its kernel reads; None where there is none for it."""
        plain = type(self.layer._parameters["weight"]) is nn.Parameter and weight.device.type == "cpu"
        if not plain or weight.dtype not in (torch.float32, torch.bfloat16):
            return None
        rows = weight.contiguous() if isinstance(self.layer, nn.Linear) else weight.t().contiguous()  # [out, in]
        if not self.int8:
            computed = rows.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
            return torch.ops.mkldnn._reorder_linear_weight(rows, None) if computed else None
        rows = rows.float()
        scales = (rows.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny).double()
        zeros = torch.zeros(len(rows), dtype=torch.long)
        return torch.ops.quantized.linear_prepack(torch.quantize_per_channel(rows, scales, zeros, 0, torch.qint8), None)

    def __getstate__(self) -> dict:
        # Packed weights can be neither copied nor saved: they are made anew.
        return vars(_PackedForward(self.layer, self.int8))
