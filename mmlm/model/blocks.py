"""Where the decoder blocks of a language model are."""

from torch import nn


def find_blocks(model: nn.Module, num_layers: int) -> nn.ModuleList:
    """The outermost `nn.ModuleList` of `num_layers` modules; `ValueError` when there is none, or more than one.

    Outermost, because a mixture of experts may hold as many experts in each block as there are blocks.
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
        raise ValueError(f"cannot tell the {num_layers} decoder blocks of {type(model).__name__}: candidates {names}")
    return outermost[0][1]
