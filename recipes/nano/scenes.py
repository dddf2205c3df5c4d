"""Drawn scenes: a few coloured shapes on a plain background, known exactly, so that every caption can be judged.

Colour names and values follow easy-VQA (github.com/vzhou842/easy-VQA, MIT) where it has them, so that the same word
means the same thing in both sets; a square is a rectangle there, and so it is here.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from PIL import Image, ImageDraw

SIDE = 64  # pixels
GRID = 3  # cells a side
SUPERSAMPLE = 4

SIZES = {"small": 11.0, "large": 19.0}  # diameter in pixels
SHAPES = ("circle", "rectangle", "triangle", "star", "cross", "heart", "diamond", "ring")
COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "teal": (0, 128, 128),
    "brown": (165, 42, 42),
    "yellow": (255, 255, 0),
    "orange": (255, 140, 0),
    "purple": (150, 40, 220),
    "pink": (255, 150, 200),
    "white": (255, 255, 255),
}
BACKGROUNDS = {"white": (243, 243, 243), "black": (12, 12, 12), "gray": (180, 180, 180), "beige": (218, 192, 150)}
PLACES = (
    "in the top left", "at the top", "in the top right",
    "on the left", "in the middle", "on the right",
    "in the bottom left", "at the bottom", "in the bottom right",
)  # fmt: skip

# Never drawn in training, though the words may meet in the language model's text. Each colour at most once, and none
# of them among the pictures of easy_vqa, nlvr or emoji.
UNSEEN_PAIRS = frozenset({
    ("pink", "circle"), ("purple", "rectangle"), ("orange", "triangle"), ("blue", "star"), ("brown", "star"),
    ("black", "cross"), ("yellow", "cross"), ("teal", "heart"), ("green", "diamond"), ("gray", "ring"),
})  # fmt: skip
HELD_OUT_SHARE = 20  # one layout in so many is never drawn in training


@dataclass(frozen=True, order=True)
class Kind:
    """What two objects share when a caption counts them together."""

    size: str
    colour: str
    shape: str


@dataclass(frozen=True, order=True)
class Thing:
    """One object; `cell` counts the 3 x 3 grid in reading order, 0 at the top left."""

    cell: int
    kind: Kind

    @property
    def row(self) -> int:
        return self.cell // GRID

    @property
    def column(self) -> int:
        return self.cell % GRID


def box(cell: int) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a cell, from 0 to 1."""
    row, column = divmod(cell, GRID)
    return column / GRID, row / GRID, (column + 1) / GRID, (row + 1) / GRID


@dataclass(frozen=True)
class Scene:
    """A background and 1 to 4 things in reading order."""

    background: str
    things: tuple[Thing, ...]

    def kinds(self) -> dict[Kind, list[Thing]]:
        """Things by kind, kinds in the reading order of their first thing."""
        groups: dict[Kind, list[Thing]] = {}
        for thing in self.things:
            groups.setdefault(thing.kind, []).append(thing)
        return groups

    def is_held_out(self) -> bool:
        """Whether this layout (which kind stands in which cell) is kept for evaluation: one in HELD_OUT_SHARE."""
        layout = ";".join(f"{t.cell} {t.kind.size} {t.kind.colour} {t.kind.shape}" for t in self.things)
        return hashlib.sha256(layout.encode()).digest()[0] % HELD_OUT_SHARE == 0

    def has_unseen_pair(self) -> bool:
        return any((t.kind.colour, t.kind.shape) in UNSEEN_PAIRS for t in self.things)

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict) -> Scene:
        things = tuple(Thing(t["cell"], Kind(**t["kind"])) for t in record["things"])
        return cls(record["background"], things)


def holds(relation: str, a: Thing, b: Thing) -> bool:
    """Whether `a` stands above / below / left of / right of `b`, decided by rows and columns of the grid.

    Diagonal neighbours stand in two relations at once, as they do in speech.
    """
    return {
        "above": a.row < b.row,
        "below": a.row > b.row,
        "left of": a.column < b.column,
        "right of": a.column > b.column,
    }[relation]


def sample_scene(rng: random.Random, accept: Callable[[Scene], bool] = lambda scene: True) -> Scene:
    """A random scene among those that `accept` admits."""
    while True:
        scene = _sample(rng)
        if accept(scene):
            return scene


def training_scene(scene: Scene) -> bool:
    """Layouts and colour-shape pairs that may be drawn in training."""
    return not scene.is_held_out() and not scene.has_unseen_pair()


def unseen_layout(scene: Scene) -> bool:
    return scene.is_held_out() and not scene.has_unseen_pair()


def unseen_pair(scene: Scene) -> bool:
    return scene.has_unseen_pair()


def _sample(rng: random.Random) -> Scene:
    background = rng.choice(tuple(BACKGROUNDS))
    colours = [colour for colour in COLOURS if colour != background]
    number = rng.choices((1, 2, 3, 4), (2, 3, 3, 3))[0]
    kinds: list[Kind] = []
    for _ in range(rng.randint(1, min(3, number))):
        kind = Kind(rng.choice(tuple(SIZES)), rng.choice(colours), rng.choice(SHAPES))
        if kinds and rng.random() < 0.4:  # share an attribute, else one word would be enough to tell things apart
            kind = (
                Kind(kind.size, kinds[0].colour, kind.shape)
                if rng.random() < 0.5
                else Kind(kind.size, kind.colour, kinds[0].shape)
            )
        if kind not in kinds:
            kinds.append(kind)
    members = kinds + [rng.choice(kinds) for _ in range(number - len(kinds))]
    cells = rng.sample(range(GRID * GRID), len(members))
    return Scene(background, tuple(sorted(Thing(cell, kind) for cell, kind in zip(cells, members, strict=True))))


def crowded_scene(rng: random.Random) -> Scene:
    """Nine things, one in each cell, of pairs that may be drawn in training: much to learn from in one picture."""
    background = rng.choice(tuple(BACKGROUNDS))
    pairs = [pair for colour in COLOURS for shape in SHAPES if (pair := (colour, shape)) not in UNSEEN_PAIRS]
    pairs = [(colour, shape) for colour, shape in pairs if colour != background]
    kinds = [Kind(rng.choice(tuple(SIZES)), *rng.choice(pairs)) for _ in range(GRID * GRID)]
    return Scene(background, tuple(Thing(cell, kind) for cell, kind in enumerate(kinds)))


Colour = tuple[int, int, int]


def draw(
    scene: Scene,
    rng: random.Random,
    colour_of: Callable[[Kind], Colour] | None = None,
    loose: float = 1.0,
    side: int = SIDE,
) -> Image.Image:
    """The scene as a `side` x `side` RGB picture; places, sizes and colours vary with `rng`, by a share of `loose`.

    `colour_of` paints a thing in another colour than its kind's.
    """
    shade = _shade(BACKGROUNDS[scene.background], round(11 * loose), rng)
    canvas = Image.new("RGB", (side * SUPERSAMPLE,) * 2, shade)
    pen = ImageDraw.Draw(canvas)
    for thing in scene.things:
        diameter = SIZES[thing.kind.size] * rng.uniform(1 - 0.05 * loose, 1 + 0.05 * loose)
        slack = min(max((SIDE / GRID - diameter) / 2 - 1.0, 0.3), 2.0) * loose
        x = (thing.column + 0.5) * SIDE / GRID + rng.uniform(-slack, slack)
        y = (thing.row + 0.5) * SIDE / GRID + rng.uniform(-slack, slack)
        fill = _shade(COLOURS[thing.kind.colour] if colour_of is None else colour_of(thing.kind), round(8 * loose), rng)
        x, y, diameter = (value * side / SIDE for value in (x, y, diameter))
        draw_shape(pen, thing.kind.shape, x, y, diameter, fill, rng, loose)
    return canvas.reduce(SUPERSAMPLE)


def any_colour(scene: Scene, rng: random.Random) -> Callable[[Kind], Colour]:
    """Colours for `draw` that need no name: any that stands out, but none near that of an unseen pair.

    Where only shapes are named, they keep an encoder from tying shapes to the colours it happened to see them in.
    """

    def colour_of(kind: Kind) -> Colour:
        unseen = [COLOURS[colour] for colour, shape in UNSEEN_PAIRS if shape == kind.shape]
        while True:
            colour = tuple(rng.randrange(256) for _ in range(3))
            stands_out = math.dist(colour, BACKGROUNDS[scene.background]) > 100
            if stands_out and all(math.dist(colour, other) > 80 for other in unseen):
                return colour

    return colour_of


def _shade(colour: Colour, spread: int, rng: random.Random) -> Colour:
    return tuple(min(255, max(0, channel + rng.randint(-spread, spread))) for channel in colour)


def draw_shape(
    pen: ImageDraw.ImageDraw,
    shape: str,
    x: float,
    y: float,
    d: float,
    fill: Colour,
    rng: random.Random,
    loose: float = 1.0,
) -> None:
    def place(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        return [((x + px * d / 2) * SUPERSAMPLE, (y + py * d / 2) * SUPERSAMPLE) for px, py in points]

    box = [(-1, -1), (1, 1)]
    if shape == "circle":
        pen.ellipse(place(box), fill=fill)
    elif shape == "ring":
        pen.ellipse(place(box), outline=fill, width=round(d * 0.22 * SUPERSAMPLE))
    elif shape == "rectangle":  # from square to two to one, lying or standing
        long, short = 0.95, rng.uniform(0.7 - 0.22 * loose, 0.7 + 0.25 * loose)
        half = (long, short) if rng.random() < 0.5 else (short, long)
        pen.rectangle(place([(-half[0], -half[1]), half]), fill=fill)
    else:
        pen.polygon(place(_OUTLINES[shape]), fill=fill)


def _star() -> list[tuple[float, float]]:
    turns = [(math.pi * k / 5, 1.1 if k % 2 == 0 else 0.46) for k in range(10)]
    return [(r * math.sin(a), 0.05 - r * math.cos(a)) for a, r in turns]


def _heart() -> list[tuple[float, float]]:
    # The usual parametric heart, scaled to the box of half-width 1.
    turns = [2 * math.pi * k / 48 for k in range(48)]
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16 - 0.1,
        )
        for t in turns
    ]


def _cross() -> list[tuple[float, float]]:
    a, b = 0.34, 1.0
    return [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]


_OUTLINES = {
    "triangle": [(0.0, -0.95), (1.0, 0.85), (-1.0, 0.85)],
    "star": _star(),
    "cross": _cross(),
    "heart": _heart(),
    "diamond": [(0.0, -1.05), (0.72, 0.0), (0.0, 1.05), (-0.72, 0.0)],
}
