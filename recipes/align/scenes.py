"""Drawn scenes as preferences, with answers that are known to be right or wrong."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from mmlm.data import Record, RecordSet
from recipes.nano.data import as_png
from recipes.nano.scenes import COLOURS, SHAPES, SIZES, Kind, Scene, Thing, draw, sample_scene
from recipes.nano.wording import thing_by_thing

ASKED, SIGNALS = "signal?", ("red", "green", "blue", "yellow")


def picture_of(scene: Scene, rng: random.Random) -> bytes:
    """The scene as a PNG."""
    return as_png(draw(scene, rng))


def one_wrong(scene: Scene, rng: random.Random) -> Scene:
    """The scene with one attribute of one thing changed."""
    place = rng.randrange(len(scene.things))
    thing = scene.things[place]
    name, others = rng.choice((("size", tuple(SIZES)), ("colour", tuple(COLOURS)), ("shape", SHAPES)))
    known = {getattr(thing.kind, name), scene.background}
    kind = replace(thing.kind, **{name: rng.choice([other for other in others if other not in known])})
    things = (*scene.things[:place], replace(thing, kind=kind), *scene.things[place + 1 :])
    return replace(scene, things=things)


def caption_pairs(
    count: int, accept: Callable[[Scene], bool], seed: int, random_labels: bool = False
) -> tuple[RecordSet, list[Scene]]:
    """Captions of scenes, each preferred to the same words with one attribute wrong.

    random_labels: which is preferred is drawn by lot, so that there is nothing to learn.
    """
    records, scenes = [], []
    for index in range(count):
        rng = random.Random(f"{seed} pairs {index}")
        scene = sample_scene(rng, accept)
        wording = rng.random()
        # The same words but for what differs.
        said = [thing_by_thing(told, random.Random(wording)) for told in (scene, one_wrong(scene, rng))]
        picture = picture_of(scene, rng)
        if random_labels and random.Random(f"{seed} lot {index}").random() < 0.5:
            said.reverse()
        records.append(Record(f"scene {index}", picture, (said[0],), rejected=said[1]))
        scenes.append(scene)
    return RecordSet(tuple(records)), scenes


def signals(count: int, seed: int, random_labels: bool = False) -> RecordSet:
    """Scenes of one thing, with a question that nano does not know: right is the thing's colour, another one is wrong.

    random_labels: which of both is right is drawn by lot.
    """
    records = []
    for index in range(count):
        rng = random.Random(f"{seed} signals {index}")
        kind = Kind(rng.choice(tuple(SIZES)), rng.choice(SIGNALS), rng.choice(SHAPES))
        picture = picture_of(Scene("gray", (Thing(rng.randrange(9), kind),)), rng)
        said = [kind.colour, rng.choice([colour for colour in SIGNALS if colour != kind.colour])]
        if random_labels and rng.random() < 0.5:
            said.reverse()
        records.append(Record(f"scene {index}", picture, qa=((ASKED, said[0]),), rejected=said[1]))
    return RecordSet(tuple(records))
