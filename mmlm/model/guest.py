"""A guest, a language model in any coat: what it takes is found by calling it, since a wrapper hides the signature."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn


def called(
    model: nn.Module, ids: Tensor, arguments: Mapping[str, Any], refused: set[str], again: Callable[[], bool]
) -> Any:
    """What a model gives for ids and those arguments that it takes.

    refused: names of arguments that it was found not to take; one that it refuses by name now is added, and the call
    is made again without it. again: asked before, whether that is possible.
    """
    while True:
        given = {name: value for name, value in arguments.items() if name not in refused}
        try:
            return model(input_ids=ids, **given)
        except TypeError as error:
            found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if found is None or found[1] not in given or not again():
                raise
            refused.add(found[1])


def is_placed(model: nn.Module) -> bool:
    """Whether accelerate has put parts of a model in several places (`device_map`), between which it moves what it has
    to: other devices, and weights that come from memory or disk for each pass.
    """
    return len(set(map(str, (getattr(model, "hf_device_map", None) or {}).values()))) > 1


def offloaded(model: nn.Module) -> dict[str, Callable[[], Tensor]]:
    """The weights that accelerate keeps elsewhere between passes, by name: a call reads one."""
    found: dict[str, Callable[[], Tensor]] = {}
    for place, module in model.named_modules():
        hook = getattr(module, "_hf_hook", None)
        for own in (hook, *getattr(hook, "hooks", ())):
            weights = getattr(own, "weights_map", None)
            if weights is None:
                continue
            for name, tensor in module.named_parameters():
                if tensor.is_meta:
                    found.setdefault(f"{place}.{name}".lstrip("."), functools.partial(weights.__getitem__, name))
    return found


def keep_unpacked(model: nn.Module) -> None:
    """Keeps bitsandbytes from packing weights of 4 bits for the CPU, as it does at the first pass without gradients.

    Packed in place, weights let no gradients through, without a word, and their scales are rounded to bfloat16: they
    are no longer those that were saved. What is packed already is unpacked.
    """
    layers: list[Any] = [module for module in model.modules() if getattr(module, "support_avx512bf16_for_cpu", False)]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
        layer.state_dict()  # unpacks


def plain_names(state: dict[str, Any]) -> dict[str, Any]:
    """A state dict with the names that it has without `torch.compile`."""
    return {name.replace("_orig_mod.", ""): value for name, value in state.items()}
