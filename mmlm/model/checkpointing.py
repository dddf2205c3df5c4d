"""Gradient checkpointing of the frozen blocks: activations are computed again in backward instead of kept.

It is switched on by transformers' own `activation_checkpointing_enable()` on the language model, which older versions
call `gradient_checkpointing_enable()`. transformers itself then checkpoints only what is in training mode, and a frozen
language model never is.
"""

import contextvars
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmlm.model.blocks import find_blocks


@contextmanager
def checkpointed(model: nn.Module, num_layers: int) -> Iterator[None]:
    """A context in which those of the decoder blocks that have checkpointing switched on keep no activations."""
    own: list[nn.Module] = []
    if torch.is_grad_enabled():
        # Some models have the switch in each block, others in a module that holds all blocks.
        default = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        blocks = find_blocks(model, num_layers) if default else []
        own = [
            block
            for block in blocks
            if getattr(block, "gradient_checkpointing", default) and not block.training and "forward" not in vars(block)
        ]
    try:
        for block in own:
            block.forward = functools.partial(_checkpoint, block)
        yield
    finally:
        for block in own:
            del block.forward


def _checkpoint(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """A block's forward, which runs again in backward, then in the request that is open now.

    Not reentrant: adapters above get gradients although the first block's inputs need none.
    """
    request = contextvars.copy_context()  # backward runs when the request has ended, on a GPU in another thread
    return checkpoint(
        request.run, type(block).forward, block, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
    )  # a block in evaluation mode draws nothing, and keeping the state would seed the global generator
