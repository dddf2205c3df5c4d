"""torch's private names, looked up when they are needed: a version of torch without one of them only lacks a kernel."""

from collections.abc import Callable
from typing import Any

import torch


def operator(name: str) -> Callable[..., Any] | None:
    """The operator `torch.ops.NAME`, such as "mkldnn._linear_pointwise"; None if this torch does not have it."""
    namespace, _, own = name.partition(".")
    try:
        return getattr(getattr(torch.ops, namespace), own).default
    except AttributeError:
        return None


def operators(*names: str) -> tuple[Callable[..., Any], ...] | None:
    """All of these operators; None if one is missing."""
    found = [operator(name) for name in names]
    return tuple(one for one in found if one is not None) if None not in found else None


def answers(question: str) -> bool:
    """What `torch.cpu.QUESTION()` or the operator "mkldnn.QUESTION" answers; False if this torch does not know it."""
    ask = operator(question) if "." in question else getattr(torch.cpu, question, None)
    return ask is not None and bool(ask())
