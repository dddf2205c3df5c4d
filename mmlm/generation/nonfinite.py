"""Logits that are not numbers: the error, and the search for the layer where that began."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class NonFiniteLogitsError(ValueError):
    """The model computed NaN or infinite logits.

    step: the generated token at which it was noticed, from 1. layer: the name of the first module, in
    `model.named_modules()`, whose values are not finite; None where it is not known.
    """

    def __init__(self, step: int, precision: torch.dtype, layer: str | None = None) -> None:
        self.step, self.precision, self.layer = step, precision, layer
        origin = "the language model" if layer is None else f"it began in {layer}, which"
        super().__init__(
            f"the logits are not finite at generated token {step}: {origin} computes in "
            f"{str(precision).removeprefix('torch.')}. Load the model in float32 (dtype=torch.float32; on the command "
            "line --dtype float32), or in bfloat16 instead of float16; if it is float32 already, its weights or the "
            "media's features are damaged"
        )


class FirstNonFinite:
    """What `watching` finds: `name`, of the first module whose values are not finite, and its `dtype`."""

    def __init__(self, default: torch.dtype) -> None:
        self.name: str | None = None
        self.dtype = default


@contextmanager
def watching(model: nn.Module, default: torch.dtype) -> Iterator[FirstNonFinite]:
    """Watches every module of a model while it runs in this thread. default: the dtype of modules without weights.

    A module whose outputs are the first to be not finite is named itself; where a module is given such values that no
    module before it gave, they come from the module around it.
    """
    found, own = FirstNonFinite(default), threading.get_ident()

    def name(which: str) -> None:
        while isinstance(model.get_submodule(which), nn.ModuleList | nn.ModuleDict):
            which = which.rpartition(".")[0]  # a list computes nothing
        weights = (tensor.dtype for tensor in model.get_submodule(which).parameters() if tensor.is_floating_point())
        found.name, found.dtype = which, next(weights, default)

    def searching() -> bool:  # other threads run the same modules; their values are theirs to look at
        return threading.get_ident() == own and found.name is None

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            if not path:
                continue

            def before(_: nn.Module, args: tuple, kwargs: dict, path: str = path) -> None:
                if searching() and not finite([*args[:1], kwargs.get("hidden_states")]):
                    name(path.rpartition(".")[0])

            def after(_: nn.Module, args: tuple, output: Any, path: str = path) -> None:
                if searching() and not finite(output):
                    name(path)

            hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(after).remove)
        yield found


def finite(value: Any) -> bool:
    """Whether all floating-point tensors of a value, or in a tuple, list or mapping of values, are finite."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return all(finite(part) for part in value)
    return not isinstance(value, Tensor) or not value.is_floating_point() or bool(value.isfinite().all())
