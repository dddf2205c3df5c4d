"""Linear layers that use packed copies of their weights while a request runs on a CPU.

`kernels.py` tells which copies there are, and `choosing.py` which are used: for each number of inputs the fastest, or
none where the layer's own forward is. Copies are made when first needed. Sums are taken in another order than torch's
own, so the last bits of a result differ; the texts do not.

"Wide" means float32 activations with 16-bit weights. While a request runs, packed layers with 16-bit weights accept
float32 inputs, too, and give float32 outputs: linear layers by their kernels, layer norms by float32 copies of their
weights (which is all that layer norms are packed for).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlm.acceleration import choosing
from mmlm.acceleration.copies import Copies, PackedWeight, active, is_wide
from mmlm.acceleration.hardware import multiplies
from mmlm.acceleration.kernels import HALVES, Weights

SAMPLES = 64  # layers of one shape that the choice of their kernel is timed with, at most
# Layers whose `forward` is x·Wᵀ + b and no more. By name, so that neither transformers nor whisper is imported.
LINEAR = (
    "torch.nn.modules.linear.Linear.forward",
    "transformers.pytorch_utils.Conv1D.forward",
    "whisper.model.Linear.forward",
)


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


def share_copies(root: nn.Module, other: nn.Module) -> None:
    """Gives packed layers of `root` the packed copies of the same layers of `other`, whose weights they share."""
    others = dict(other.named_modules())
    for name, module in root.named_modules():
        twin = others.get(name)
        own, theirs = vars(module).get("forward"), None if twin is None else vars(twin).get("forward")
        if twin is None or type(own) is not type(theirs) or not isinstance(own, PACKED):
            continue
        tensors, their_tensors = list(module.parameters()), list(twin.parameters())
        if [one.data_ptr() for one in tensors] != [one.data_ptr() for one in their_tensors]:
            continue
        for field, copies in vars(theirs).items():
            quantised_alike = getattr(vars(own)[field], "weights", None) == getattr(copies, "weights", None)
            if isinstance(copies, (PackedWeight, Copies)) and quantised_alike:
                setattr(own, field, copies)


@dataclass(frozen=True)
class Chosen:
    """The kernels of all layers of one shape: for up to so many inputs at once the kernel of that name."""

    layers: int
    shape: tuple[int, int]  # [out, in]
    dtype: torch.dtype
    weights: Weights
    kernels: dict[int, str]

    def __str__(self) -> str:
        each = ", ".join(f"up to {rows}: {name}" for rows, name in list(self.kernels.items())[:-1])
        last = next(reversed(self.kernels.values()))
        out, inputs = self.shape
        return f"{self.layers} of {out} x {inputs} {str(self.dtype)[6:]} ({self.weights}): {each}, more: {last}"


@torch.no_grad()
def choose_kernels(root: nn.Module, wide: bool = False) -> list[Chosen]:
    """Times the kernels of the layers that `pack_layers` packed, or reads what was chosen on this machine before.

    A layer whose kernel is not chosen here is timed when it is first used. wide: for wide inputs.
    """
    groups: dict[tuple, list[tuple[Tensor, Tensor | None]]] = {}
    for packed, weight, bias in _packed_weights(root):
        rows = packed.rows(weight)
        if rows is not None:
            key = (tuple(rows.shape), rows.dtype, packed.weights, rows.stride(), bias is None)
            groups.setdefault(key, []).append((rows, None if bias is None else bias.detach()))
    found = []
    for (shape, dtype, weights, *_), layers in groups.items():
        inputs = torch.float32 if wide else dtype  # which layers of float32 weights have anyway
        names = {rows: choosing.choose(layers[:SAMPLES], weights, inputs, rows) for rows in choosing.ROWS}
        found.append(Chosen(len(layers), shape, dtype, weights, names))
    choosing.save()
    return found


def quantised(root: nn.Module) -> set[str]:
    """How the weights of packed layers are quantised; empty where they have all their bits."""
    return {packed.weights for packed, _, _ in _packed_weights(root)} - {"exact"}


def _packed_weights(root: nn.Module) -> Iterator[tuple[PackedWeight, Tensor, Tensor | None]]:
    """All packed weights in `root` with their parameters: weight and bias."""
    for module in root.modules():
        forward = vars(module).get("forward")
        weight = module._parameters.get("weight")
        if isinstance(forward, _PackedLinear) and weight is not None:
            yield forward.weight, weight, module._parameters.get("bias")
        elif isinstance(forward, _PackedAttention):
            yield forward.inward, forward.layer.in_proj_weight, forward.layer.in_proj_bias
            yield forward.outward, forward.layer.out_proj.weight, forward.layer.out_proj.bias


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
        return _WideConvolution(module) if hasattr(module, "_conv_forward") else None  # a private name of torch's
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
        self.weight = PackedWeight(weights, transposed=not isinstance(layer, nn.Linear))  # Conv1D's is [in, out]

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
        self.inward, self.outward = PackedWeight(weights), PackedWeight(weights)

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
        """Inputs [B, T, D] → [B, T, D]; None where torch's own forward is to compute the first product, and so all."""
        layer = self.layer
        projected = self.inward.product(x, layer.in_proj_weight, layer.in_proj_bias)
        if projected is None:
            return None
        query, key, value = projected.unflatten(-1, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, T, D / H]
        y = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        outward = self.outward.product(y, layer.out_proj.weight, layer.out_proj.bias)
        return F.linear(y, layer.out_proj.weight, layer.out_proj.bias) if outward is None else outward


class _WideNorm:
    """torch.nn.LayerNorm of wide inputs, by float32 copies of its weights; every other call goes to its own forward."""

    def __init__(self, layer: nn.LayerNorm):
        self.layer = layer
        self.weight, self.bias = Copies(), Copies()

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
        plain = active.get() and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        halves = x.device.type == "cpu" and x.dtype in HALVES and not multiplies(x.dtype)
        return plain and halves and x.dtype == self.layer.weight.dtype


PACKED = (_PackedLinear, _PackedAttention, _WideNorm, _WideConvolution)
