"""What the network asks of whatever makes it faster; the room `mmlm.acceleration` has the one implementation."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

Pass = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Ids [R, 1], attention mask [R, M] and position ids [R, 1] → logits [R, V]."""


class RecordedSteps(Protocol):
    """The steps of one request after its prompt, recorded once and repeated."""

    def __call__(self, tokens: Tensor, run: Pass) -> Tensor:
        """Logits `[R, V]` after `tokens [R]`; `run` makes a plain pass, the same one each time."""
        ...


class Acceleration(Protocol):
    """How one language model is made faster; set by `MultimodalLM.pack`."""

    def active(self) -> AbstractContextManager[None]:
        """While open, in this thread, layers compute on their packed weights."""
        ...

    def is_wide(self, dtype: torch.dtype, device: torch.device) -> bool:
        """Whether a request that begins now computes in float32 between weights of this `dtype`."""
        ...

    def recorded(self, cache: Any, mask: Tensor, positions: Tensor, length: int) -> RecordedSteps | None:
        """Recorded steps of a request whose first `length` positions are written, or None where steps stay plain.

        cache: a transformers cache; mask, positions: `[R, capacity]`, of the text so far and of all that may follow.
        """
        ...
