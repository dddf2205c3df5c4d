"""Linear layers by oneDNN, on packed copies of their weights, while a request runs on a CPU.

torch hands float32 products to MKL, which gives a matrix times a vector to one core alone and, on AMD's processors, is
slow for the thin matrices of a decode loop. oneDNN reads weights once, in an order made for it, on all cores. Sums are
taken in another order, so the last bits of a result differ; the texts do not.

In int8 the weights of a layer are a quarter of the bytes, each row with a scale of its own, and the inputs of each pass
are rounded to 8 bits by one scale for all rows: torch's own dynamic quantisation. That changes results, by about 1% of
a layer's output, and a row's text may depend on what else is in its batch.

In int4 they are a sixth, each 32 weights of a row with a scale and a middle of their own, and products are those of
bfloat16: torch's own weight-only kernel. That changes a layer's output by some 8%. Layers whose sizes it does not take
compute in int8.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Without VNNI, sums of 8-bit products overflow 16 bits: then inputs get 7.
REDUCE_RANGE = not torch.cpu._is_vnni_supported()
GROUP = 32  # weights of a row that have one scale in int4
# Whose `forward` is x·Wᵀ + b and no more, by name: to ask is no reason to import transformers or whisper.
LINEAR = (
    "torch.nn.modules.linear.Linear.forward",
    "transformers.pytorch_utils.Conv1D.forward",
    "whisper.model.Linear.forward",
)

Weights = Literal["exact", "int8", "int4"]

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


def pack(root: nn.Module, weights: Weights = "exact") -> None:
    """Lets every linear layer in `root` use a packed weight, which is made when first needed: a copy of its weights.

    ValueError for weights that there are not. The layers stay the modules they are, with the weights they have, and
    compute as ever outside `use_packed`. A layer whose `forward` somebody else has set (accelerate does, to move
    weights about) is left to them. Those inside of torch's own attention are always "exact". What is written into a
    weight through `.data` is not noticed: pack again then.
    """
    if weights not in get_args(Weights):
        raise ValueError(f"packed weights are {', '.join(get_args(Weights))}, not {weights!r}")
    unpack(root)
    for module in root.modules():
        if "forward" in vars(module):
            continue
        if _is_linear(module):
            module.forward = _PackedLinear(module, weights)
        elif _is_self_attention(module):
            module.forward = _PackedAttention(module)


def unpack(root: nn.Module) -> None:
    """Takes back what `pack` did, and the memory."""
    for module in root.modules():
        if isinstance(vars(module).get("forward"), (_PackedLinear, _PackedAttention)):
            del module.forward


def _is_linear(module: nn.Module) -> bool:
    forward = type(module).forward
    weight = module._parameters.get("weight")  # None where it is computed, as by torch's parametrizations
    plain = f"{forward.__module__}.{forward.__qualname__}" in LINEAR
    return plain and weight is not None and not weight.is_inference()  # whose changes nobody counts


def _is_self_attention(module: nn.Module) -> bool:
    """Whether it is torch's attention, which computes its linear layers itself, as open_clip's towers use it."""
    return (
        type(module).forward is nn.MultiheadAttention.forward
        and module.batch_first
        and (weight := module._parameters.get("in_proj_weight")) is not None  # None where inputs differ in width
        and not weight.is_inference()
        and module.bias_k is None
        and not module.add_zero_attn
    )


# What stands in place of a layer's `forward` is an object and no closure, so that a deep copy of a model has its own.


class _PackedLinear:
    """x·Wᵀ + b, by the packed weight where there is one."""

    def __init__(self, layer: nn.Module, weights: Weights):
        self.layer = layer
        self.transposed = not isinstance(layer, nn.Linear)  # Conv1D's weight is [in, out]
        self.weight = _PackedWeight("int8" if weights == "int4" and not _int4_takes(layer) else weights)

    def __call__(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        own = self.layer._parameters
        y = None
        if len(args) == 1 and not kwargs and own.get("weight") is not None:  # pruning, for one, takes it away later
            y = self.weight.product(*args, own["weight"], own["bias"], self.transposed)
        return type(self.layer).forward(self.layer, *args, **kwargs) if y is None else y


class _PackedAttention:
    """torch.nn.MultiheadAttention of one input with itself, without a mask; all else by its own forward."""

    def __init__(self, layer: nn.MultiheadAttention):
        self.layer = layer
        self.inward, self.outward = _PackedWeight("exact"), _PackedWeight("exact")

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, **options: Any,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        unmasked = key_padding_mask is attn_mask is None and not options.get("is_causal")
        if query is key is value and query.ndim == 3 and unmasked and not need_weights:
            y = self._attend(query)
            if y is not None:
                return y, None
        return type(self.layer).forward(
            self.layer, query, key, value, key_padding_mask, need_weights, attn_mask, **options
        )

    def _attend(self, x: Tensor) -> Tensor | None:
        """Inputs [B, T, D] → [B, T, D]; None where a weight is not packed."""
        layer = self.layer
        projected = None if layer.training else self.inward.product(x, layer.in_proj_weight, layer.in_proj_bias)
        if projected is None:
            return None
        query, key, value = projected.unflatten(-1, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, T, D / H]
        y = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.outward.product(y, layer.out_proj.weight, layer.out_proj.bias)


class _PackedWeight:
    """A copy of a weight in its kernel's order, made when first needed, and anew when the weight has changed."""

    def __init__(self, weights: Weights):
        self.weights = weights
        self.source: Tensor | None = None  # what the copy was made of, kept so that its address stays its own
        self.version = -1
        self.packed: Any = None

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool = False) -> Tensor | None:
        """x·Wᵀ + b (x·W + b if `transposed`); None outside of `use_packed`, with gradients, or without a kernel."""
        if torch.is_grad_enabled():
            if weight.requires_grad:  # what trains it may change it unseen, as fused optimizers do
                self.source = self.packed = None
            return None
        if not _active.get() or torch.is_autocast_enabled("cpu"):
            return None
        if not self._is_of(weight):
            self.packed = self._pack(weight, transposed)
            self.source, self.version = weight.detach(), weight._version
        packed, inputs = self.packed, weight.shape[0 if transposed else 1]  # which another thread may be dropping
        if packed is None or x.dtype != weight.dtype or not x.numel() or x.shape[-1] != inputs:
            return None
        if self.weights == "exact":
            return torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, "none", [], "")
        if self.weights == "int8":
            y = torch.ops.quantized.linear_dynamic.default(x.float(), packed, REDUCE_RANGE).to(x.dtype)
        else:
            rows = x.reshape(-1, x.shape[-1]).bfloat16().contiguous()
            y = torch.ops.aten._weight_int4pack_mm_for_cpu.default(rows, packed[0], GROUP, packed[1])
            y = y.to(x.dtype).view(*x.shape[:-1], -1)
        return y if bias is None else y + bias

    def _is_of(self, weight: Tensor) -> bool:
        """Whether the copy is still that of the weight: neither written into nor exchanged, as `.to()` does."""
        source = self.source
        return (
            source is not None
            and source.data_ptr() == weight.data_ptr()
            and self.version == weight._version
            and source.shape == weight.shape
            and source.stride() == weight.stride()
        )

    def _pack(self, weight: Tensor, transposed: bool) -> Any:
        """The weight in the order, or of the kind, that its kernel reads; None where there is none for it."""
        plain = type(weight) is nn.Parameter and weight.device.type == "cpu"
        if not plain or weight.dtype not in (torch.float32, torch.bfloat16):
            return None
        rows = weight.detach().t().contiguous() if transposed else weight.detach().contiguous()  # [out, in]
        if self.weights == "exact":
            computed = rows.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
            return torch.ops.mkldnn._reorder_linear_weight(rows, None) if computed else None
        rows = rows.float()
        if self.weights == "int4":
            return _int4(rows)
        scales = (rows.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny).double()
        zeros = torch.zeros(len(rows), dtype=torch.long)
        return torch.ops.quantized.linear_prepack(torch.quantize_per_channel(rows, scales, zeros, 0, torch.qint8), None)

    def __getstate__(self) -> dict:
        # Packed weights can be neither copied nor saved: they are made anew.
        return vars(_PackedWeight(self.weights))


def _int4_takes(layer: nn.Module) -> bool:
    out, inputs = layer.weight.shape if isinstance(layer, nn.Linear) else layer.weight.shape[::-1]
    return out % 16 == 0 and inputs % GROUP == 0


def _int4(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [out, in] as the kernel's: packed, and [in / GROUP, out, 2] of scales and of what stands for an 8."""
    groups = rows.unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scales = ((high - low) / 15).clamp(min=torch.finfo(torch.bfloat16).tiny).bfloat16()
    middles = (low + 8 * scales.float()).bfloat16()
    levels = ((groups - middles.float()) / scales.float() + 8).round().clamp(0, 15).flatten(1).int()
    kept = torch.cat([scales, middles], dim=-1).transpose(0, 1).contiguous()
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1), kept
