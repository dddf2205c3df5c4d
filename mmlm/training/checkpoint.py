"""Checkpoints: folders that appear whole or not at all, tensors in safetensors, no pickle.

checkpoints/step-00000200/model.safetensors       the trained weights, and other tensors that the run changes
                          optimizer.safetensors   the optimizers' moments
                          state.json              step, identity, running sums, number of threads
                          SHA256SUMS              of the others, as `sha256sum -c` reads them
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from decoders.files import save_tensors, sync
from encoders.model_files import read_json
from mmlm.training.dtensors import local, split_like
from mmlm.training.ranks import gathered
from mmlm.training.result import NonFiniteLossError

log = logging.getLogger(__name__)

FILES, SUMS = ("model.safetensors", "optimizer.safetensors", "state.json"), "SHA256SUMS"
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are whole; `state` is its JSON, and the tensors are read when they are asked for."""

    folder: Path
    state: dict

    @property
    def weights(self) -> dict[str, Tensor]:
        """By name, on the CPU. ValueError for a file that is damaged in spite of its checksum."""
        return _tensors(self.folder / "model.safetensors")

    @property
    def optimizer(self) -> dict[str, Tensor]:
        """What `optimizer_tensors` took, on the CPU. ValueError as for `weights`."""
        return _tensors(self.folder / "optimizer.safetensors")

    def weights_like(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of these names. ValueError where one is missing, or has another shape."""
        found = self.weights
        for name, tensor in tensors.items():
            if name not in found or found[name].shape != tensor.shape:
                raise ValueError(f"{self.folder / 'model.safetensors'} has no {name} of the shape {list(tensor.shape)}")
        return found


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def save_checkpoint(
    folder: Path, step: int, weights: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict, keep: int
) -> Path:
    """Writes `folder/step-XXXXXXXX` and removes all but the newest `keep`.

    It is written under a temporary name, flushed to disk, then renamed: a crash at any point leaves the older ones
    whole. If there is a whole checkpoint of this step already, nothing is written. Checkpoints of later steps are
    removed too: they are damaged, or the run would have gone on from them.
    """
    if not folder.exists():
        folder.mkdir(parents=True)
        sync(folder.parent)
    place = folder / f"step-{step:08d}"
    if place.exists() and _damage(place) is None:
        return place
    temporary = folder / f".{place.name}.tmp"
    remove_leftovers(folder)
    temporary.mkdir()
    for name, content in zip(FILES, (weights, optimizer), strict=False):
        save_tensors({key: tensor.detach().cpu().contiguous() for key, tensor in content.items()}, temporary / name)
    (temporary / "state.json").write_text(json.dumps({"step": step, **state}, indent=1))
    (temporary / SUMS).write_bytes(_sums(temporary))
    sync(*temporary.iterdir(), temporary)
    if place.exists():  # damaged
        _give_up(place)
    temporary.rename(place)
    sync(folder)
    others = _folders(folder)
    for other in others[: others.index(place)]:
        _give_up(other)
    keep_newest(folder, place, keep)
    return place


def keep_newest(folder: Path, place: Path, keep: int) -> None:
    """Removes the checkpoints that are older than `place` and, with it, the newest `keep`."""
    others = _folders(folder)
    for other in others[others.index(place) + keep :]:
        _give_up(other)
    remove_leftovers(folder)


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are whole, or None where there is none; ValueError if all are damaged.

    Each damaged one that is passed over is named in a warning, with its damage.
    """
    candidates = _folders(folder)
    damages = []
    for place in candidates:
        if (damage := _damage(place)) is None:
            return Checkpoint(place, read_json(place / "state.json"))
        damages.append(f"{place.name}: {damage}")
        log.warning("the checkpoint %s is damaged (%s) and is passed over", place, damage)
    if candidates:
        raise ValueError(
            f"all checkpoints in {folder} are damaged ({'; '.join(damages)}); remove them or choose another output "
            "folder"
        )
    return None


def check_finite(weights: dict[str, Tensor], state: dict[str, Tensor], step: int, output: Path) -> None:
    """NonFiniteLossError that names weights or moments that are NaN or infinite, or other tensors that are NaN.

    Others may be infinite, such as the mask of a causal attention.
    """
    wrong = [name for name, tensor in weights.items() if not local(tensor).isfinite().all()]
    wrong += [name for name, tensor in state.items() if tensor.is_floating_point() and tensor.isnan().any()]
    wrong = [*dict.fromkeys(name for found in gathered(wrong) for name in found)]
    if wrong:
        names = ", ".join(wrong[:3]) + (", …" if len(wrong) > 3 else "")
        raise NonFiniteLossError(
            f"at step {step} these are not finite: {names}; nothing of them is saved, and the checkpoints in {output} "
            "are those of before. Try a lower learning_rate or max_grad_norm, precision='float32', or look for odd "
            "pictures or texts"
        )


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
    """Restores what `optimizer_tensors` took, on the parameter's device, where fused AdamW keeps all of its state.

    ValueError for what belongs to no parameter, or has another shape.
    """
    parameters = {name: parameter for parameter, name in names.items()}
    owner = {
        parameter: optimizer for optimizer in optimizers for group in optimizer.param_groups
        for parameter in group["params"]
    }  # fmt: skip
    for key, value in tensors.items():
        entry, _, name = key.partition(".")
        if (parameter := parameters.get(name)) is None:
            raise ValueError(f"{key} of a checkpoint belongs to no parameter that is trained")
        if value.ndim and value.shape != parameter.shape:
            raise ValueError(f"{key} of a checkpoint has the shape {list(value.shape)}, not {list(parameter.shape)}")
        owner[parameter].state[parameter][entry] = split_like(value.clone(), parameter)


def _folders(folder: Path) -> list[Path]:
    """Checkpoints, newest first."""
    places = [place for place in folder.glob("step-*") if _NAME.fullmatch(place.name)]
    return sorted(places, key=lambda place: int(place.name.removeprefix("step-")), reverse=True)


def remove_checkpoints(folder: Path) -> None:
    """Removes all checkpoints of a run, the newest first: one that is killed meanwhile leaves whole ones or none."""
    for place in _folders(folder):
        _give_up(place)
    remove_leftovers(folder)


def _give_up(place: Path) -> None:
    """Takes a checkpoint's name away at once: a process that is killed while it deletes leaves no half checkpoint."""
    place.rename(place.with_name(f".{place.name}.old"))


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed run began to write, or to delete."""
    for place in (*folder.glob(".step-*.tmp"), *folder.glob(".step-*.old")):
        shutil.rmtree(place)


def _damage(place: Path) -> str | None:
    """What is wrong with a checkpoint; None if every file is as it was written."""
    try:
        kept, found = (place / SUMS).read_bytes(), _sums(place)
    except OSError as error:
        return f"{Path(error.filename or place).name} cannot be read ({error.strerror})"
    if kept == found:
        return None
    lines = set(kept.splitlines())
    changed = [line.decode().partition("  ")[2] for line in found.splitlines() if line not in lines]
    return f"{', '.join(changed) or SUMS} changed after it was written"


def _sums(place: Path) -> bytes:
    """What `sha256sum` prints of a checkpoint's files."""
    lines = []
    for name in FILES:
        with open(place / name, "rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines).encode()
