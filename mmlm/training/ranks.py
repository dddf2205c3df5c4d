"""Processes that train one model together, as `torchrun` and `accelerate launch` start them.

Each holds the whole model and computes its share of every step. Without a launcher there is one process, and all of
this is nothing. The output folder must be the same for all: on several machines, on a file system that they share.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")

PATIENCE = timedelta(hours=12)  # for a process that encodes longer than others; one that dies is noticed at once


def join(device: torch.device | str) -> None:
    """Joins the processes of the launcher's environment (`RANK`, `WORLD_SIZE`, …) for the rest of the program.

    A group that exists already is used as it is. The log of all but the first process tells of errors alone.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    gpu = torch.device(device).type == "cuda"
    if gpu:
        torch.cuda.set_device(own_device(str(device)))
    store, rank, size = next(rendezvous("env://"))
    # A launcher that starts all processes again after one has died may give them the same store, with old addresses.
    store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    atexit.register(dist.destroy_process_group)  # not before: a store serves one group
    if not is_first():
        logging.getLogger("mmlm").setLevel(logging.ERROR)


def own_device(device: str) -> str:
    """`cuda` as the GPU of this process among those of its machine; any other device as it is."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if device == "cuda" and local is not None else device


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process writes and speaks for all."""
    return rank() == 0


def own(items: Sequence[T]) -> Sequence[T]:
    """This process's share of what all have alike: every `world()`-th, so that sorted lengths are spread evenly."""
    return items[rank() :: world()]


def summed(*values: float) -> list[float]:
    """The sums over all processes, in float64, which adds counts exactly."""
    if world() == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(total)
    return total.tolist()


def gathered(value: T) -> list[T]:
    """The values of all processes, in their order."""
    if world() == 1:
        return [value]
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, value)
    return found


def merged(entries: dict[int, T]) -> dict[int, T]:
    """The entries of all processes, sorted by their keys."""
    return dict(sorted(entry for found in gathered(entries) for entry in found.items()))


def by_first(work: Callable[[], T]) -> T:
    """What the first process does for all, and gives to all; its error is raised in each of them."""
    if world() == 1:
        return work()
    answer: list[Any] = [None, None]
    error: Exception | None = None
    if is_first():
        try:
            answer[0] = work()
        except Exception as found:
            answer[1] = error = found
    dist.broadcast_object_list(answer)
    if error is not None:
        raise error
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def anywhere(flag: bool) -> bool:
    """Whether it is true in any process."""
    return summed(flag)[0] > 0


def check_ranks(name: str, spreads: bool, examples: int) -> None:
    """ValueError for several processes where an objective cannot be shared, or has fewer examples a step than these."""
    if world() > 1 and not spreads:
        raise ValueError(f"{name}: this is trained by one process, not by {world()}; start it without a launcher")
    if examples < world():
        raise ValueError(
            f"{name}: {examples} examples a step are too few for {world()} processes; set batch_size or accumulation "
            "higher"
        )
