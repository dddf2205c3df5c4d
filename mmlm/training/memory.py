"""The most memory that is held: of a GPU by torch's count, else of this process by that of the system."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

import torch


def forget_peak(device: torch.device) -> None:
    """Begins anew to look for the most memory; first this process gives back what is free. On a CPU, Linux has this."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> int | None:
    """Bytes held at most since `forget_peak`; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    return None
