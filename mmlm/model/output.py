"""What a forward pass gives."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    pass


@dataclass
class Output:
    """`logits [B, T, V + added]`; with labels, `[num_tokens, V + added]` of what foretells the labelled ones, row by
    row, and `loss` their mean in nats."""

    logits: Tensor
    loss: Tensor | None = None
    num_tokens: int = 0
