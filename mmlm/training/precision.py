"""In which precision a training step computes; weights and optimizer stay float32 whatever it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def multiplies_bfloat16(device: torch.device | str) -> bool:
    """Whether the hardware multiplies bfloat16 itself; where it does not, autocast is slower than float32."""
    kind = torch.device(device).type
    if kind == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def resolve(precision: str, device: torch.device | str) -> str:
    """ "auto" as "bfloat16" where the hardware multiplies it, else "float32"; the others as they are."""
    if precision == "auto":
        return "bfloat16" if multiplies_bfloat16(device) else "float32"
    return precision


@contextmanager
def computing(precision: str, device: torch.device | str) -> Iterator[None]:
    """The forward pass of a training step in "float32", "bfloat16" (autocast) or "auto"."""
    kind = torch.device(device).type
    with ExitStack() as stack:
        if resolve(precision, device) == "bfloat16":
            stack.enter_context(torch.autocast(kind, torch.bfloat16))
            if kind == "cpu":  # the fused attention's backward pass in bfloat16 takes a third of a small model's step
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
