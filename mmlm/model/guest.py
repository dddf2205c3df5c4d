"""A guest, a language model in any coat: what it takes is found by calling it, since a wrapper hides the signature."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn


def called(
    model: nn.Module, ids: Tensor, arguments: Mapping[str, Any], refused: set[str], again: Callable[[], bool]
) -> Any:
    """What a model gives for ids and those arguments that it takes.

    refused: names of arguments that it was found not to take; one that it refuses by name now is added, and the call
    is made again without it. again: asked before, whether that is possible.
    """
    while True:
        given = {name: value for name, value in arguments.items() if name not in refused}
        try:
            return model(input_ids=ids, **given)
        except TypeError as error:
            found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if found is None or found[1] not in given or not again():
                raise
            refused.add(found[1])


def plain_names(state: dict[str, Any]) -> dict[str, Any]:
    """A state dict with the names that it has without `torch.compile`."""
    return {name.replace("_orig_mod.", ""): value for name, value in state.items()}
