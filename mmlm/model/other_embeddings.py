"""Embeddings beside the input embedding that look up the same ids, as some models have for each of their blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from mmlm.model.request import Request


def hide_added_ids(model: nn.Module, embedding: nn.Module, request: Callable[[], Request | None], offset: int) -> None:
    """Gives all other embeddings of `model` 0 for ids of `offset` and more, of which they have no rows.

    request: gives the one that is open, if any, whose ids these are.
    """
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module is not embedding:
            module.register_forward_pre_hook(_Hidden(request, offset))


@dataclass
class _Hidden:
    """The hook of such an embedding; an object, so that a deep copy of a model asks for its own requests."""

    request: Callable[[], Request | None]
    offset: int

    def __call__(self, module: nn.Module, args: tuple) -> tuple | None:
        asked = self.request()
        if asked is None or not args or args[0] is not asked.ids:  # none is open, or it embeds positions
            return None
        return (args[0].masked_fill(args[0] >= self.offset, 0), *args[1:])
