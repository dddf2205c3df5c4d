"""Kernels for a linear layer's product on a CPU. `choosing.py` times those that fit a layer, and takes the fastest.

torch: the layer's own forward, which needs no copy of the weight. All others multiply by a packed copy.

onednn: torch gives float32 products to MKL, which on AMD's processors is slow for the thin matrices of a decode loop,
and multiplies by one vector on one core only. oneDNN reorders the weights once and uses all cores.

half, two halves: FBGEMM's kernel with float16 weights, float32 inputs and float32 accumulation (the fp16 kernel of
torch's dynamic quantisation). A float32 weight is the sum of two float16 numbers, up to float32's last bit. One is
enough for weights that were float16 before, and for bfloat16 with all bits of at least 2⁻²⁴.

float32, float32 onednn: a float32 copy of weights of 16 bits, for processors that only emulate arithmetic of 16 bits.

fp16: like "half", for any weights: they keep 11 significant bits, which changes a layer's output by about 0.02%.

int8: torch's dynamic quantisation. Weights take a quarter of the memory, with one scale for each row. Inputs are
quantised to 8 bits in each pass, with one scale for the whole batch, so the text of a row may depend on the other rows.
It changes a layer's output by about 1%. Inputs must be finite.

int4: torch's weight-only kernel, which multiplies in bfloat16. Weights take a sixth of the memory, with a scale and a
midpoint for each group of 32 weights in a row. It changes a layer's output by about 8%. Layers with sizes that the
kernel does not support use int8.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlm.acceleration.operators import answers, operator, operators

GROUP = 32  # weights of a row that share a scale in int4
HALVES = (torch.bfloat16, torch.float16)  # the 16-bit dtypes
EXPONENT = 15  # the weights of a row are scaled below 2¹⁵ before they are split into two float16 numbers

Weights = Literal["exact", "fp16", "int8", "int4"]
"""How a linear layer's weights are packed: with all their bits, or quantised."""
Product = Callable[[Tensor, Tensor | None], Tensor]
"""Inputs `[..., in]` and a bias `[out]` or None → `[..., out]`, in the dtype of the inputs."""


@dataclass(frozen=True)
class Kernel:
    """One way to compute a product. fits: whether it can pack the weights `rows [out, in]`; make: packs them."""

    name: str
    fits: Callable[[Tensor], bool]
    make: Callable[[Tensor], Product]


def has_onednn() -> bool:
    """Whether this build of torch has oneDNN's packed linear layers."""
    found = operators("mkldnn._reorder_linear_weight", "mkldnn._linear_pointwise")
    return torch.backends.mkldnn.is_available() and found is not None


def has_fbgemm() -> bool:
    """Whether torch has FBGEMM's kernels on this processor. ARM processors do not."""
    found = operators("quantized.linear_prepack_fp16", "quantized.linear_dynamic_fp16")
    return torch.backends.quantized.engine in ("x86", "fbgemm") and found is not None


def reduces_range() -> bool:
    """Whether int8 quantises inputs to 7 bits: without VNNI, sums of 8-bit products overflow 16 bits."""
    return not answers("_is_vnni_supported")


def kernels(rows: Tensor, weights: Weights, wide: bool) -> list[Kernel]:
    """The kernels that fit the weights `rows [out, in]`, packed as `weights` says.

    The first is preferred: others are taken only where they are clearly faster. For weights as they are, that is the
    layer's own forward, or for wide inputs (float32, of weights of 16 bits) the kernel that does not round them. For
    quantised weights it is the kernel that quantises them; beside it stands the layer's own forward alone.
    """
    if weights != "exact":
        quantised = next((kernel for kernel in QUANTISED[weights] if kernel.fits(rows)), None)
        if quantised is not None:
            return [quantised, TORCH]
    own = (HALF, *WIDER, TORCH, ONEDNN) if wide else (TORCH, ONEDNN, HALF, TWO_HALVES, *WIDER)
    return [kernel for kernel in own if kernel.fits(rows)]


def _own(rows: Tensor) -> Product:
    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        own = bias if bias is None else bias.to(rows.dtype)
        return F.linear(x.to(rows.dtype), rows, own).to(x.dtype)

    return multiply


def _takes_onednn(rows: Tensor) -> bool:
    name = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(rows.dtype)
    return has_onednn() and (name is None or answers(f"mkldnn._is_mkldnn_{name}_supported"))


def _onednn(rows: Tensor) -> Product:
    packed = _required("mkldnn._reorder_linear_weight")(rows.contiguous(), None)
    product = _required("mkldnn._linear_pointwise")

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        own = bias if bias is None else bias.to(packed.dtype)
        return product(x.to(packed.dtype), packed, own, "none", [], "").to(x.dtype)

    return multiply


def _takes_half(rows: Tensor) -> bool:
    return _takes_fp16(rows) and (rows.dtype != torch.float32 or torch.equal(rows.half().float(), rows))


def _takes_fp16(rows: Tensor) -> bool:
    return has_fbgemm() and bool(rows.abs().amax() <= torch.finfo(torch.float16).max)


def _fp16(rows: Tensor) -> Product:
    """By float16 weights, 11 bits each."""
    packed = _required("quantized.linear_prepack_fp16")(rows.float().contiguous(), None)
    product = _required("quantized.linear_dynamic_fp16")

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        y = product(x.float(), packed)
        y = y if bias is None else y + bias
        return y.to(x.dtype)

    return multiply


def _takes_two_halves(rows: Tensor) -> bool:
    return has_fbgemm() and rows.dtype == torch.float32 and bool(rows.isfinite().all()) and not _takes_half(rows)


def _two_halves(rows: Tensor) -> Product:
    """By sums of two float16 numbers. Each row is scaled by a power of two, so that the second is not too small."""
    exponent = (EXPONENT - torch.frexp(rows.abs().amax(1))[1]).clamp(max=126)  # float32 can represent 2⁻¹²⁶, too
    scaled, inverse = torch.ldexp(rows, exponent[:, None]), torch.ldexp(torch.ones(len(rows)), -exponent)
    high = scaled.half().float()
    packed = _required("quantized.linear_prepack_fp16")(torch.cat([high, scaled - high], dim=1), None)
    product = _required("quantized.linear_dynamic_fp16")

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        y = product(torch.cat((x, x), dim=-1), packed)
        return y * inverse if bias is None else torch.addcmul(bias, y, inverse)

    return multiply


def _takes_int8(rows: Tensor) -> bool:
    found = operators("quantized.linear_prepack", "quantized.linear_dynamic")
    quantises = found is not None and hasattr(torch, "quantize_per_channel")  # which newer versions call deprecated
    return torch.backends.quantized.engine != "none" and quantises and bool(rows.isfinite().all())


def _int8(rows: Tensor) -> Product:
    """By weights quantised to 8 bits, with one scale for each row."""
    rows = rows.float().contiguous()
    scales = (rows.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny).double()
    zeros = torch.zeros(len(rows), dtype=torch.long)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor, torch.quantize_per_channel", UserWarning)
        rounded = torch.quantize_per_channel(rows, scales, zeros, 0, torch.qint8)
    packed = _required("quantized.linear_prepack")(rounded, None)
    product, reduced = _required("quantized.linear_dynamic"), reduces_range()

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        y = product(x.float(), packed, reduced).to(x.dtype)
        return y if bias is None else y + bias

    return multiply


def _takes_int4(rows: Tensor) -> bool:
    found = operators("aten._convert_weight_to_int4pack_for_cpu", "aten._weight_int4pack_mm_for_cpu")
    sizes = rows.shape[0] % 16 == 0 and rows.shape[1] % GROUP == 0
    return found is not None and sizes and bool(rows.isfinite().all())


def _int4(rows: Tensor) -> Product:
    """By weights quantised to 4 bits, with a scale and a midpoint (the value of level 8) for each GROUP."""
    groups = rows.float().contiguous().unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scales = ((high - low) / 15).clamp(min=torch.finfo(torch.bfloat16).tiny).bfloat16()
    midpoints = (low + 8 * scales.float()).bfloat16()
    levels = ((groups - midpoints.float()) / scales.float() + 8).round().clamp(0, 15).flatten(1).int()
    packed = _required("aten._convert_weight_to_int4pack_for_cpu")(levels, 1)
    parameters = torch.cat([scales, midpoints], dim=-1).transpose(0, 1).contiguous()  # [in / GROUP, out, 2]
    product = _required("aten._weight_int4pack_mm_for_cpu")

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).bfloat16().contiguous()
        y = product(flat, packed, GROUP, parameters).to(x.dtype).view(*x.shape[:-1], -1)
        return y if bias is None else y + bias

    return multiply


def _required(name: str) -> Callable[..., Tensor]:
    """An operator of a kernel that fits."""
    found = operator(name)
    if found is None:
        raise RuntimeError(f"this version of torch has no operator {name}: unpack the model")
    return found


TORCH = Kernel("torch", lambda rows: True, _own)
ONEDNN = Kernel("onednn", _takes_onednn, _onednn)
HALF = Kernel("half", _takes_half, _fp16)
TWO_HALVES = Kernel("two halves", _takes_two_halves, _two_halves)
WIDER = (
    Kernel("float32", lambda rows: rows.dtype in HALVES, lambda rows: _own(rows.float())),
    Kernel("float32 onednn", lambda rows: rows.dtype in HALVES and has_onednn(), lambda rows: _onednn(rows.float())),
)
FP16, INT8, INT4 = (
    Kernel("fp16", _takes_fp16, _fp16),
    Kernel("int8", _takes_int8, _int8),
    Kernel("int4", _takes_int4, _int4),
)
QUANTISED = {"fp16": (FP16,), "int8": (INT8,), "int4": (INT4, INT8)}
