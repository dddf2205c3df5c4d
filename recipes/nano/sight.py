"""Reading a drawn scene back from its pixels, by no network: the judge of what nano draws."""

from __future__ import annotations

import functools
import random

import numpy as np
from PIL import Image, ImageDraw

from recipes.nano.scenes import (
    BACKGROUNDS,
    COLOURS,
    GRID,
    SHAPES,
    SIDE,
    SIZES,
    SUPERSAMPLE,
    Kind,
    Scene,
    Thing,
    draw_shape,
)

REACH = 11  # pixels from the middle of a cell that are looked at, to each side
FAINTEST = 25.0  # how far, of 255, a pixel of a thing stands out of the background at least
LEAST = 12.0  # pixels' worth of such difference that make a thing


def read_scene(picture: Image.Image) -> Scene:
    """The scene that a picture shows: each cell as the shape, size and colour that explain it best.

    Pictures are of 64 × 64 pixels, or of a multiple, which is averaged.
    """
    times, rest = divmod(picture.width, SIDE)
    if rest or picture.width != picture.height or not times:
        raise ValueError(f"scenes are {SIDE} × {SIDE} pixels or a multiple, not {picture.size}")
    pixels = np.asarray(picture.convert("RGB").reduce(times), dtype=np.float32)
    ground = np.median(pixels.reshape(-1, 3), axis=0)
    padded = np.pad(pixels - ground, ((REACH, REACH), (REACH, REACH), (0, 0)))
    names, masks = _templates()
    things = []
    for cell in range(GRID * GRID):
        top, left = (round((place + 0.5) * SIDE / GRID) for place in divmod(cell, GRID))
        seen = padded[top : top + 2 * REACH, left : left + 2 * REACH].reshape(-1, 3)
        if (np.abs(seen).max(1) > FAINTEST).sum() < LEAST:
            continue
        # Of each mask the colour that fits best, and how much of the difference it explains.
        weights = np.square(masks).sum(1)
        fitted = masks @ seen / weights[:, None]  # [M, 3]
        chosen = int((np.square(fitted).sum(1) * weights).argmax())
        size, shape = names[chosen]
        colour = min(COLOURS, key=lambda name: np.square(ground + fitted[chosen] - COLOURS[name]).sum())
        things.append(Thing(cell, Kind(size, colour, shape)))
    background = min(BACKGROUNDS, key=lambda name: np.square(ground - BACKGROUNDS[name]).sum())
    return Scene(background, tuple(things))


@functools.cache
def _templates() -> tuple[list[tuple[str, str]], np.ndarray]:
    """(size, shape) and coverage [M, (2·REACH)²] of every shape in every size, a little larger, smaller and moved."""
    names, masks = [], []
    for size, diameter in SIZES.items():
        for shape in SHAPES:
            for form in range(10 if shape == "rectangle" else 1):  # rectangles are of many proportions
                for scale in (0.97, 1.03):
                    for dx in np.arange(-2.5, 2.6, 0.5):
                        for dy in np.arange(-2.5, 2.6, 0.5):
                            names.append((size, shape))
                            masks.append(_mask(shape, REACH + dx, REACH + dy, diameter * scale, form))
    return names, np.stack(masks)


def _mask(shape: str, x: float, y: float, diameter: float, form: int) -> np.ndarray:
    canvas = Image.new("L", (2 * REACH * SUPERSAMPLE,) * 2)
    draw_shape(ImageDraw.Draw(canvas), shape, x, y, diameter, 255, _Proportion(form))
    return np.asarray(canvas.reduce(SUPERSAMPLE), dtype=np.float32).ravel() / 255


class _Proportion(random.Random):
    """Gives rectangle number `form` its proportion, in place of a draw."""

    def __init__(self, form: int) -> None:
        super().__init__(0)
        self.form = form

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * (self.form // 2) / 4

    def random(self) -> float:
        return 0.0 if self.form % 2 else 1.0
