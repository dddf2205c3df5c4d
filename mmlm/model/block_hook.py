"""The hook before a decoder block, where media join its input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from mmlm.model.request import Request


class BlockHook:
    """Passes the hidden states of one block, its first argument or `hidden_states`, through the callback of a request.

    request: gives the one that is open, if any. index: the block's number. Of hidden states that run in several streams
    side by side, `[S, B, T, D]` (AltUp, Baykal et al. 2023), it is the first, which the others are predicted from.
    """

    def __init__(self, request: Callable[[], Request | None], index: int) -> None:
        self.request, self.index = request, index

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        request = self.request()
        if request is None or request.callback is None:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        if request.ids is not None and hidden.shape[-2] != request.ids.shape[1]:
            raise ValueError(
                f"the language model reads {hidden.shape[-2]} tokens where it is given {request.ids.shape[1]}, as "
                "after prompt tuning: media would be seen from other places. Take a language model without tokens of "
                "its own"
            )
        if hidden.ndim == 4:
            hidden = torch.cat([request.callback.before_block(self.index, hidden[0])[None], hidden[1:]])
        else:
            hidden = request.callback.before_block(self.index, hidden)
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})
