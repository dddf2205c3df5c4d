"""The plot of a law: the loss along each axis, and what the law says beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from recipes.scaling.law import Fit

POINTS = 100  # of a line


def short(value: float) -> str:
    """A count in thousands or millions where it has so many."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def plot_law(fit: Fit, names: Sequence[str], runs: ArrayLike, losses: ArrayLike, largest: float, path: Path) -> None:
    """Draws into a PNG: along each axis, one line for each choice of the others. The star is the largest run.

    runs: axes `[n + 1, k]` of the fitted runs, and of the largest one as the last. losses: `[n]`; largest: its loss.
    """
    from matplotlib.figure import Figure  # the object interface: no window, no global state
    from matplotlib.ticker import FuncFormatter

    axes, losses = np.asarray(runs, float), np.asarray(losses, float)
    axes, place = axes[:-1], axes[-1]
    figure = Figure(figsize=(4.2 * (len(names) + 1), 4), layout="constrained")
    panels = figure.subplots(1, len(names) + 1)
    for axis, (name, panel) in enumerate(zip(names, panels, strict=False)):
        others = np.delete(axes, axis, 1)
        groups = np.unique(others, axis=0)
        line = np.geomspace(axes[:, axis].min(), place[axis], POINTS)
        for number, group in enumerate(groups):
            colour = f"C{number % 10}" if len(groups) <= 10 else "0.5"
            along = np.insert(np.repeat(group[None], POINTS, 0), axis, line, axis=1)
            panel.plot(line, fit.law(along), color=colour, linewidth=1, alpha=0.7)
            mine = (others == group).all(1)
            panel.plot(axes[mine, axis], losses[mine], "o", color=colour, markersize=4)
        along = np.insert(np.repeat(np.delete(place, axis)[None], POINTS, 0), axis, line, axis=1)
        panel.plot(line, fit.law(along), "k--", linewidth=1, label="as the largest run, by the law")
        panel.plot(place[axis], largest, "k*", markersize=11, label="largest run, not fitted")
        panel.set(xscale="log", xlabel=name, ylabel="held-out loss, nats a token" if not axis else "")
        own = np.unique([*axes[:, axis], place[axis]])
        panel.set_xticks(own, [short(value) for value in own])
        panel.set_xticks([], minor=True)
    told = [float(law(place[None])[0]) for law in fit.resampled]
    low, high = fit.interval(told)
    value = float(fit.law(place[None])[0])
    panel = panels[-1]
    both = [*losses, largest]
    panel.plot([min(both), max(both)], [min(both), max(both)], color="0.6", linewidth=1)
    panel.plot(losses, fit.law(axes), "o", markersize=4, label="fitted")
    panel.errorbar(
        largest, value, [[max(value - low, 0)], [max(high - value, 0)]], fmt="k*", markersize=11, capsize=3,
        label="largest run, 95% of resamples",
    )  # fmt: skip
    panel.set(xscale="log", xlabel="measured", ylabel="by the law")
    for panel in (panels[0], panels[-1]):
        panel.legend(frameon=False, fontsize=8)
    plain = FuncFormatter(lambda value, _: f"{value:.3g}")
    for panel in panels:
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter(plain)
        panel.yaxis.set_minor_formatter(plain)
        panel.grid(alpha=0.3, which="both")
    panels[-1].xaxis.set_major_formatter(plain)
    panels[-1].xaxis.set_minor_formatter(plain)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=110)
    temporary.replace(path)
