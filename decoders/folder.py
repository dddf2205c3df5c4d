"""Weights and settings in a folder: `config.json` and `model.safetensors`. Loading them runs no code."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from decoders.files import beside, save_tensors, sync
from encoders.sizes import believed, check_counts

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def write_folder(folder: str | Path, config: dict[str, Any], tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Path:
    """Write settings and tensors, floating-point ones in `dtype`. Each file is replaced as a whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kept = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).detach().cpu().contiguous().clone()
        for name, tensor in tensors.items()
    }
    with beside(folder) as parts:
        save_tensors(kept, parts / WEIGHTS, {"format": "pt"})
        (parts / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        for name in (WEIGHTS, CONFIG):
            sync(parts / name)
            os.replace(parts / name, folder / name)
    sync(folder)
    return folder


def read_folder(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings and the tensors of a folder, floating-point ones in float32.

    FileNotFoundError if one of the two files is missing, ValueError if one is damaged, or names counts of layers that
    no network has.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is not a saved codec or decoder: {name} is missing")
    with damage_reported(folder):
        config, tensors = json.loads((folder / CONFIG).read_text()), load_file(folder / WEIGHTS)
        if not isinstance(config, dict):
            raise ValueError(f"{CONFIG} holds no settings")
        check_counts(config, folder)
    return config, {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


@contextmanager
def damage_reported(folder: str | Path) -> Iterator[None]:
    """Turn the errors that a folder's contents cause into a ValueError that names the folder.

    A network that is built meanwhile may be no larger than the folder's weights.
    """
    try:
        with believed(folder):
            yield
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{folder} is damaged, or was saved by another version: {error}") from error
