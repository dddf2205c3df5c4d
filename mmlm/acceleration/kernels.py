"""Linear layers' products on a CPU, by weights packed once: reordered, and quantised if asked, for one kernel.

exact: torch gives float32 products to MKL, which computes a matrix times a vector on one core only and, on AMD's
processors, is slow for the thin matrices of a decode loop. oneDNN reorders the weights once and uses all cores.

For a few inputs, as in a decoding step, FBGEMM is faster still: float16 weights, float32 inputs and float32
accumulation (the fp16 kernel of torch's dynamic quantisation). A float32 weight is the sum of two float16 numbers, up
to float32's last bit. One float16 number is enough for weights that were float16 before, and for bfloat16.

fp16: FBGEMM's kernel for few inputs and for many, with one float16 number for each weight. It takes half the memory of
float32, keeps 11 significant bits, and changes a layer's output by about 0.02%.

int8: torch's dynamic quantisation. Weights take a quarter of the memory, with one scale for each row. Inputs are
quantised to 8 bits in each pass, with one scale for the whole batch, so the text of a row may depend on the other rows.
It changes a layer's output by about 1%. Inputs must be finite.

int4: torch's weight-only kernel, which multiplies in bfloat16. Weights take a sixth of the memory, with a scale and a
midpoint for each group of 32 weights in a row. It changes a layer's output by about 8%. Layers with sizes that the
kernel does not support use int8.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mmlm.acceleration.hardware import multiplies

# Without VNNI, sums of 8-bit products overflow 16 bits, so inputs are quantised to 7 bits.
REDUCE_RANGE = not torch.cpu._is_vnni_supported()
GROUP = 32  # weights of a row that share a scale in int4
HALVES = (torch.bfloat16, torch.float16)  # the 16-bit dtypes
EXPONENT = 15  # the weights of a row are scaled below 2¹⁵ before they are split into two float16 numbers

Weights = Literal["exact", "fp16", "int8", "int4"]
"""How a linear layer's weights are packed: with all their bits, or quantised."""
Product = Callable[[Tensor, Tensor | None], Tensor]
"""Inputs `[..., in]` and a bias `[out]` or None → `[..., out]`, in the dtype of the inputs."""


def available() -> bool:
    """Whether this build of torch has oneDNN's packed linear layers."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def has_fbgemm() -> bool:
    """Whether torch has FBGEMM's kernels on this processor. ARM processors do not."""
    return torch.backends.quantized.engine in ("x86", "fbgemm")


def packed_product(rows: Tensor, weights: Weights, few: bool) -> Product | None:
    """The product by the weights `rows [out, in]`, packed as `weights` says; None if no kernel supports them.

    few: whether it is for few inputs at once, or for many. Only "exact" uses different kernels for the two.
    """
    if weights == "exact":
        return _exact(rows, few)
    if weights == "fp16":
        return _fp16(rows) or _exact(rows, few=False)
    takes_int4 = rows.shape[0] % 16 == 0 and rows.shape[1] % GROUP == 0
    return _int4(rows.float()) if weights == "int4" and takes_int4 else _int8(rows.float())


def _exact(rows: Tensor, few: bool) -> Product | None:
    """Weights `[out, in]` unquantised: float32 up to its last bit, bfloat16 with all bits of at least 2⁻²⁴."""
    native = rows.dtype != torch.float16 and multiplies(rows.dtype)
    if few or not native:
        product = (_two_halves(rows) if rows.dtype == torch.float32 else None) or _fp16(rows)
        if product is not None or not native:
            return product
    packed = torch.ops.mkldnn._reorder_linear_weight(rows, None)

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        own = bias if bias is None else bias.to(packed.dtype)
        y = torch.ops.mkldnn._linear_pointwise.default(x.to(packed.dtype), packed, own, "none", [], "")
        return y.to(x.dtype)

    return multiply


def _fp16(rows: Tensor) -> Product | None:
    """Weights `[out, in]` as float16, 11 bits each; None beyond 65504, or if torch has no such kernel here."""
    if not has_fbgemm() or not rows.abs().amax() <= torch.finfo(torch.float16).max:
        return None
    packed = torch.ops.quantized.linear_prepack_fp16(rows.float(), None)

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        y = torch.ops.quantized.linear_dynamic_fp16.default(x.float(), packed)
        y = y if bias is None else y + bias
        return y.to(x.dtype)

    return multiply


def _two_halves(rows: Tensor) -> Product | None:
    """Weights `[out, in]` as sums of two float16 numbers; None if one is enough, or if torch has no such kernel here.

    Each row is scaled by a power of two, so that the second number is not too small for float16.
    """
    if not has_fbgemm() or not rows.isfinite().all() or torch.equal(rows.half().float(), rows):
        return None
    exponent = (EXPONENT - torch.frexp(rows.abs().amax(1))[1]).clamp(max=126)  # float32 can represent 2⁻¹²⁶, too
    scaled, inverse = torch.ldexp(rows, exponent[:, None]), torch.ldexp(torch.ones(len(rows)), -exponent)
    high = scaled.half().float()
    packed = torch.ops.quantized.linear_prepack_fp16(torch.cat([high, scaled - high], dim=1), None)

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        y = torch.ops.quantized.linear_dynamic_fp16.default(torch.cat((x, x), dim=-1), packed)
        return y * inverse if bias is None else torch.addcmul(bias, y, inverse)

    return multiply


def _int8(rows: Tensor) -> Product:
    """Weights `[out, in]` quantised to 8 bits, with one scale for each row."""
    scales = (rows.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny).double()
    zeros = torch.zeros(len(rows), dtype=torch.long)
    rounded = torch.quantize_per_channel(rows, scales, zeros, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(rounded, None)

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        y = torch.ops.quantized.linear_dynamic.default(x.float(), packed, REDUCE_RANGE).to(x.dtype)
        return y if bias is None else y + bias

    return multiply


def _int4(rows: Tensor) -> Product:
    """Weights `[out, in]` quantised to 4 bits, with a scale and a midpoint (the value of level 8) for each GROUP."""
    groups = rows.unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scales = ((high - low) / 15).clamp(min=torch.finfo(torch.bfloat16).tiny).bfloat16()
    midpoints = (low + 8 * scales.float()).bfloat16()
    levels = ((groups - midpoints.float()) / scales.float() + 8).round().clamp(0, 15).flatten(1).int()
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
    parameters = torch.cat([scales, midpoints], dim=-1).transpose(0, 1).contiguous()  # [in / GROUP, out, 2]

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).bfloat16().contiguous()
        y = torch.ops.aten._weight_int4pack_mm_for_cpu.default(flat, packed, GROUP, parameters)
        y = y.to(x.dtype).view(*x.shape[:-1], -1)
        return y if bias is None else y + bias

    return multiply
