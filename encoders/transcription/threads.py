"""Torch's number of threads is the program's own: libraries that set it for their purposes are not to change it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def keeping_threads() -> Iterator[None]:
    """A context after which torch has the number of threads that it had before."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
