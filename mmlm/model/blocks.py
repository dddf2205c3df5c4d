"""Finds the parts of a language model that get hooks: its decoder blocks, its embedding and its output head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def find_blocks(model: nn.Module, num_layers: int) -> nn.ModuleList:
    """The outermost `nn.ModuleList` of `num_layers` modules; ValueError when there is none, or more than one.

    Inner lists do not count, because a mixture of experts can have as many experts in a block as it has blocks.
    """
    found = [
        (name.count("."), name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers
    ]
    depth = min((depth for depth, _, _ in found), default=None)
    outermost = [(name, module) for d, name, module in found if d == depth]
    if len(outermost) != 1:
        names = ", ".join(name for name, _ in outermost) or "none"
        raise ValueError(f"cannot find the {num_layers} decoder blocks of {type(model).__name__}: candidates {names}")
    return outermost[0][1]


def embedding_and_head(model: PreTrainedModel) -> tuple[nn.Module, nn.Module]:
    """The input embedding and the output head of a model; ValueError when it has no head."""
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(f"{type(model).__name__} has no output head: load it as an AutoModelForCausalLM")
    return model.get_input_embeddings(), head
