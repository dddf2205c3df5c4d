"""Arrays and tensors of any library, as plain arrays of NumPy."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from encoders.media.source import MediaError


def is_tensor(source: Any) -> bool:
    """Whether a source is a tensor of torch, without importing it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


def plain_array(source: Any, label: str) -> np.ndarray:
    """The values of an array or tensor, of its own type. MediaError where they are not all there."""
    if not is_tensor(source):
        if np.ma.is_masked(source):
            raise MediaError(f"{label}: an array of which values are masked; fill them first")
        return np.asarray(source)  # of a subclass, such as a matrix, too
    if source.is_meta:
        raise MediaError(f"{label}: a tensor of the meta device holds no values")
    try:
        values = source.detach().cpu().resolve_neg()
        return (values.float() if values.is_floating_point() else values).numpy()  # NumPy has no bfloat16
    except (TypeError, RuntimeError) as error:  # a sparse, quantized or conjugated one
        raise MediaError(f"{label}: a tensor that NumPy cannot hold; give a dense one of plain numbers") from error
