"""What identifies a run, so that a checkpoint is continued by no other: settings, data and weights, by content."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmlm.data.streams.versions import version_changed
from mmlm.training.checkpoint import Checkpoint
from mmlm.training.dtensors import full

SKETCHED_AT_ONCE = 1 << 20  # values that are copied as float64


def digest(*parts: Any) -> str:
    """16 hex digits of a SHA-256 over parts: tensors and bytes by their content, anything else by its repr."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            found.update(f"{part.dtype} {list(part.shape)};".encode())
            part = part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
        elif not isinstance(part, bytes):
            part = repr(part).encode()
        found.update(hashlib.sha256(part).digest())
    return found.hexdigest()[:16]


def sketch(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """One number for each tensor that tells its content from any other: its sum, with fixed random signs, over √numel.

    Unlike a hash it may be compared with a tolerance: initial weights that two processors draw from one seed differ in
    their last bits.
    """
    found = {}
    for name, tensor in tensors.items():
        draw, total = torch.Generator().manual_seed(0), 0.0
        for values in full(tensor.detach()).flatten().split(SKETCHED_AT_ONCE):
            signs = torch.randint(2, values.shape, generator=draw, dtype=torch.int8) * 2 - 1
            total += float((values.cpu().double() * signs).sum())
        found[name] = total / math.sqrt(max(1, tensor.numel()))
    return found


def check_identity(checkpoint: Checkpoint, identity: dict[str, Any], output: Path, extend: bool = False) -> None:
    """ValueError that names what differs between a checkpoint's run and this one; no tensor is read.

    Starting weights also agree if they are the checkpoint's: the model is then the one that was stopped.
    extend: more steps are no difference.
    """
    known = checkpoint.state["identity"]
    names = sorted({*known, *identity} - {"starting_weights"})
    changed = [name for name in names if known.get(name) != identity.get(name)]
    longer = known["steps"] < identity["steps"]
    if extend and longer:
        changed.remove("steps")
    if not _same_start(identity["starting_weights"], known["starting_weights"], checkpoint.state["weights"]):
        changed.append("starting_weights")
    if changed:
        differences = "; ".join(_difference(name, known.get(name), identity.get(name)) for name in changed)
        more = "to train that run for more steps, set extend=True; " if longer and not extend else ""
        raise ValueError(
            f"{output} holds a run with other settings ({differences}). To go on with it, give what it was begun with; "
            f"{more}for a new run, choose another output folder, or set resume=False, which removes the old one's "
            "checkpoints (in recipes and on the command line: resume=false, extend=true)"
        )


def _same_start(now: dict[str, float], start: dict[str, float], stopped: dict[str, float]) -> bool:
    """Whether sketches are those of the start or, where trained weights have moved, those of the checkpoint."""
    if now.keys() != start.keys():
        return False
    moved = {name for name, value in now.items() if not _near(value, start[name])}
    trained = moved & stopped.keys()
    return all(_near(now[name], stopped[name]) for name in trained) if trained else not moved


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-6)


def _difference(name: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        inner = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
        if name == "files":
            inner = [version_changed(key, before.get(key), now.get(key)) for key in inner]
        return f"{name}: {', '.join(inner[:3])}{', …' * (len(inner) > 3)}" if inner else name
    if name == "starting_weights":
        return name
    if name == "files":  # all of them would be a page: those of a run that reads other data, or kept none
        return "files: not known of the run" if before is None else "files: known of the run alone"
    return f"{name} was {before!r}, now {now!r}"
