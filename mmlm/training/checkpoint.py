"""Checkpoints: folders that appear whole or not at all, tensors in safetensors, no pickle.

checkpoints/step-00000200/model.safetensors       the trained weights, and other tensors that the run changes
                          optimizer.safetensors   the optimizers' moments
                          state.json              step, identity, running sums; size and checksum of the others
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are whole; `state` is its JSON, and the tensors are read when they are asked for."""

    folder: Path
    state: dict

    @property
    def weights(self) -> dict[str, Tensor]:
        """By name, on the CPU."""
        return load_file(self.folder / "model.safetensors")

    @property
    def optimizer(self) -> dict[str, Tensor]:
        """What `optimizer_tensors` took, on the CPU."""
        return load_file(self.folder / "optimizer.safetensors")


def save_checkpoint(
    folder: Path, step: int, weights: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict, keep: int
) -> Path:
    """Writes `folder/step-XXXXXXXX` and removes all but the newest `keep`.

    It is written under a temporary name, flushed to disk, then renamed: a crash at any point leaves the older ones
    whole. If there is a whole checkpoint of this step already, nothing is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"step-{step:08d}"
    if _read_state(place) is not None:
        return place
    temporary = folder / f".{place.name}.tmp"
    _remove_leftovers(folder)
    temporary.mkdir()
    tensors = {"model.safetensors": weights, "optimizer.safetensors": optimizer}
    for name, content in tensors.items():
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in content.items()}, temporary / name)
    files = {name: _size_and_checksum(temporary / name) for name in tensors}
    (temporary / "state.json").write_text(json.dumps({"step": step, **state, "files": files}, indent=1))
    for path in (*temporary.iterdir(), temporary):
        _sync(path)
    if place.exists():  # damaged
        place.rename(folder / f".{place.name}.old")
    temporary.rename(place)
    _sync(folder)
    _remove_leftovers(folder)
    for old in _folders(folder)[keep:]:
        shutil.rmtree(old)
    return place


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are whole, or None where there is none; ValueError if all are damaged."""
    candidates = _folders(folder)
    for place in candidates:
        if (state := _read_state(place)) is not None:
            return Checkpoint(place, state)
    if candidates:
        raise ValueError(f"all checkpoints in {folder} are damaged; remove them or choose another output folder")
    return None


def optimizer_tensors(optimizers: Sequence[Optimizer], names: dict[Parameter, str]) -> dict[str, Tensor]:
    """The optimizers' state as `<entry>.<parameter name>` → tensor."""
    return {
        f"{entry}.{names[parameter]}": value
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    optimizers: Sequence[Optimizer], names: dict[Parameter, str], tensors: dict[str, Tensor]
) -> None:
    """Restores what `optimizer_tensors` took, on the parameter's device, where fused AdamW keeps all of its state."""
    parameters = {name: parameter for parameter, name in names.items()}
    owner = {
        parameter: optimizer for optimizer in optimizers for group in optimizer.param_groups
        for parameter in group["params"]
    }  # fmt: skip
    for key, value in tensors.items():
        entry, _, name = key.partition(".")
        if (parameter := parameters.get(name)) is not None:
            owner[parameter].state[parameter][entry] = value.clone().to(parameter.device)


def _folders(folder: Path) -> list[Path]:
    """Checkpoints, newest first."""
    places = [place for place in folder.glob("step-*") if _NAME.fullmatch(place.name)]
    return sorted(places, key=lambda place: int(place.name.removeprefix("step-")), reverse=True)


def _remove_leftovers(folder: Path) -> None:
    for place in (*folder.glob(".step-*.tmp"), *folder.glob(".step-*.old")):
        shutil.rmtree(place)


def _read_state(place: Path) -> dict | None:
    """The JSON state of a checkpoint whose files have the size and checksum it gives; None of any other."""
    try:
        state = json.loads((place / "state.json").read_text())
        whole = all(_size_and_checksum(place / name) == known for name, known in state["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return state if whole else None


def _size_and_checksum(path: Path) -> list:
    size = checksum = 0
    with open(path, "rb") as file:
        while data := file.read(1 << 24):
            size, checksum = size + len(data), zlib.crc32(data, checksum)
    return [size, f"{checksum:08x}"]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
