"""metrics.jsonl: one line of figures at a time, and the loss curve drawn from them."""

from __future__ import annotations

import json
from pathlib import Path


def plot_losses(metrics: Path, picture: Path) -> None:
    """Draws training and held-out loss over steps into a PNG. Needs matplotlib (ImportError without it)."""
    from matplotlib.figure import Figure  # the object interface: no window, no global state

    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, label, style in (("loss", "training", "-"), ("held_out_loss", "held out", "o-")):
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1.2, markersize=3.5)
    axes.set(xlabel="step", ylabel="loss (nats per answer token)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    temporary = picture.with_name(f".{picture.name}")
    figure.savefig(temporary, format="png", dpi=130)
    temporary.replace(picture)


def keep_lines(metrics: Path, step: int) -> None:
    """Drops the metrics of steps after the checkpoint, and a last line that was cut off."""
    metrics.parent.mkdir(parents=True, exist_ok=True)
    kept = []
    if metrics.exists() and step >= 0:
        for line in metrics.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except ValueError:
                break
    temporary = metrics.with_name(f".{metrics.name}")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(metrics)
