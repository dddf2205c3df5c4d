"""How sharp the edges of pictures are, in pixels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image

LEAST = 0.15  # of 0..1: how far the brightness rises or falls along an edge
NOISE = 2 / 255  # what does not end a rise or a fall


def edge_width(pictures: Iterable[Image.Image]) -> float:
    """The width of the edges of pictures in pixels: the median of height over steepest step, from 1 for a jump.

    An edge is a stretch of a row or a column along which the brightness only rises, or only falls, by at least `LEAST`,
    but for noise (after Marziliano et al. 2002, who take the stretch's length). NaN where there is none.
    """
    widths = [np.empty(0)]
    for picture in pictures:
        grey = np.asarray(picture.convert("L"), dtype=np.float64) / 255
        widths += [_widths(lines) for lines in (grey, grey.T)]
    found = np.concatenate(widths)
    return float(np.median(found)) if len(found) else float("nan")


def _widths(lines: np.ndarray) -> np.ndarray:
    """Of lines [N, L] the width of each edge, in reading order."""
    steps = np.diff(lines, axis=1, append=lines[:, -1:]).ravel()
    ways = np.where(np.abs(steps) > NOISE, np.sign(steps), 0)
    ways[lines.shape[1] - 1 :: lines.shape[1]] = 2  # the end of a line ends a stretch
    last = np.maximum.accumulate(np.where(ways != 0, np.arange(len(ways)), 0))
    begins = np.flatnonzero(np.diff(ways[last], prepend=np.nan) != 0)
    height = np.abs(np.add.reduceat(steps, begins))
    steepest = np.maximum.reduceat(np.abs(steps), begins)
    edges = height >= LEAST
    return height[edges] / steepest[edges]
