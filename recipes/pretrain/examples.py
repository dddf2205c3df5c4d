"""What the parts learn from. Without torch, so that processes which only make examples start at once."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Region:
    """Part of a picture and what is said of it: `box` is left, top, right, bottom, from 0 to 1.

    `phrases[k]` is of the same sort k in all regions of a set (k = 0 names shapes, 1 colours, ...), so that two
    different phrases of one sort are never both true; None where nothing of that sort is said.
    """

    box: tuple[float, float, float, float]
    phrases: tuple[str | None, ...]


@dataclass(frozen=True)
class Utterance:
    """Speech at 16 kHz, int16 [T], and what is said; "" where nobody speaks."""

    samples: np.ndarray
    text: str
