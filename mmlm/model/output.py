"""The result of a forward pass."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Output:
    """Logits of a batch, and its loss when the batch has labels.

    logits: `[B, T, V + added]`. When the batch has labels: `[num_tokens, V + added]`, the logits from which the
        labelled tokens are predicted, row by row, or none of these where the loss alone was asked for.
    loss: the mean cross-entropy of the labelled tokens, in nats; None without labels.
    num_tokens: the number of labelled tokens.
    """

    logits: Tensor
    loss: Tensor | None = None
    num_tokens: int = 0
