"""Linear layers on packed copies of their weights, for few inputs and for many, while a request runs on a CPU.

torch hands float32 products to MKL, which gives a matrix times a vector to one core alone and, on AMD's processors, is
slow for the thin matrices of a decode loop. oneDNN reads weights once, in an order made for it, on all cores. Sums are
taken in another order, so the last bits of a result differ; the texts do not.

For a few inputs, as of a step of decoding, FBGEMM reads faster still: its weights are float16, its inputs and sums
float32 (torch's own dynamic quantisation). A float32 weight is the sum of two such, to float32's last bit; one is
enough for a layer whose weights were float16 before, and for bfloat16. So exact weights have two copies, one for few
inputs and one for many, each made when first needed.

In fp16 there is the first of the two alone, for few inputs and many: half the bytes, each to 11 bits. That changes a
layer's output by some 0.02%.

In int8 the weights of a layer are a quarter of the bytes, each row with a scale of its own, and the inputs of each pass
are rounded to 8 bits by one scale for all rows: torch's own dynamic quantisation. That changes results, by about 1% of
a layer's output, and a row's text may depend on what else is in its batch. Inputs have to be finite.

In int4 they are a sixth, each 32 weights of a row with a scale and a middle of their own, and products are those of
bfloat16: torch's own weight-only kernel. That changes a layer's output by some 8%. Layers whose sizes it does not take
compute in int8.

Layers with weights of 16 bits take float32 inputs, too, while a request runs. Layers of normalization do by copies of
their weights, which is all that they are packed for.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Without VNNI, sums of 8-bit products overflow 16 bits: then inputs get 7.
REDUCE_RANGE = not torch.cpu._is_vnni_supported()
GROUP = 32  # weights of a row that have one scale in int4
HALVES = (torch.bfloat16, torch.float16)
LARGEST = 15  # the power of two under which a row's weights lie that are sums of two float16
FEW = 4  # inputs at once, up to which a product of twice as many in float16 takes less time than oneDNN's
# Whose `forward` is x·Wᵀ + b and no more, by name: to ask is no reason to import transformers or whisper.
LINEAR = (
    "torch.nn.modules.linear.Linear.forward",
    "transformers.pytorch_utils.Conv1D.forward",
    "whisper.model.Linear.forward",
)

Weights = Literal["exact", "fp16", "int8", "int4"]
Product = Callable[[Tensor, Tensor | None], Tensor]  # of inputs [..., in] and a bias [out]: [..., out]

_active: ContextVar[bool] = ContextVar("mmlm_packed", default=False)


@contextmanager
def use_packed() -> Iterator[None]:
    """While open, in this thread, and without gradients: layers that were packed compute on their packed weights."""
    token = _active.set(True)
    try:
        yield
    finally:
        _active.reset(token)


def is_wide(x: Tensor, weight: Tensor) -> bool:
    """Whether inputs are float32 and a weight has 16 bits, which layers take while `use_packed` is open."""
    return x.dtype == torch.float32 and weight.dtype in HALVES and _active.get()


def available() -> bool:
    """Whether this build of torch has oneDNN's packed linear layers."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def has_fbgemm() -> bool:
    """Whether torch multiplies by FBGEMM's kernels: not on an ARM processor."""
    return torch.backends.quantized.engine in ("x86", "fbgemm")


def pack(root: nn.Module, weights: Weights = "exact") -> None:
    """Lets every linear layer in `root` use a packed weight, which is made when first needed: a copy of its weights.

    ValueError for weights that there are not. The layers stay the modules they are, with the weights they have, and
    compute as ever outside `use_packed`. A layer whose `forward` somebody else has set (accelerate does, to move
    weights about) is left to them. A weight that changes is packed anew, but for changes that torch does not count:
    through `.data`, or by a fused optimizer that trains it as part of another layer (an embedding that is tied to it).
    Pack again then.
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
            module.forward = _PackedAttention(module, weights)
        elif type(module).forward is nn.LayerNorm.forward:
            module.forward = _WideNorm(module)
        elif type(module).forward in (nn.Conv1d.forward, nn.Conv2d.forward):
            module.forward = _WideConvolution(module)


def unpack(root: nn.Module) -> None:
    """Takes back what `pack` did, and the memory."""
    for module in root.modules():
        if isinstance(vars(module).get("forward"), PACKED):
            del module.forward


def _multiplies(dtype: torch.dtype) -> bool:
    """Whether the processor has oneDNN's products of a type."""
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32 or (dtype == torch.float16 and torch.ops.mkldnn._is_mkldnn_fp16_supported())


def _is_linear(module: nn.Module) -> bool:
    forward = type(module).forward
    weight = module._parameters.get("weight")  # None where it is computed, as by torch's parametrizations
    return f"{forward.__module__}.{forward.__qualname__}" in LINEAR and weight is not None


def _is_self_attention(module: nn.Module) -> bool:
    """Whether it is torch's attention, which computes its linear layers itself, as open_clip's towers use it."""
    return (
        type(module).forward is nn.MultiheadAttention.forward
        and module.batch_first
        and module._parameters.get("in_proj_weight") is not None  # as where inputs differ in width
        and module.bias_k is None
        and not module.add_zero_attn
    )


# What stands in place of a layer's `forward` is an object and no closure, so that a deep copy of a model has its own.


class _PackedLinear:
    """x·Wᵀ + b, by the packed weight where there is one."""

    def __init__(self, layer: nn.Module, weights: Weights):
        self.layer = layer
        self.weight = _PackedWeight(weights, transposed=not isinstance(layer, nn.Linear))  # Conv1D's is [in, out]

    def __call__(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        own, y = self.layer._parameters, None
        # Pruning, for one, takes a parameter away later.
        if len(args) == 1 and not kwargs and own.get("weight") is not None and "bias" in own:
            y = self.weight.product(*args, own["weight"], own["bias"])
        return self._plain(*args, **kwargs) if y is None else y

    def _plain(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        """By the layer's own forward, which takes wider inputs rounded."""
        forward, weight = type(self.layer).forward, self.layer.weight
        if not any(is_wide(x, weight) for x in (*args, *kwargs.values())):
            return forward(self.layer, *args, **kwargs)
        narrow = {name: x.to(weight.dtype) for name, x in kwargs.items()}
        return forward(self.layer, *(x.to(weight.dtype) for x in args), **narrow).float()


class _PackedAttention:
    """torch.nn.MultiheadAttention of one input with itself, without a mask; all else by its own forward."""

    def __init__(self, layer: nn.MultiheadAttention, weights: Weights):
        self.layer = layer
        self.inward, self.outward = _PackedWeight(weights), _PackedWeight(weights)

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, **options: Any,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        layer = self.layer
        if torch.is_grad_enabled():
            self.inward.forget(layer.in_proj_weight, layer.in_proj_bias)
            self.outward.forget(layer.out_proj.weight, layer.out_proj.bias)
        unmasked = key_padding_mask is attn_mask is None and not options.get("is_causal")
        if query is key is value and query.ndim == 3 and unmasked and not need_weights and not layer.training:
            y = self._attend(query)
            if y is not None:
                return y, None
        return type(layer).forward(layer, query, key, value, key_padding_mask, need_weights, attn_mask, **options)

    def _attend(self, x: Tensor) -> Tensor | None:
        """Inputs [B, T, D] → [B, T, D]; None where a weight is not packed."""
        layer = self.layer
        projected = self.inward.product(x, layer.in_proj_weight, layer.in_proj_bias)
        if projected is None:
            return None
        query, key, value = projected.unflatten(-1, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, T, D / H]
        y = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.outward.product(y, layer.out_proj.weight, layer.out_proj.bias)


class _WideNorm:
    """torch.nn.LayerNorm of inputs that are wider than its weights, by copies as wide; all else by its own forward."""

    def __init__(self, layer: nn.LayerNorm):
        self.layer = layer
        self.weight, self.bias = _Copies(), _Copies()

    def __call__(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        layer = self.layer
        if torch.is_grad_enabled():
            self.weight.forget(layer.weight)
            self.bias.forget(layer.bias)
        if layer.weight is None or len(args) != 1 or kwargs or not is_wide(args[0], layer.weight):
            return type(layer).forward(layer, *args, **kwargs)
        weight, bias = self.weight.widened(layer.weight), self.bias.widened(layer.bias)
        return F.layer_norm(args[0], layer.normalized_shape, weight, bias, layer.eps)


class _WideConvolution:
    """A convolution in 16 bits by float32's kernel, where the processor multiplies no 16 bits; all else as ever.

    Without oneDNN's kernels torch convolves in loops, and a picture's patches took most of its encoder's time.
    """

    def __init__(self, layer: nn.Module):
        self.layer = layer

    def __call__(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        if len(args) == 1 and not kwargs and self._widens(args[0]):
            bias = None if self.layer.bias is None else self.layer.bias.float()
            return self.layer._conv_forward(args[0].float(), self.layer.weight.float(), bias).to(args[0].dtype)
        return type(self.layer).forward(self.layer, *args, **kwargs)

    def _widens(self, x: Tensor) -> bool:
        plain = _active.get() and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        halves = x.device.type == "cpu" and x.dtype in HALVES and not _multiplies(x.dtype)
        return plain and halves and x.dtype == self.layer.weight.dtype


class _Copies:
    """What is made of a parameter, by key: made when first needed, and anew when the parameter has changed."""

    def __init__(self) -> None:
        self.source: Tensor | None = None  # what the copies were made of, kept so that its address stays its own
        self.version = -1
        self.made: dict[Any, Any] = {}

    def forget(self, parameter: Tensor | None) -> None:
        """Drops the copies of what is being trained: fused optimizers change it without counting that."""
        if parameter is not None and parameter.requires_grad:
            self.source, self.made = None, {}

    def get(self, parameter: Tensor, key: Any, make: Callable[[Any], Any]) -> Any:
        """`make(key)`, or what it gave when the parameter was what it is now."""
        made = self.made  # which another thread may be dropping
        if not self._are_of(parameter):
            made = self.made = {}
            self.source, self.version = parameter.detach(), parameter._version
        if key not in made:
            with torch._C.DisableTorchFunction():  # no part of a step that is being recorded
                made[key] = make(key)
        return made[key]

    def widened(self, parameter: Tensor | None) -> Tensor | None:
        """A copy in float32, not kept where gradients may come or changes are not counted."""
        if parameter is None:
            return None
        if torch.is_grad_enabled() or parameter.is_inference():
            return parameter.float()
        return self.get(parameter, torch.float32, parameter.to)

    def _are_of(self, parameter: Tensor) -> bool:
        """Whether the parameter is still what it was: neither written into nor exchanged, as `.to()` does."""
        source = self.source
        return (
            source is not None
            and source.data_ptr() == parameter.data_ptr()
            and self.version == parameter._version
            and source.shape == parameter.shape
            and source.stride() == parameter.stride()
        )

    def __getstate__(self) -> dict:
        # Packed weights can be neither copied nor saved: they are made anew.
        return vars(_Copies())


class _PackedWeight:
    """Copies of a weight in its kernels' order."""

    def __init__(self, weights: Weights, transposed: bool = False):
        self.weights, self.transposed = weights, transposed
        self.copies = _Copies()  # for few inputs (True), and for many
        self.biases = _Copies()

    def forget(self, weight: Tensor, bias: Tensor | None) -> None:
        """Drops the copies of what is being trained."""
        self.copies.forget(weight)
        self.biases.forget(bias)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """x·Wᵀ + b (x·W + b if `transposed`); None outside of `use_packed`, with gradients, or without a kernel."""
        if torch.is_grad_enabled():
            self.forget(weight, bias)
            return None
        counted = not weight.is_inference()  # torch counts no changes of what is made in that mode
        if not _active.get() or torch.is_autocast_enabled("cpu") or not counted:
            return None
        inputs = weight.shape[0 if self.transposed else 1]
        wide = is_wide(x, weight)
        if not (wide or x.dtype == weight.dtype) or not x.numel() or x.shape[-1] != inputs:
            return None
        few = self.weights != "exact" or x.numel() <= FEW * inputs
        if (multiply := self.copies.get(weight, few, lambda few: self._pack(weight, few))) is None:
            return None
        bias = self.biases.widened(bias) if wide else bias
        return multiply(x, bias) if x.ndim > 1 else multiply(x.unsqueeze(0), bias).squeeze(0)

    def _pack(self, weight: Tensor, few: bool) -> Product | None:
        """What multiplies few inputs, or many, by a copy of the weight; None where there is no kernel for it."""
        plain = type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.numel()
        if not plain or weight.dtype not in (torch.float32, *HALVES):
            return None
        rows = (weight.detach().t() if self.transposed else weight.detach()).contiguous()  # [out, in]
        if self.weights == "exact":
            return _exact(rows, few)
        if self.weights == "fp16":
            return _fp16(rows) or _exact(rows, few=False)
        takes_int4 = rows.shape[0] % 16 == 0 and rows.shape[1] % GROUP == 0
        return _int4(rows.float()) if self.weights == "int4" and takes_int4 else _int8(rows.float())


PACKED = (_PackedLinear, _PackedAttention, _WideNorm, _WideConvolution)


def _exact(rows: Tensor, few: bool) -> Product | None:
    """By weights [out, in] as they are, to the last bit of float32 or all bits of bfloat16 that are not under 2⁻²⁴."""
    native = rows.dtype != torch.float16 and _multiplies(rows.dtype)
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
