"""Several texts in one row of a batch, which do not see each other: sequence packing.

`attention_mask [B, T]` numbers the texts of a row: 1, 2, 3, …; 0 is padding. A row of one text has the usual mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PROBED = (5, 7)  # tokens of two texts that a language model is run on
LEAK = 0.02  # of the largest logit; a text that sees another one is told by tens of times as much


def begins(segments: Tensor) -> Tensor:
    """Where a text begins, or padding: bool `[B, T]`."""
    return segments != F.pad(segments[:, :-1], (1, 0), value=-1)


def carried(values: Tensor, segments: Tensor) -> Tensor:
    """For each position the value `[B, T]` where its text begins. Values must not fall along a row."""
    return torch.where(begins(segments), values, 0).cummax(1).values


def positions(segments: Tensor) -> Tensor:
    """The position of each token in its text, `[B, T]`; 0 for padding."""
    columns = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    return (columns - carried(columns, segments)) * (segments > 0)


def separating_mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores, `[B, 1, T, T]`: each token sees its own text, up to itself.

    transformers passes a mask of four dimensions on to its attention as it is.
    """
    same = segments.unsqueeze(2) == segments.unsqueeze(1)
    seen = same & torch.ones(same.shape[1:], dtype=torch.bool, device=same.device).tril()
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min).unsqueeze(1)


@torch.no_grad()
def keeps_apart(language_model: Callable[..., Any], device: torch.device, dtype: torch.dtype) -> bool:
    """Whether texts in one row get the logits that each gets alone; found by running the language model.

    Families that make a mask of their own, or carry states from token to token, do not. language_model: takes ids and
    gives logits. dtype: of its hidden states.
    """
    ids = torch.arange(3, 3 + sum(PROBED), device=device).unsqueeze(0)
    segments = torch.tensor([[1] * PROBED[0] + [2] * PROBED[1]], device=device)
    alone = [language_model(text, use_cache=False).logits for text in ids.split(PROBED, dim=1)]
    try:
        mask = separating_mask(segments, dtype)
        given = dict(attention_mask=mask, position_ids=positions(segments), use_cache=False)
        packed = language_model(ids, **given).logits
    except (RuntimeError, ValueError, IndexError, TypeError):  # it takes no such mask
        return False
    expected = torch.cat(alone, dim=1)
    return bool((packed - expected).abs().max() < LEAK * expected.abs().max())
