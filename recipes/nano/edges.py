"""How sharp the edges of pictures are, in pixels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image

LEAST = 0.15  # of 0..1: how far the brightness rises or falls along an edge


def edge_width(pictures: Iterable[Image.Image]) -> float:
    """The width of the edges of pictures in pixels: the median of height over steepest step, from 1 for a jump.

    An edge is a stretch of a row or a column along which the brightness only rises, or only falls, by at least `LEAST`
    (after Marziliano et al. 2002, who take the stretch's length). NaN where there is none.
    """
    widths: list[np.ndarray] = []
    for picture in pictures:
        grey = np.asarray(picture.convert("L"), dtype=np.float64) / 255
        widths += [_widths(lines) for lines in (grey, grey.T)]
    found = np.concatenate(widths)
    return float(np.median(found)) if len(found) else float("nan")


def _widths(lines: np.ndarray) -> np.ndarray:
    """Of lines [N, L] the width of each edge, in reading order."""
    steps = np.pad(np.diff(lines, axis=1), ((0, 0), (0, 1))).ravel()  # 0 between lines ends a stretch
    begins = np.flatnonzero(np.diff(np.sign(steps), prepend=np.nan) != 0)
    height = np.abs(np.add.reduceat(steps, begins))
    steepest = np.maximum.reduceat(np.abs(steps), begins)
    edges = height >= LEAST
    return height[edges] / steepest[edges]
