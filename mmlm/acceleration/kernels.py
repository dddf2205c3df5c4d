"""Products of inputs with a weight that was packed once for the kernel that multiplies it, on a CPU.

torch hands float32 products to MKL, which gives a matrix times a vector to one core alone and, on AMD's processors, is
slow for the thin matrices of a decode loop. oneDNN reads weights once, in an order made for it, on all cores.

For a few inputs, as of a step of decoding, FBGEMM reads faster still: its weights are float16, its inputs and sums
float32 (torch's own dynamic quantisation). A float32 weight is the sum of two such, to float32's last bit; one is
enough for a layer whose weights were float16 before, and for bfloat16.

In fp16 there is FBGEMM's kernel alone, with one number a weight, for few inputs and many: half the bytes, each to 11
bits. That changes a layer's output by some 0.02%.

In int8 the weights of a layer are a quarter of the bytes, each row with a scale of its own, and the inputs of each pass
are rounded to 8 bits by one scale for all rows: torch's own dynamic quantisation. That changes results, by about 1% of
a layer's output, and a row's text may depend on what else is in its batch. Inputs have to be finite.

In int4 they are a sixth, each 32 weights of a row with a scale and a middle of their own, and products are those of
bfloat16: torch's own weight-only kernel. That changes a layer's output by some 8%. Layers whose sizes it does not take
compute in int8.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mmlm.acceleration.hardware import multiplies

# Without VNNI, sums of 8-bit products overflow 16 bits: then inputs get 7.
REDUCE_RANGE = not torch.cpu._is_vnni_supported()
GROUP = 32  # weights of a row that have one scale in int4
HALVES = (torch.bfloat16, torch.float16)
LARGEST = 15  # the power of two under which a row's weights lie that are sums of two float16

Weights = Literal["exact", "fp16", "int8", "int4"]
Product = Callable[[Tensor, Tensor | None], Tensor]  # of inputs [..., in] and a bias [out]: [..., out]


def available() -> bool:
    """Whether this build of torch has oneDNN's packed linear layers."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def has_fbgemm() -> bool:
    """Whether torch multiplies by FBGEMM's kernels: not on an ARM processor."""
    return torch.backends.quantized.engine in ("x86", "fbgemm")


def packed_product(rows: Tensor, weights: Weights, few: bool) -> Product | None:
    """What multiplies by weights [out, in], for few inputs or for many; None where there is no kernel for them."""
    if weights == "exact":
        return _exact(rows, few)
    if weights == "fp16":
        return _fp16(rows) or _exact(rows, few=False)
    takes_int4 = rows.shape[0] % 16 == 0 and rows.shape[1] % GROUP == 0
    return _int4(rows.float()) if weights == "int4" and takes_int4 else _int8(rows.float())


def _exact(rows: Tensor, few: bool) -> Product | None:
    """By weights [out, in] as they are, to the last bit of float32 or all bits of bfloat16 that are not under 2⁻²⁴."""
    native = rows.dtype != torch.float16 and multiplies(rows.dtype)
    if few or not native:
        product = (_two_halves(rows) if rows.dtype == torch.float32 else None) or _fp16(rows)
        if product is not None or not native:
            return product
    packed = torch.ops.mkldnn._reorder_linear_weight(rows, None)

    def product(x: Tensor, bias: Tensor | None) -> Tensor:
        own = bias if bias is None else bias.to(packed.dtype)
        y = torch.ops.mkldnn._linear_pointwise.default(x.to(packed.dtype), packed, own, "none", [], "")
        return y.to(x.dtype)

    return product


def _fp16(rows: Tensor) -> Product | None:
    """By weights [out, in] of 11 bits each; None beyond 65504, or where torch has no kernel."""
    if not has_fbgemm() or not rows.abs().amax() <= torch.finfo(torch.float16).max:
        return None
    packed = torch.ops.quantized.linear_prepack_fp16(rows.float(), None)

    def product(x: Tensor, bias: Tensor | None) -> Tensor:
        y = torch.ops.quantized.linear_dynamic_fp16.default(x.float(), packed)
        y = y if bias is None else y + bias
        return y.to(x.dtype)

    return product


def _two_halves(rows: Tensor) -> Product | None:
    """By weights [out, in] as sums of two of 11 bits; None where one is the whole, or where torch has no kernel.

    Each row is scaled by a power of two, so that what the first leaves is not too small for float16.
    """
    if not has_fbgemm() or not rows.isfinite().all() or torch.equal(rows.half().float(), rows):
        return None
    exponent = (LARGEST - torch.frexp(rows.abs().amax(1))[1]).clamp(max=126)  # of which float32 has the inverse, too
    scaled, inverse = torch.ldexp(rows, exponent[:, None]), torch.ldexp(torch.ones(len(rows)), -exponent)
    high = scaled.half().float()
    packed = torch.ops.quantized.linear_prepack_fp16(torch.cat([high, scaled - high], dim=1), None)

    def product(x: Tensor, bias: Tensor | None) -> Tensor:
        y = torch.ops.quantized.linear_dynamic_fp16.default(torch.cat((x, x), dim=-1), packed)
        return y * inverse if bias is None else torch.addcmul(bias, y, inverse)

    return product


def _int8(rows: Tensor) -> Product:
    """By weights [out, in] of 8 bits, each row with a scale."""
    scales = (rows.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny).double()
    zeros = torch.zeros(len(rows), dtype=torch.long)
    rounded = torch.quantize_per_channel(rows, scales, zeros, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(rounded, None)

    def product(x: Tensor, bias: Tensor | None) -> Tensor:
        y = torch.ops.quantized.linear_dynamic.default(x.float(), packed, REDUCE_RANGE).to(x.dtype)
        return y if bias is None else y + bias

    return product


def _int4(rows: Tensor) -> Product:
    """By weights [out, in] of 4 bits, each GROUP of a row with a scale, and with what stands for an 8."""
    groups = rows.unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scales = ((high - low) / 15).clamp(min=torch.finfo(torch.bfloat16).tiny).bfloat16()
    middles = (low + 8 * scales.float()).bfloat16()
    levels = ((groups - middles.float()) / scales.float() + 8).round().clamp(0, 15).flatten(1).int()
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
    kept = torch.cat([scales, middles], dim=-1).transpose(0, 1).contiguous()  # [in / GROUP, out, 2]

    def product(x: Tensor, bias: Tensor | None) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).bfloat16().contiguous()
        y = torch.ops.aten._weight_int4pack_mm_for_cpu.default(flat, packed, GROUP, kept)
        y = y.to(x.dtype).view(*x.shape[:-1], -1)
        return y if bias is None else y + bias

    return product
