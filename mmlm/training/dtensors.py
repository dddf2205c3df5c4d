"""Tensors of which each process holds a part (torch's DTensor), and plain ones, taken alike."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from mmlm.training.ranks import is_first


def full(tensor: Tensor) -> Tensor:
    """All of a tensor, which all processes ask for together; a plain one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def split_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that all processes have, in parts where `like` is in parts; its shape is that of `like`, or `[]`."""
    if not isinstance(like, DTensor) or not tensor.ndim:
        return tensor.to(like.device)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def on_first(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All of each tensor in the first process: those in parts on its CPU, one after another; nothing in the others."""
    found = {}
    for name, tensor in tensors.items():
        whole = full(tensor.detach())
        if is_first():
            found[name] = whole.cpu() if isinstance(tensor, DTensor) else whole
    return found
