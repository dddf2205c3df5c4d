"""In which precision a training step computes; what trains and its optimizer stay float32 whatever it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmlm.acceleration.hardware import multiplies


def resolve(precision: str, device: torch.device | str) -> str:
    """ "auto" as "bfloat16" where the hardware multiplies it, else "float32"; the others as they are."""
    if precision == "auto":
        return "bfloat16" if multiplies(torch.bfloat16, device) else "float32"
    return precision


@contextmanager
def computing(precision: str, device: torch.device | str) -> Iterator[None]:
    """The forward pass of a training step in "float32", "bfloat16" (autocast) or "auto"."""
    with attention_kernels(precision, device), ExitStack() as stack:
        if resolve(precision, device) == "bfloat16":
            stack.enter_context(torch.autocast(torch.device(device).type, torch.bfloat16))
        yield


@contextmanager
def attention_kernels(precision: str, device: torch.device | str) -> Iterator[None]:
    """Those of `computing`, for the backward pass: checkpointing computes blocks again there, by the same kernels."""
    with ExitStack() as stack:
        if resolve(precision, device) == "bfloat16" and torch.device(device).type == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the fused one's backward takes a third of a small step
        yield
