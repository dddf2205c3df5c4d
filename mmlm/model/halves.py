"""Float32 tensors as bfloat16 ones, which compute, and what these lack, which brings them back bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rest:
    """What the bfloat16 form of a tensor lacks, as integers on the CPU; `low` is None where it lacks nothing.

    low: int16, the bits of the tensor less those of its rounded half, where they fit. over: where they are 2^15, which
    does not: a value in the middle of two, of which the lower one is even.
    """

    low: Tensor | None
    over: Tensor


def halved(tensor: Tensor) -> tuple[Tensor, Rest]:
    """A float32 tensor without NaN, rounded to bfloat16 as autocast does, and its rest. Together they take its size.

    Published weights are often bfloat16 ones, and have no rest.
    """
    half = tensor.to(torch.bfloat16)
    more = tensor.contiguous().view(torch.int32) - _bits(half)
    over = (more.flatten() == 1 << 15).nonzero().flatten().cpu()
    return half, Rest(more.to(torch.int16).cpu() if bool(more.any()) else None, over)


def whole(half: Tensor, rest: Rest) -> Tensor:
    """The float32 tensor that was halved."""
    if rest.low is None:
        return half.float()
    bits = _bits(half) + rest.low.to(half.device).int()
    bits.view(-1)[rest.over.to(half.device)] += 1 << 16
    return bits.view(torch.float32)


def _bits(half: Tensor) -> Tensor:
    """The bits of the float32 form, int32."""
    return half.contiguous().float().view(torch.int32)
