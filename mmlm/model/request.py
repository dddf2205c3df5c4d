"""What one request asks of the language model's hooks, and how the hooks find it."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from mmlm.model.code_places import CodePlaces


class ForwardCallback(Protocol):
    """Follows the forward passes of a request, and may change embeddings and the inputs of the decoder blocks."""

    def on_ids(self, ids: Tensor) -> None:
        """Called first in each forward pass, with its ids `[B, T]`."""
        ...

    def embedded(self, ids: Tensor, embeddings: Tensor) -> Tensor:
        """Embeddings `[B, T, D]` of the ids of a pass → what the language model receives in their place."""
        ...

    def before_block(self, index: int, hidden: Tensor) -> Tensor:
        """Hidden states `[B, T, D]` before block `index` → the hidden states that the block receives."""
        ...


@dataclass
class Request:
    """The state of one request; see `LanguageModel.request`."""

    language_model: nn.Module  # the one it belongs to
    callback: ForwardCallback | None
    codes: CodePlaces | None
    logit_positions: Tensor | None
    wide: bool
    lora: bool | Tensor  # whether the low-rank adapters act; or bool [B], in which rows
    ids: Tensor | None = None  # of the current pass
    labels: Tensor | None = None  # [N] of the kept positions, where the loss alone is asked for
    rows_at_once: int = 0  # how many positions then reach the head at once
    loss: Tensor | None = None  # of the current pass, with labels
    logits: Tensor | None = None  # that the head gave last


# A ContextVar, so that each thread has its own request, and none is left after an exception.
current_request: ContextVar[Request | None] = ContextVar("mmlm_request", default=None)
