"""What state.json must hold before a run goes on from it: whoever wrote it may have written its checksum too."""

from __future__ import annotations

import math

from decoders.values import check_kind, check_kinds, check_least
from mmlm.training.checkpoint import Checkpoint
from mmlm.training.result import Progress


def progress_of(checkpoint: Checkpoint) -> Progress:
    """How far the run of a checkpoint has come. ValueError for a state.json that no run has written."""
    try:
        return _checked(checkpoint.state, checkpoint.folder.name)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(
            f"{checkpoint.folder / 'state.json'} is none of a run ({type(error).__name__}: {str(error)[:200]}); remove "
            "this checkpoint, or choose another output folder"
        ) from error


def _checked(state: dict, folder: str) -> Progress:
    identity, sketches = state["identity"], [state["identity"]["starting_weights"], state["weights"]]
    check_kind("steps", identity["steps"], int)
    check_kind("precision", identity.get("precision"), str | None)
    check_kind("threads", state["threads"], int)
    progress = Progress(**state["progress"])
    loss, progress.last_loss = progress.last_loss, 0.0  # which is NaN before the first line of the log
    check_kinds(progress)
    progress.last_loss = float(loss)
    check_least(progress, step=0, skipped=0, skipped_in_a_row=0, count=0)
    for figures in (*sketches, progress.figures):
        for name, value in figures.items():
            check_kind(name, value if value == value else math.inf, float)
    if not state["step"] == progress.step == int(folder.removeprefix("step-")) <= identity["steps"]:
        raise ValueError(f"its steps are {state['step']}, {progress.step}, {folder} and {identity['steps']}")
    return progress
