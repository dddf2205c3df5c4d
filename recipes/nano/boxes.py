"""The pictures of NLVR read into what is in their boxes, told in words, and varied so that what is true stays true.

A picture holds three gray boxes. In about half of them blocks stand on one another as a tower; in the others squares,
circles and triangles of three sizes lie anywhere (Suhr et al. 2017). A sentence about a picture is as true after the
boxes have changed their order, and after two colours, or two shapes, have changed places in picture and sentence.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

STARTS = (0, 150, 300)  # where the boxes begin, in pixels of a picture of 400 × 100
BOX = 100
GROUND = (211, 211, 211)
COLOURS = {"yellow": (255, 255, 0), "black": (0, 0, 0), "blue": (0, 153, 255)}
SHAPES = ("square", "circle", "triangle")
SIZES = {10: "small", 20: "medium", 30: "large"}
MIDDLE = 40  # where the blocks of towers begin
NEAR = 70  # how far, of 255, a pixel may be from a colour in any channel
LEAST = 12  # pixels of an item


@dataclass(frozen=True)
class Item:
    """One item of a box: left and top in pixels of the box, and its side, one of SIZES."""

    colour: str
    shape: str
    left: int
    top: int
    side: int


Box = tuple[Item, ...]
"""What is in a box, from the bottom to the top."""


def read_boxes(picture: Image.Image) -> tuple[Box, ...]:
    """The three boxes of a picture, by its pixels."""
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    if pixels.shape != (BOX, STARTS[-1] + BOX, 3):
        raise ValueError(f"a picture of NLVR has {STARTS[-1] + BOX} × {BOX} pixels, not {picture.size}")
    return tuple(_read(pixels[:, start : start + BOX]) for start in STARTS)


def _read(pixels: np.ndarray) -> Box:
    found = []
    for colour, value in COLOURS.items():
        for places in _parts(np.abs(pixels - value).max(2) < NEAR):
            if len(places) < LEAST:
                continue
            top, left = places.min(0)
            high, wide = places.max(0) - (top, left) + 1
            side = min(SIZES, key=lambda known: abs(known - max(high, wide)))
            filled = len(places) / (high * wide)
            shape = "square" if filled > 0.9 else "circle" if filled > 0.68 else "triangle"
            found.append(Item(colour, shape, int(left), int(top), side))
    return in_order(found)


def in_order(items: Iterable[Item]) -> Box:
    """Items as a box has them: from the bottom to the top, and from left to right."""
    return tuple(sorted(items, key=lambda item: (-item.top - item.side, item.left)))


def overlap(one: Item, other: Item) -> bool:
    """Whether two items touch or lie on one another."""
    return all(
        start <= end + far and end <= start + near
        for start, end, near, far in (
            (one.left, other.left, one.side, other.side), (one.top, other.top, one.side, other.side),
        )
    )  # fmt: skip


def _parts(mask: np.ndarray) -> list[np.ndarray]:
    """The connected parts of a mask, each the (row, column) of its pixels [N, 2]."""
    left, found = mask.copy(), []
    for start in zip(*np.nonzero(mask), strict=True):
        if not left[start]:
            continue
        left[start] = False
        waiting, own = [start], []
        while waiting:
            row, column = waiting.pop()
            own.append((row, column))
            for near in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if 0 <= near[0] < BOX and 0 <= near[1] < BOX and left[near]:
                    left[near] = False
                    waiting.append(near)
        found.append(np.array(own))
    return found


def is_tower(box: Box) -> bool:
    """Whether the items are blocks that stand on one another in the middle, from the bottom on."""
    same = {(item.shape, item.side, abs(item.left - MIDDLE) <= 1) for item in box}
    return same == {("square", 20, True)} and box[0].top + box[0].side >= BOX - 1


def draw_box(box: Box) -> Image.Image:
    """A box as a picture of its own, as NLVR draws it."""
    picture = Image.new("RGB", (BOX * 4, BOX * 4), GROUND)
    pen = ImageDraw.Draw(picture)
    for item in box:
        left, top = item.left * 4, item.top * 4
        right, bottom = left + item.side * 4 - 1, top + item.side * 4 - 1
        if item.shape == "square":
            pen.rectangle((left, top, right, bottom), COLOURS[item.colour])
        elif item.shape == "circle":
            pen.ellipse((left, top, right, bottom), COLOURS[item.colour])
        else:
            pen.polygon(((left, bottom), (right, bottom), ((left + right) // 2, top)), COLOURS[item.colour])
    return picture.reduce(4)


def told_box(box: Box) -> str:
    """What is in a box, in few words, from the bottom to the top: towers by their colours, else every item."""
    if not box:
        return "nothing"
    if is_tower(box):
        return f"tower: {', '.join(item.colour for item in box)}"
    return ", ".join(_told(item) for item in box)


def _told(item: Item) -> str:
    touched = walls(item)
    return " ".join((SIZES[item.side], item.colour, item.shape, *(("touching", *touched) if touched else ())))


def walls(item: Item) -> list[str]:
    """The walls of its box that an item touches: of `left`, `right`, `top` and `bottom`."""
    touched = {
        "left": item.left <= 1,
        "right": item.left + item.side >= BOX - 1,
        "top": item.top <= 1,
        "bottom": item.top + item.side >= BOX - 1,
    }
    return [name for name, touches in touched.items() if touches]


def varied(sentence: str, boxes: Sequence[Box], rng: random.Random) -> tuple[str, list[Box]]:
    """A sentence and the boxes that it is about, with colours, shapes, sides and boxes changed, and as true as before.

    Shapes stay where there are towers, or where the sentence speaks of blocks, which are squares.
    """
    colours = dict(zip(COLOURS, rng.sample(list(COLOURS), len(COLOURS)), strict=True))
    fixed = any(map(is_tower, boxes)) or re.search("block|tower|grey square|gray square", sentence.lower())
    shapes = dict(zip(SHAPES, SHAPES if fixed else rng.sample(SHAPES, len(SHAPES)), strict=True))
    mirrored = rng.random() < 0.5 and not re.search("left|right", sentence.lower())
    words = {**colours, **shapes, **{f"{old}s": f"{new}s" for old, new in shapes.items()}}
    said = re.sub("[A-Za-z]+", lambda match: _as(match[0], words.get(match[0].lower(), match[0])), sentence)
    moved = [
        tuple(
            replace(
                item,
                colour=colours[item.colour],
                shape=shapes[item.shape],
                left=BOX - item.left - item.side if mirrored else item.left,
            )
            for item in box
        )
        for box in rng.sample(list(boxes), len(boxes))
    ]
    return said, moved


def _as(old: str, new: str) -> str:
    """A word that begins with a capital where the old one did."""
    return new[:1].upper() + new[1:] if old[:1].isupper() else new
