"""Where the tokens of a picture lie on it: what its encoder sees of it, and in how many patches."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from encoders.clip import ClipImageEncoder

SIDE = 512  # pixels; larger pictures are probed in this size
RAMP = (0.05, 0.95)  # of a picture's side; nearer to its ends, filters reach beyond it


def grid_of(encoder: ClipImageEncoder, tokens: int) -> tuple[int, int]:
    """Rows and columns of so many patch tokens. ValueError where they are no grid of the encoder's shape."""
    height, width = encoder.image_size
    rows = round(math.sqrt(tokens * height / width))
    if rows < 1 or rows * (tokens // rows) != tokens:
        raise ValueError(f"{tokens} tokens are no grid of {height} to {width}")
    return rows, tokens // rows


def seen_part(encoder: ClipImageEncoder, width: int, height: int) -> tuple[float, float, float, float]:
    """What the encoder sees of a picture of so many pixels: left, top, right and bottom, 0..1 of the picture.

    It is found by preprocessing a picture whose colors are its coordinates, so that any crop and any scale is. Beyond
    0..1 lies what is added around a picture.
    """
    scale = min(1.0, SIDE / max(width, height))
    columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
    probe = np.zeros((rows, columns, 3))
    probe[..., 0] = (np.arange(columns) + 0.5) / columns
    probe[..., 1] = (np.arange(rows)[:, None] + 0.5) / rows
    black, white, found = (
        encoder.preprocess(Image.fromarray(np.uint8(np.rint(255 * values))))
        for values in (np.zeros_like(probe), np.ones_like(probe), probe)
    )
    spread = white - black
    middle = torch.where(spread.abs() > 1e-6, (found - black) / spread, torch.nan)
    left, right = _ends(middle[0].nanmedian(0).values)
    top, bottom = _ends(middle[1].nanmedian(1).values)
    return left, top, right, bottom


def _ends(values: Tensor) -> tuple[float, float]:
    """Where the first pixel begins and the last ends, given the coordinates of their middles; noise is evened out."""
    steps = torch.arange(len(values), dtype=torch.float64)
    inside = (values > RAMP[0]) & (values < RAMP[1])
    if int(inside.sum()) < 2:
        return 0.0, 1.0
    own, at = values[inside].double(), steps[inside]
    slope = float(((at - at.mean()) * own).sum() / ((at - at.mean()) ** 2).sum())
    start = float(own.mean() - slope * at.mean())
    return start - slope / 2, start + slope * (len(values) - 0.5)
