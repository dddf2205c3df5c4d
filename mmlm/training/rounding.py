"""Features in 16 bits: what training sees of an encoder, whether it was computed just now or lies in the cache."""

from __future__ import annotations

import torch
from torch import Tensor

from encoders.base import FrozenEncoder

BOUND = 2.0**-11  # half a unit in the last place of float16; its range is 6e-5 to 65504


def halved(tokens: Tensor) -> Tensor:
    """Tokens [..., D] in float16 where that moves no value by more than 2⁻¹¹ of the largest one of its token.

    Those that this does not hold for, which are beyond float16's range, stay as they are, and so do all that are not
    float32. The choice is the same on every device.
    """
    if tokens.dtype != torch.float32:
        return tokens
    half = tokens.half()
    moved = (half.float() - tokens).abs().amax(-1)
    return half if bool((moved <= BOUND * tokens.abs().amax(-1)).all()) else tokens


def rounded(tokens: Tensor) -> Tensor:
    """The values of `halved`, in the type of the tokens. What was rounded stays as it is."""
    return halved(tokens).to(tokens.dtype)


def form_of(encoder: FrozenEncoder) -> str:
    """In what an encoder computes, and what is kept of it: "torch.bfloat16", "torch.float32 in torch.float16"."""
    made = made_type(encoder)
    return f"{made} in {torch.float16}" if made == torch.float32 else str(made)


def made_type(encoder: FrozenEncoder) -> torch.dtype:
    """The type of the tokens that an encoder makes."""
    return next(encoder.parameters()).dtype
