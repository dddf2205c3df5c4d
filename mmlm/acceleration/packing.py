"""Linear layers on packed copies of their weights while a request runs on a CPU: exact ones, or rounded.

How copies multiply, `kernels.py` tells. Sums are taken in another order than torch's own, so the last bits of a result
differ; the texts do not. Exact weights have two copies, one for few inputs and one for many, each made when
first needed; rounded ones have one.

Layers with weights of 16 bits take float32 inputs, too, while a request runs: linear ones by their kernels, layer norms
by copies of their weights, which is all that these are packed for.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlm.acceleration.hardware import multiplies
from mmlm.acceleration.kernels import HALVES, Product, Weights, packed_product

FEW = 4  # inputs at once, up to which a product of twice as many in float16 takes less time than oneDNN's
# Whose `forward` is x·Wᵀ + b and no more, by name: to ask is no reason to import transformers or whisper.
LINEAR = (
    "torch.nn.modules.linear.Linear.forward",
    "transformers.pytorch_utils.Conv1D.forward",
    "whisper.model.Linear.forward",
)

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


def pack_layers(root: nn.Module, weights: Weights = "exact") -> None:
    """Lets every linear layer in `root` use a packed weight, which is made when first needed: a copy of its weights.

    Layer norms take wider inputs, and convolutions compute wider where that is faster. The layers stay the modules they
    are, with the weights they have, and compute as ever outside `use_packed`. A layer whose `forward` somebody else has
    set (accelerate does, to move weights about) is left to them. A weight that changes is packed anew, but for changes
    that torch does not count: through `.data`, or by a fused optimizer that trains it as part of another layer (an
    embedding that is tied to it). Pack again then. ValueError for weights that there are not.
    """
    if weights not in get_args(Weights):
        raise ValueError(f"packed weights are {', '.join(get_args(Weights))}, not {weights!r}")
    unpack_layers(root)
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


def unpack_layers(root: nn.Module) -> None:
    """Takes back what `pack_layers` did, and the memory."""
    for module in root.modules():
        if isinstance(vars(module).get("forward"), PACKED):
            del module.forward


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
        halves = x.device.type == "cpu" and x.dtype in HALVES and not multiplies(x.dtype)
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
        return packed_product(rows, self.weights, few)


PACKED = (_PackedLinear, _PackedAttention, _WideNorm, _WideConvolution)
