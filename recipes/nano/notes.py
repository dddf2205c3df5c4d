"""Notes about things, and questions that one of them answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from recipes.nano.conversations import Exercise, Turn
from recipes.nano.scenes import COLOURS, PLACES, SHAPES, SIZES, Kind, Scene, draw, sample_scene
from recipes.nano.thoughts import said, thinking_of, told
from recipes.nano.wording import describe

NAMES = (
    "Bo", "Mia", "Tom", "Anna", "Leo", "Ida", "Max", "Eva", "Sam", "Lea", "Ben", "Zoe", "Jan", "Amy", "Kim", "Noa",
    "Ali", "Uma", "Rex", "Fay", "Gus", "Joy", "Ned", "Pia", "Ray", "Sue", "Ted", "Viv", "Wes", "Abe", "Dot", "Hal",
)  # fmt: skip
TOWNS = ("Oslo", "Rome", "Lima", "Bern", "Kyiv", "Doha", "Riga", "Cork", "Baku", "Nice", "Bonn", "York")
STUFFS = ("wood", "glass", "gold", "wool", "clay", "salt", "iron", "wax", "silk", "cork", "jade", "lead")


@dataclass(frozen=True)
class Fact:
    """What a note may say of a thing: how it is said, how it is asked, and the values it may have."""

    said: str
    asked: str
    values: tuple[str, ...]


FACTS = (
    Fact("the {thing} is called {value}.", "what is the {thing} called?", NAMES),
    Fact("the {thing} is made of {value}.", "what is the {thing} made of?", STUFFS),
    Fact("the owner of the {thing} is {value}.", "who is the owner of the {thing}?", NAMES),
    Fact("the maker of the {thing} is {value}.", "who is the maker of the {thing}?", NAMES),
    Fact("the friend of the {thing} is {value}.", "who is the friend of the {thing}?", NAMES),
    Fact("the home of the {thing} is {value}.", "what is the home of the {thing}?", TOWNS),
)


def noted(rng: random.Random, accept: Callable[[Scene], bool], think: bool) -> Exercise:
    """A question that a note answers, among notes about other things; half of them ask by place, and need the picture.

    The notes are of things with size, colour and shape; the one that answers is anywhere among them, and is cited.
    """
    scene = sample_scene(rng, accept)
    seen = rng.random() < 0.5
    fact = rng.choice(FACTS)
    kinds = list(scene.kinds())
    kind = rng.choice(kinds)
    others = [one for one in kinds if one != kind]
    for _ in range(rng.randint(1, 4)):
        other = another(rng, kind)
        others += [other] if other not in others else []
    notes = [note(fact, kind, own := rng.choice(fact.values))]
    notes += [note(rng.choice((fact, *FACTS)), other, "") for other in others[:4]]
    if rng.random() < 0.4:
        notes.append(note(rng.choice([one for one in FACTS if one != fact]), kind, ""))
    notes = [one.format(value=rng.choice(values)) if "{value}" in one else one for one, values in notes]
    answering = notes[0]
    rng.shuffle(notes)
    place = notes.index(answering) + 1
    read = (f"[{number}] {one.rstrip('.')} {said(number == place)}" for number, one in enumerate(notes[:place], 1))
    work = f"{answering.rstrip('.')}: {', '.join(read)}"
    if seen:
        thing = rng.choice([thing for thing in scene.things if thing.kind == kind])
        question = fact.asked.format(thing=f"shape {PLACES[thing.cell]}")
        work = f"{told(thing)}; {work}"
    else:
        question = fact.asked.format(thing=describe(kind).noun())
    content = (written(notes), *([draw(scene, rng)] if seen else []), question)
    answer = f"{own} [{place}]"
    turns = (Turn("user", content), Turn("assistant", (thinking_of(work, think) + answer,)))
    return Exercise("notes", "seen" if seen else "read", turns, answer, scene)


def another(rng: random.Random, kind: Kind) -> Kind:
    """Another kind; half of them differ in one word, as notes do that share most words with a question."""
    while True:
        other = rng.choice(sample_scene(rng).things).kind
        if rng.random() < 0.5:
            name = rng.choice(("size", "colour", "shape"))
            other = replace(kind, **{name: getattr(other, name)})
        if other != kind:
            return other


def notes_of(fact: Fact, kind: Kind, value: str) -> str:
    """One note."""
    return fact.said.format(thing=describe(kind).noun(), value=value)


def every_fact() -> list[tuple[Fact, Kind]]:
    """All that notes may tell of all kinds of things."""
    kinds = [Kind(size, colour, shape) for size in SIZES for colour in COLOURS for shape in SHAPES]
    return [(fact, kind) for fact in FACTS for kind in kinds]


def known_notes(facts: Sequence[tuple[Fact, Kind]], rng: random.Random) -> list[tuple[str, Fact, Kind, str]]:
    """A note of each fact about a kind, with the value that it tells, which is drawn."""
    told = ((fact, kind, rng.choice(fact.values)) for fact, kind in facts)
    return [(notes_of(fact, kind, own), fact, kind, own) for fact, kind, own in told]


def note(fact: Fact, kind: Kind, value: str) -> tuple[str, tuple[str, ...]]:
    """A note, with a place for its value where none is given, and the values that it may have."""
    return notes_of(fact, kind, value or "{value}"), fact.values


def written(notes: list[str]) -> str:
    """Notes as a prompt has them that offers what was looked up (`mmlm.prompting.sources`)."""
    return "".join(f"[{number}] {text}\n" for number, text in enumerate(notes, start=1))
