"""Whether what a request needs fits into memory, asked before it is taken: a machine without memory answers nobody."""

from __future__ import annotations

from pathlib import Path

import torch

_CONTROL_GROUP = Path("/sys/fs/cgroup")  # of a container


SMALL = 1 << 26  # bytes, for which it is not worth asking


class MemoryLimitError(ValueError):
    """A request that does not fit into memory. The message says what it would take, and what to lower."""


def check_memory(needed: int, rows: int, positions: int, device: torch.device) -> None:
    """MemoryLimitError where the `needed` bytes of `rows` rows of so many positions are more than what is free.

    Where the system does not say what is free, nothing is checked.
    """
    free = None if needed < SMALL else free_bytes(device)
    if free is not None and needed > free:
        raise MemoryLimitError(
            f"{rows:,} rows of {positions:,} positions take {needed / 1e9:,.1f} GB, and {max(free, 0) / 1e9:,.1f} GB "
            f"are free on {device}; take fewer at once (batch_size, num_beams, num_return_sequences, num_images), or "
            "lower max_new_tokens"
        )


def free_bytes(device: torch.device) -> int | None:
    """How many bytes can still be taken on a device; None where that is unknown."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    if device.type != "cpu":
        return None
    found = [own for own in (_of_system(), _of_control_group()) if own is not None]
    return min(found, default=None)


def _of_system() -> int | None:
    """What Linux says that programs can still take without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _of_control_group() -> int | None:
    """What is left of a container's limit; pages of files that can be given back count as free."""
    try:
        limit, used = (int((_CONTROL_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        lines = (_CONTROL_GROUP / "memory.stat").read_text().splitlines()
        cached = sum(int(line.split()[1]) for line in lines if line.split()[0] in ("inactive_file", "active_file"))
        return limit - used + cached
    except (OSError, ValueError):  # "max": there is no limit
        return None
