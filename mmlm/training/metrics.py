"""metrics.jsonl, with one line of figures at a time, and the loss curve drawn from it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from decoders.files import sync
from mmlm.training.ranks import is_first


def plot_losses(metrics: Path, picture: Path, unit: str) -> None:
    """Draws training and held-out losses, in `unit`, over steps into a PNG. ImportError without matplotlib."""
    from matplotlib.figure import Figure  # the object interface: no window, no global state

    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    names = dict.fromkeys(name for line in lines for name in line)  # each once, in their order
    for name in (name for name in names if name == "loss" or name.startswith("held_out_loss")):
        points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        label, style = ("training", "-") if name == "loss" else (name.replace("_", " "), "o-")
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1.2, markersize=3.5)
    axes.set(xlabel="step", ylabel=unit)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(frameon=False)
    temporary = picture.with_name(f".{picture.name}")
    figure.savefig(temporary, format="png", dpi=130)
    temporary.replace(picture)


class Metrics:
    """Lines of metrics.jsonl, which the first process writes, and how much is read a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._clock, self._size = 0.0, 0

    def begin(self, step: int) -> None:
        """Drops the lines of steps after `step`, and a last line that was cut off."""
        if not is_first():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if self.path.exists() and step >= 0:
            for line in self.path.read_bytes().splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line + b"\n")
                except (ValueError, KeyError, TypeError):
                    break
        temporary = self.path.with_name(f".{self.path.name}")
        temporary.write_bytes(b"".join(kept))
        temporary.replace(self.path)

    def write(self, **line: Any) -> None:
        """Appends a line."""
        if not is_first():
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def sync(self) -> None:
        """Waits until the lines are on the disk."""
        if not is_first():
            return
        sync(self.path)

    def start(self) -> None:
        """Starts the clock."""
        self._clock, self._size = time.perf_counter(), 0

    def add(self, size: int) -> None:
        """Counts what a step has read."""
        self._size += size

    def rate(self) -> float:
        """How much was read a second since the last call, or since `start`."""
        now = time.perf_counter()
        found = round(self._size / (now - self._clock), 1)
        self._clock, self._size = now, 0
        return found

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count the time of the block."""
        started = time.perf_counter()
        yield
        self._clock += time.perf_counter() - started
