"""What a guest, a language model in any coat, can do: found by running it, since a wrapper hides the signature."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicCache


@torch.no_grad()
def taken_arguments(model: nn.Module, config: Any, device: torch.device) -> frozenset[str]:
    """Which arguments a language model's forward takes beside `input_ids`, of those that generation gives it.

    It reads two tokens. An argument that it refuses by name is left out of the next attempt; `past_key_values` counts
    where the two tokens were kept there, not where a wrapper swallowed the argument.
    """
    ids = torch.zeros(1, 2, dtype=torch.long, device=device)
    cache = DynamicCache(config=config)
    given: dict[str, Any] = {
        "attention_mask": torch.ones_like(ids), "position_ids": torch.arange(2, device=device).unsqueeze(0),
        "past_key_values": cache, "use_cache": True, "logits_to_keep": 1,
    }  # fmt: skip
    while True:
        try:
            model(input_ids=ids, **given)
        except TypeError as error:
            refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if refused is None or given.pop(refused[1], None) is None:
                raise
        else:
            if (read := cache.get_seq_length()) > ids.shape[1]:
                raise ValueError(
                    f"{type(model).__name__} reads {read} tokens where it is given {ids.shape[1]}, as after prompt "
                    "tuning: places of media would be wrong. Give it without tokens of its own"
                )
            return frozenset(name for name in given if read or name != "past_key_values")


def plain_names(state: dict[str, Any]) -> dict[str, Any]:
    """A state dict with the names that it has without `torch.compile`."""
    return {name.replace("_orig_mod.", ""): value for name, value in state.items()}
