"""Linear layers that use packed copies of their weights while a request runs on a CPU.

`kernels.py` tells which copies there are. Sums are taken in another order than torch's own, so the last bits of a
result differ; the texts do not. "exact" weights have two copies, one for few inputs and one for many, each made when
first needed. Quantised weights have one.

"Wide" means float32 activations with 16-bit weights. While a request runs, packed layers with 16-bit weights accept
float32 inputs, too, and give float32 outputs: linear layers by their kernels, layer norms by float32 copies of their
weights (which is all that layer norms are packed for).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeGuard, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlm.acceleration.hardware import multiplies
from mmlm.acceleration.kernels import HALVES, Product, Weights, packed_product

FEW = 4  # input rows up to which FBGEMM, with two float16 numbers for each weight, is faster than oneDNN
# Layers whose `forward` is x·Wᵀ + b and no more. By name, so that neither transformers nor whisper is imported.
LINEAR = (
    "torch.nn.modules.linear.Linear.forward",
    "transformers.pytorch_utils.Conv1D.forward",
    "whisper.model.Linear.forward",
)

_active: ContextVar[bool] = ContextVar("mmlm_packed", default=False)


@contextmanager
def use_packed() -> Iterator[None]:
    """While open, in this thread, and without gradients: layers that were packed use their packed weights."""
    token = _active.set(True)
    try:
        yield
    finally:
        _active.reset(token)


def is_wide(x: Tensor, weight: Tensor) -> bool:
    """Whether inputs are float32 and the weight has 16 bits. Layers accept this while `use_packed` is open."""
    return x.dtype == torch.float32 and weight.dtype in HALVES and _active.get()


def pack_layers(root: nn.Module, weights: Weights = "exact") -> None:
    """Lets every linear layer in `root` use a packed copy of its weight, which is made when first needed.

    Layer norms then accept wide inputs, and convolutions compute in float32 where that is faster. The layers stay the
    same modules with the same weights, and compute as before outside `use_packed`. A layer whose `forward` was set by
    somebody else (accelerate does so, to move weights) is left alone. If a weight changes, it is packed again, except
    for changes that torch does not count: through `.data`, or by a fused optimizer that trains the weight as part of
    another layer (a tied embedding). Call `pack_layers` again then. ValueError for unknown `weights`.
    """
    if weights not in get_args(Weights):
        raise ValueError(f"weights must be one of {', '.join(get_args(Weights))}, not {weights!r}")
    unpack_layers(root)
    for module in root.modules():
        if "forward" not in vars(module) and (forward := _packed_forward(module, weights)) is not None:
            module.forward = forward


def unpack_layers(root: nn.Module) -> None:
    """Undoes `pack_layers`, and frees the memory."""
    for module in root.modules():
        if isinstance(vars(module).get("forward"), PACKED):
            del module.forward


def _packed_forward(module: nn.Module, weights: Weights) -> Callable | None:
    """The forward of a layer on packed weights; None for all other modules."""
    own = type(module).forward
    if _is_linear(module):
        return _PackedLinear(module, weights)
    if _is_self_attention(module):
        return _PackedAttention(module, weights)
    if isinstance(module, nn.LayerNorm) and own is nn.LayerNorm.forward:
        return _WideNorm(module)
    if isinstance(module, (nn.Conv1d, nn.Conv2d)) and own in (nn.Conv1d.forward, nn.Conv2d.forward):
        return _WideConvolution(module)
    return None


def _is_linear(module: nn.Module) -> bool:
    forward = type(module).forward
    weight = module._parameters.get("weight")  # None where it is computed, as by torch's parametrizations
    return f"{forward.__module__}.{forward.__qualname__}" in LINEAR and weight is not None


def _is_self_attention(module: nn.Module) -> TypeGuard[nn.MultiheadAttention]:
    """Whether it is torch's attention as open_clip's towers use it. It computes its linear layers itself."""
    return (
        isinstance(module, nn.MultiheadAttention)
        and type(module).forward is nn.MultiheadAttention.forward
        and module.batch_first
        and module._parameters.get("in_proj_weight") is not None  # it is None where the inputs differ in width
        and module.bias_k is None
        and not module.add_zero_attn
    )


# A layer's `forward` is replaced by an object, not by a closure, so that a deep copy of a model gets its own.


class _PackedLinear:
    """x·Wᵀ + b, by the packed weight if there is one."""

    def __init__(self, layer: nn.Module, weights: Weights):
        self.layer: Any = layer  # one of LINEAR, with `weight` and `bias`
        self.weight = _PackedWeight(weights, transposed=not isinstance(layer, nn.Linear))  # Conv1D's is [in, out]

    def __call__(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        own, y = self.layer._parameters, None
        # A parameter may have been removed since, for example by pruning.
        if len(args) == 1 and not kwargs and (weight := own.get("weight")) is not None and "bias" in own:
            y = self.weight.product(*args, weight, own["bias"])
        return self._plain(*args, **kwargs) if y is None else y

    def _plain(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        """By the layer's own forward; wide inputs are rounded to the weight's dtype for it."""
        forward, weight = type(self.layer).forward, self.layer.weight
        if not any(is_wide(x, weight) for x in (*args, *kwargs.values())):
            return forward(self.layer, *args, **kwargs)
        narrow = {name: x.to(weight.dtype) for name, x in kwargs.items()}
        return forward(self.layer, *(x.to(weight.dtype) for x in args), **narrow).float()


class _PackedAttention:
    """torch.nn.MultiheadAttention as self-attention without a mask; every other call goes to its own forward."""

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
        """Inputs [B, T, D] → [B, T, D]; None if a weight is not packed."""
        layer = self.layer
        projected = self.inward.product(x, layer.in_proj_weight, layer.in_proj_bias)
        if projected is None:
            return None
        query, key, value = projected.unflatten(-1, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, T, D / H]
        y = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.outward.product(y, layer.out_proj.weight, layer.out_proj.bias)


class _WideNorm:
    """torch.nn.LayerNorm of wide inputs, by float32 copies of its weights; every other call goes to its own forward."""

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
    """A 16-bit convolution by float32's kernel, if the processor does not multiply its dtype natively.

    Without oneDNN's kernels torch convolves in plain loops, which for an image's patches took most of the encoder's
    time. Every other call goes to the layer's own forward.
    """

    def __init__(self, layer: nn.Conv1d | nn.Conv2d):
        self.layer: Any = layer  # each class's own forward accepts that class only

    def __call__(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        if len(args) == 1 and not kwargs and self._widens(args[0]):
            bias = None if self.layer.bias is None else self.layer.bias.float()
            return self.layer._conv_forward(args[0].float(), self.layer.weight.float(), bias).to(args[0].dtype)
        return type(self.layer).forward(self.layer, *args, **kwargs)

    def _widens(self, x: Tensor) -> bool:
        plain = _active.get() and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        halves = x.device.type == "cpu" and x.dtype in HALVES and not multiplies(x.dtype)
        return plain and halves and x.dtype == self.layer.weight.dtype


class _Copies:
    """Copies of a parameter by key, made when first needed, and made again if the parameter has changed."""

    def __init__(self) -> None:
        self.source: Tensor | None = None  # what was copied; kept alive, so that no other tensor gets its address
        self.version = -1
        self.made: dict[Any, Any] = {}

    def forget(self, parameter: Tensor | None) -> None:
        """Drops the copies of a trained parameter: fused optimizers change it without counting the change."""
        if parameter is not None and parameter.requires_grad:
            self.source, self.made = None, {}

    def get(self, parameter: Tensor, key: Any, make: Callable[[Any], Any]) -> Any:
        """`make(key)`, or its earlier result if the parameter has not changed since."""
        made = self.made  # `forget` in another thread may replace it
        if not self._are_of(parameter):
            made = self.made = {}
            self.source, self.version = parameter.detach(), parameter._version
        if key not in made:
            with torch._C.DisableTorchFunction():  # not part of a step that is being recorded
                made[key] = make(key)
        return made[key]

    def widened(self, parameter: Tensor | None) -> Tensor | None:
        """A float32 copy; it is not kept if there may be gradients, or if torch does not count changes."""
        if parameter is None:
            return None
        if torch.is_grad_enabled() or parameter.is_inference():
            return parameter.float()
        return self.get(parameter, torch.float32, parameter.to)

    def _are_of(self, parameter: Tensor) -> bool:
        """Whether the copies are of this parameter: it was neither written to nor replaced, as `.to()` does."""
        source = self.source
        return (
            source is not None
            and source.data_ptr() == parameter.data_ptr()
            and self.version == parameter._version
            and source.shape == parameter.shape
            and source.stride() == parameter.stride()
        )

    def __getstate__(self) -> dict:
        # Packed weights can be neither copied nor pickled: they are made again.
        return vars(_Copies())


class _PackedWeight:
    """Packed copies of one weight."""

    def __init__(self, weights: Weights, transposed: bool = False):
        self.weights: Weights = weights
        self.transposed = transposed
        self.copies = _Copies()  # by whether they are for few inputs
        self.biases = _Copies()

    def forget(self, weight: Tensor, bias: Tensor | None) -> None:
        """Drops the copies of trained parameters."""
        self.copies.forget(weight)
        self.biases.forget(bias)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """x·Wᵀ + b (x·W + b if `transposed`); None outside `use_packed`, with gradients, or without a kernel."""
        if torch.is_grad_enabled():
            self.forget(weight, bias)
            return None
        counted = not weight.is_inference()  # torch counts no changes of tensors made in inference mode
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
        """The product of few inputs, or of many, by a packed copy of the weight; None if no kernel supports it."""
        plain = type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.numel()
        if not plain or weight.dtype not in (torch.float32, *HALVES):
            return None
        rows = (weight.detach().t() if self.transposed else weight.detach()).contiguous()  # [out, in]
        return packed_product(rows, self.weights, few)


PACKED = (_PackedLinear, _PackedAttention, _WideNorm, _WideConvolution)
