"""A table of ways to decode, with intervals over the seeds of their training."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from recipes.diffusion_decoder.decoders import Decode

STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # 95%, two-sided, by the number of seeds

Measure = Callable[[Decode], list[float]]


def compare(ways: dict[str, list[Decode]], columns: dict[str, int], measure: Measure, distance: str) -> None:
    """Print a row for each way, its `measure`s under `columns` (name → digits), and what four steps do to one."""
    print(f"| decoder | {' | '.join(columns)} |")
    print(f"| --- |{' --- |' * len(columns)}")
    apart = {}
    for name, decoders in ways.items():
        figures = dict(zip(columns, zip(*(measure(decode) for decode in decoders), strict=True), strict=True))
        apart[name] = statistics.mean(figures[distance])
        print(f"| {name} | {' | '.join(interval(figures[c], d) for c, d in columns.items())} |", flush=True)
    diffused = apart["diffusion, 4 steps"]
    told = [f"{apart[name] / diffused:.1f} times lower than of {name}" for name in list(apart)[:2]]
    print(f"\n{distance.capitalize()} of four steps: {', '.join(told)}.")


def interval(values: tuple[float, ...], digits: int) -> str:
    """Mean ± half the 95% interval of Student's t, where there is more than one value."""
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    half = STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean} ± {half:.{digits}f}"
