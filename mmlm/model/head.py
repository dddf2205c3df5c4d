"""What reaches the output head in a request, and what is made of its logits: for a loss, some at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlm.model.request import Request

AT_ONCE = 1 << 24  # logits that are computed at once for a loss; 64 MB in float32


def to_head(request: Request, head: nn.Module, hidden: Tensor, rows: Sequence[Tensor]) -> Tensor:
    """Hidden states `[B, T, D]` → those that the head gets, `[N, D]` where the request keeps some positions.

    With labels the loss of the request is computed here, and a single position goes on.
    """
    positions, labels = request.logit_positions, request.labels
    if positions is None:
        return hidden
    hidden = hidden[positions]
    if labels is None:
        return hidden

    def logits_of(some: Tensor) -> Tensor:
        request.logit_positions = None  # these are all kept
        try:
            return head(some)
        finally:
            request.logit_positions = positions

    weights = [own for own in (*rows, *head.parameters()) if own.requires_grad]
    request.loss = _LossInParts.apply(logits_of, labels, request.rows_at_once, hidden, *weights)
    return hidden[:1]


def from_head(request: Request, hidden: Tensor, output: Tensor, rows: Sequence[Tensor]) -> Tensor:
    """The head's logits for hidden states, with those of the added `rows` behind them."""
    logits = [F.linear(hidden, own.to(hidden.dtype)).to(output.dtype) for own in rows]
    request.logits = torch.cat([output, *logits], dim=-1)
    return request.logits


class _LossInParts(torch.autograd.Function):
    """The mean cross-entropy of logits that are never there at once; gradients are computed along with it."""

    @staticmethod
    def forward(
        ctx: Any, logits_of: Callable[[Tensor], Tensor], labels: Tensor, size: int, hidden: Tensor, *weights: Tensor
    ) -> Tensor:
        learns = any(ctx.needs_input_grad)
        total = torch.zeros((), device=hidden.device)
        gradients = [torch.zeros_like(own) for own in (hidden, *weights)] if learns else []
        for start in range(0, len(labels), size):
            part = slice(start, start + size)
            with torch.set_grad_enabled(learns):
                some = hidden[part].detach().requires_grad_(learns)
                loss = F.cross_entropy(logits_of(some).float(), labels[part], reduction="sum") / len(labels)
            total += loss.detach()
            if learns:
                with torch.autocast(hidden.device.type, enabled=False):
                    own, *others = torch.autograd.grad(loss, (some, *weights))
                gradients[0][part] = own
                for gradient, found in zip(gradients[1:], others, strict=True):
                    gradient += found
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, None, None, *(own * grad.to(own.dtype) for own in ctx.saved_tensors)
