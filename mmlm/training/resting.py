"""Frozen weights in the dtype in which they compute: autocast makes a copy of a float32 one in every pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode

from mmlm.model.blocks import embedding_and_head
from mmlm.model.guest import is_placed
from mmlm.model.halves import Rest, halved, whole
from mmlm.model.language_model import LanguageModel
from mmlm.model.modules import weight_of

PROBED = 8  # tokens that the language model is run on


@contextmanager
def resting(host: LanguageModel) -> Iterator[None]:
    """While open, those frozen weights of a float32 language model lie in bfloat16 that autocast would cast anyway.

    Which these are is found by running it. Its hidden states, norms and all else stay float32, and so does what trains.
    Passes within requests compute as they do with autocast; outside of requests the language model is not to be run.
    Afterwards each weight has its own bits again. What cannot be told in this way (compiled, sharded or quantised
    weights, models in several places, rows that are saved) is left to autocast.
    """
    chosen = _cast_in_each_pass(host)
    if not chosen:
        yield
        return
    rests: dict[Parameter, Rest] = {}
    with host.changes.changing("trained"):
        for parameter in chosen:
            parameter.data, rests[parameter] = halved(parameter.data)
        host.halved = True
    try:
        yield
    finally:
        with host.changes.changing("trained"):
            host.halved = False
            for parameter, rest in rests.items():
                parameter.data = whole(parameter.data, rest)


def _cast_in_each_pass(host: LanguageModel) -> list[Parameter]:
    model: nn.Module = host.model
    if is_placed(model) or hasattr(model, "_orig_mod"):
        return []
    saved = [weight_of(part) for part in embedding_and_head(host.model)] if host.replaced else []
    plain = [
        own
        for own in model.parameters()
        if type(own) is Parameter and type(own.data) is Tensor and own.dtype == torch.float32
        if not own.requires_grad and not any(own is one for one in saved)
    ]
    if not plain:
        return []
    watch = _Watch({_place(own) for own in plain})
    ids = torch.arange(3, 3 + PROBED, device=host.device).unsqueeze(0)
    with torch.no_grad(), host.changes.passing(), torch.autocast(host.device.type, torch.bfloat16), watch:
        host(ids, use_cache=False)
    return [own for own in plain if _place(own) in watch.cast - watch.used and not bool(own.isnan().any())]


class _Watch(TorchDispatchMode):
    """Which tensors, by where they lie, are cast to bfloat16, and which are used in any other way.

    Views are no use of their own, nor is an embedding, whose rows are made float32 again.
    """

    def __init__(self, places: set[int]) -> None:
        super().__init__()
        self.places, self.cast, self.used = places, set[int](), set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        found = {_place(own) for own in _tensors([*args, *given.values()])} & self.places
        if str(func) == "aten._to_copy.default" and given.get("dtype") == torch.bfloat16:
            self.cast |= found
        elif not func.is_view and str(func) != "aten.embedding.default":
            self.used |= found
        return func(*args, **given)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among an operator's arguments, those in lists included."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
