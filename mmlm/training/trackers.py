"""Figures of a run for TensorBoard, Weights & Biases and others, through accelerate's trackers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmlm.training.ranks import is_first


@contextmanager
def trackers(names: Sequence[str], folder: Path) -> Iterator[list[Any]]:
    """Trackers of accelerate by their names: "tensorboard", "wandb", "mlflow", "comet_ml", …; in the first process.

    folder: of the run, whose name the run has there. Trackers that write files write them into its `trackers/`.
    """
    found: list[Any] = []
    if names and is_first():
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        for name in dict.fromkeys(names):
            kind = LOGGER_TYPE_TO_CLASS[name]
            places = [str(folder / "trackers")] if kind.requires_logging_directory else []
            found.append(kind(folder.resolve().name, *places))
            found[-1].start()
    try:
        yield found
    finally:
        for tracker in found:
            tracker.finish()


def check_trackers(names: Sequence[str]) -> None:
    """ImportError where accelerate or a tracker's package is not installed; ValueError for an unknown name."""
    if not names:
        return
    try:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    except ImportError as error:
        raise ImportError("trackers need accelerate: pip install 'mmlm[track]'") from error
    available = {str(getattr(kind, "value", kind)) for kind in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ValueError(f"trackers: {name!r} is none of {', '.join(sorted(map(str, LOGGER_TYPE_TO_CLASS)))}")
        if name not in available:
            raise ImportError(f"trackers: the package {name} is not installed: pip install {name}")
