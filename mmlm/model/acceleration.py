"""The protocol of an acceleration, which the network uses; `mmlm.acceleration` holds the implementation."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

Pass = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Ids `[R, 1]`, attention mask `[R, M]` and position ids `[R, 1]` → logits `[R, V]`."""


class RecordedSteps(Protocol):
    """The decoding steps of one request after its prompt: recorded once, then replayed."""

    def __call__(self, tokens: Tensor, run: Pass) -> Tensor:
        """Logits `[R, V]` after `tokens [R]`. `run` makes an unrecorded pass; it is the same function in each call."""
        ...


class Acceleration(Protocol):
    """How one language model is made faster; `MultimodalLM.pack` sets it."""

    def active(self) -> AbstractContextManager[None]:
        """A context in which, in this thread, layers compute with their packed weights."""
        ...

    def is_wide(self, dtype: torch.dtype, device: torch.device) -> bool:
        """Whether a request that starts now has float32 hidden states between weights of this `dtype`."""
        ...

    def recorded(self, cache: Any, mask: Tensor, positions: Tensor, length: int) -> RecordedSteps | None:
        """The recorded steps of a request whose first `length` positions are filled; None if steps are not recorded.

        cache: a transformers cache. mask, positions: `[R, capacity]`, for the text so far and all that may follow.
        """
        ...

    def record(self, step: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor] | None:
        """A function that repeats a step on the memory that it works on; None if steps are not recorded there."""
        ...
