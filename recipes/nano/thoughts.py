"""Thoughts about a scene: what is there, which of it is asked about, and what follows, in few and regular words.

A thought is `top left small red circle, bottom large blue star, on white; red circles: top left; one`: first everything
as a list, which is what nano's captions get right in 97 of 100 scenes; then the places of what the question names, to
be read from the list; then the conclusion. Each step needs only what is written before it. At most 60 tokens of nano's.
"""

from __future__ import annotations

from collections.abc import Sequence

from recipes.nano.scenes import Scene, Thing

SPOTS = (
    "top left", "top", "top right",
    "left", "middle", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "middle", "right")
NONE = "none"


def thought(scene: Scene, work: str) -> str:
    """What is thought about a question: the list of the scene, and `work`, what follows from it (`Question.work`)."""
    return f"{listing(scene)}; {work}"


def thinking_of(text: str, think: bool) -> str:
    """A thought as it is written before an answer; nothing where there is none."""
    return f"<think>{text}</think>" if think else ""


def listing(scene: Scene) -> str:
    """Everything in the scene, as short as it can be said."""
    return ", ".join([*map(told, scene.things), f"on {scene.background}"])


def told(thing: Thing) -> str:
    """One thing with its place: `top left small red circle`."""
    return f"{SPOTS[thing.cell]} {thing.kind.size} {thing.kind.colour} {thing.kind.shape}"


def found(noun: str, things: Sequence[Thing]) -> str:
    """Where the things are that a noun fits: `red circles: top left, bottom`."""
    return f"{noun}: {', '.join(SPOTS[thing.cell] for thing in things) or NONE}"


def lined_up(noun: str, things: Sequence[Thing], relation: str) -> str:
    """The rows of things, or the columns, whichever decides the relation: `red circle: top`."""
    upright = relation in ("above", "below")
    lines = [ROWS[thing.row] if upright else COLUMNS[thing.column] for thing in things]
    return f"{noun}: {', '.join(lines) or NONE}"


def compared(
    relation: str, first: tuple[str, Sequence[Thing]], second: tuple[str, Sequence[Thing]], holds: bool
) -> str:
    """Two nouns with what they fit, by row or column, and whether the relation holds between any two of them."""
    return f"{lined_up(*first, relation)}; {lined_up(*second, relation)}; {'yes' if holds else 'no'}"
