"""What a guest, a language model in any coat, turns out to be when it runs: a wrapper hides the signature."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any


def refused_argument(error: TypeError, given: Iterable[str]) -> str | None:
    """Which of the given arguments a call refused by name; None for an error of another kind."""
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    return found[1] if found is not None and found[1] in given else None


def plain_names(state: dict[str, Any]) -> dict[str, Any]:
    """A state dict with the names that it has without `torch.compile`."""
    return {name.replace("_orig_mod.", ""): value for name, value in state.items()}
