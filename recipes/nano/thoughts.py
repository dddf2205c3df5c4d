"""Thoughts about a scene: what is there, whether each of it is what the question names, and what follows.

A thought is `top left small red circle, bottom middle large blue star, on white; red circle: top left small red circle
one, bottom middle large blue star no; one`. First everything is listed, which nano's captions get right in 97 of 100
scenes; then each thing once more, with what it counts for where it is what the question names: its number, its row or
column, or the attribute that is asked; then the conclusion. Each step needs little that is far away. Places have two
words, so that a row and a column are words of the list. At most 130 tokens.

Earlier forms were worth less. `red circles: top left; one` was right no more often than answers at once: after 3,000
steps 98% of the lists were right, but of the selections from them only 79% where a statement was judged, and 30% where
places were compared. With `yes` and `no` behind each thing, 900 more steps took counts from 87% to 91% and left
relations at chance. What was missing was in the language model, which could not look back (`recipes.nano.drills`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from recipes.nano.scenes import Scene, Thing
from recipes.nano.wording import NUMBERS

ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "middle", "right")
SPOTS = tuple(f"{row} {column}" for row in ROWS for column in COLUMNS)
NONE = "none"
NO = "no"  # of a thing that does not fit


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


def checked(noun: str, things: Sequence[Thing], fits: Callable[[Thing], bool], value: Callable[[Thing], str]) -> str:
    """Each thing once more, with what it counts for if a noun fits: `circle: top left small red circle red, ... no`."""
    return f"{noun}: {', '.join(f'{told(thing)} {value(thing) if fits(thing) else NO}' for thing in things)}"


def counted_off(noun: str, things: Sequence[Thing], fits: Callable[[Thing], bool]) -> str:
    """Each thing once more, those that fit with their number: `circle: top small red circle one, ... two`."""
    numbers = iter(NUMBERS[1:])
    return checked(noun, things, fits, lambda thing: next(numbers))


def line(thing: Thing, relation: str) -> str:
    """The row of a thing, or its column, whichever decides the relation."""
    return ROWS[thing.row] if relation in ("above", "below") else COLUMNS[thing.column]


def said(holds: bool) -> str:
    return "yes" if holds else "no"
