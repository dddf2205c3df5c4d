"""What can be said about a scene, in varied wording."""

from __future__ import annotations

import random
from dataclasses import dataclass

from recipes.nano.scenes import PLACES, Kind, Scene, Thing, holds

NUMBERS = ("zero", "one", "two", "three", "four")
RELATIONS = ("above", "below", "left of", "right of")
NOTHING = "nothing"  # what an empty cell holds


@dataclass(frozen=True)
class Description:
    """Some attributes of a thing, as a noun phrase: `small red circle`, `red shape`, `circle`."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None

    def fits(self, thing: Thing) -> bool:
        kind = thing.kind
        return (
            self.size in (None, kind.size) and self.colour in (None, kind.colour) and self.shape in (None, kind.shape)
        )

    def noun(self, plural: bool = False, blank: str = "shape") -> str:
        shape = self.shape or blank
        return " ".join(word for word in (self.size, self.colour, plural_of(shape) if plural else shape) if word)

    def counted(self, count: int, one: str = "a") -> str:
        noun = self.noun(plural=count > 1)
        if count > 1:
            return f"{NUMBERS[count]} {noun}"
        return f"{'an' if one == 'a' and noun[0] in 'aeiou' else one} {noun}"


def plural_of(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


def describe(kind: Kind) -> Description:
    return Description(kind.size, kind.colour, kind.shape)


def join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def caption(scene: Scene, rng: random.Random) -> str:
    """One caption naming count, size, colour and shape of everything, in reading order.

    Most say first where a thing is: the place just written tells which thing is meant while the rest is being said.
    """
    if rng.random() < 0.6:
        return thing_by_thing(scene, rng)
    if len(scene.things) == len(scene.kinds()) == 2 and rng.random() < 0.4:
        return _related(scene, rng)
    return _kind_by_kind(scene, rng)


def thing_by_thing(scene: Scene, rng: random.Random) -> str:
    """A caption that says of each thing where it is, and so all there is to know.

    The commonest form is a plain list: whether one more thing follows is seen from the last place said, where a number
    said first, or an "and" before the last thing, would ask for counting.
    """
    things = join(placed_things(scene))
    number = f"{NUMBERS[len(scene.things)]} {Description().noun(plural=len(scene.things) > 1)}"
    background = scene.background
    forms = (
        listed(scene),
        f"there {'are' if len(scene.things) > 1 else 'is'} {number} on a {background} background: {things}",
        f"{number} on a {background} background: {things}",
        f"a picture of {number} on {background}: {things}",
    )
    return rng.choices(forms, (5, 1, 1, 1))[0]


def listed(scene: Scene) -> str:
    """The commonest caption: things in reading order, each after its place, then the background."""
    return f"{', '.join(placed_things(scene))}, on a {scene.background} background"


def placed_things(scene: Scene) -> list[str]:
    return [f"{PLACES[thing.cell]} {describe(thing.kind).counted(1)}" for thing in scene.things]


def _related(scene: Scene, rng: random.Random) -> str:
    a, b = rng.sample(scene.things, 2)
    relation = rng.choice([relation for relation in RELATIONS if holds(relation, a, b)])
    pair = f"{describe(a.kind).counted(1)} {relation} {describe(b.kind).counted(1)}"
    return rng.choice((pair, f"{pair} on a {scene.background} background"))


def _kind_by_kind(scene: Scene, rng: random.Random) -> str:
    background = scene.background
    listing = join([describe(kind).counted(len(things)) for kind, things in scene.kinds().items()])
    return rng.choice(
        (
            listing,
            f"the picture shows {listing}",
            f"{listing} on a {background} background",
            f"{listing} on {background}",
            f"a {background} background with {listing}",
        )
    )


def placed_caption(scene: Scene, rng: random.Random, colour: bool = True) -> str:
    """A caption for contrastive training: each thing with its place, often with an attribute left out.

    What a caption leaves out cannot tell pictures apart, so the encoder has to see the rest, and where it is. Without
    `colour` only shapes are named.
    """
    options = (("size", "colour", "shape"), ("shape",), ("colour",), ("size",), ("colour", "shape"))
    keep = rng.choices(options, (5, 5, 3, 2, 3))[0] if colour else ("shape",)
    parts = []
    for thing in scene.things:
        noun = Description(**{name: getattr(thing.kind, name) for name in keep})
        parts.append(f"{noun.counted(1)} {PLACES[thing.cell]}")
    if rng.random() < 0.3:
        rng.shuffle(parts)
    text = join(parts)
    return rng.choice((text, text, f"{text} on {scene.background}"))


def phrases(kind: Kind | None, cell: int, colour: bool = True) -> tuple[str | None, ...]:
    """What fills a cell, by its shape, size, colour, all three, and the cell's place; None where nothing is said.

    Without `colour` nothing is said that needs the colour's name. An empty cell (`kind` None) is called so.
    """
    if kind is None:
        return NOTHING, None, None, NOTHING, PLACES[cell]
    sorts = (("shape",), ("size",), ("colour",), ("size", "colour", "shape"))
    said = (
        None if "colour" in names and not colour else Description(**{n: getattr(kind, n) for n in names}).counted(1)
        for names in sorts
    )
    return *said, PLACES[cell]
