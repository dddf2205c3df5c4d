"""What can be asked about a scene, in varied wording, with the answers."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from recipes.nano.scenes import COLOURS, PLACES, SHAPES, SIZES, Kind, Scene, Thing, holds
from recipes.nano.thoughts import NONE, SPOTS, checked, counted_off, line, said
from recipes.nano.wording import NOTHING, NUMBERS, RELATIONS, Description, describe

COLOUR_WORDS = ("color", "color", "colour")  # the sets spell it the first way, people both ways


@dataclass(frozen=True)
class Question:
    """A question about a scene; `topic` groups questions in the tables.

    work: what a thought concludes from the list of everything in the scene (`recipes.nano.thoughts`).
    """

    topic: str
    question: str
    answer: str
    work: str


def questions(scene: Scene, rng: random.Random) -> list[Question]:
    """One question of every topic that the scene allows; yes and no come equally often where both can."""
    topics = (_colour, _shape, _size, _count, _presence, _absence, _relation, _background, _place, _statement)
    found = (topic(scene, rng) for topic in topics)
    return [question for question in found if question is not None]


def _colour(scene: Scene, rng: random.Random) -> Question | None:
    word = rng.choice(COLOUR_WORDS)
    if len(scene.things) == 1 and rng.random() < 0.3:
        alone = scene.things[0]
        return Question(
            "colour",
            f"what is the {word} of the shape?",
            alone.kind.colour,
            _chosen(scene, "shape", [alone], "colour"),
        )
    common = _common(scene, rng, "colour", [("shape",), ("size", "shape")])
    if common is None:
        return None
    description, things = common
    colour, noun = things[0].kind.colour, description.noun(len(things) > 1)
    work = _chosen(scene, description.noun(), things, "colour")
    if len(things) > 1:
        return Question("colour", f"what {word} are the {noun}?", colour, work)
    form = rng.choice(("what {word} is the {noun}?", "what is the {word} of the {noun}?"))
    return Question("colour", form.format(word=word, noun=noun), colour, work)


def _shape(scene: Scene, rng: random.Random) -> Question | None:
    if len(scene.things) == 1 and rng.random() < 0.3:
        form = rng.choice(
            ("what shape is in the image?", "what shape is present?", "what shape does the image contain?")
        )
        shape = scene.things[0].kind.shape
        return Question("shape", form, shape, _chosen(scene, "shape", scene.things, "shape"))
    common = _common(scene, rng, "shape", [("colour",), ("size", "colour")])
    if common is None or len(common[1]) > 1:
        return None
    description, things = common
    form = rng.choice(("what shape is the {thing}?", "what is the {shape}?"))
    text = form.format(thing=description.noun(blank="thing"), shape=description.noun())
    shape = things[0].kind.shape
    return Question("shape", text, shape, _chosen(scene, description.noun(), things, "shape"))


def _size(scene: Scene, rng: random.Random) -> Question | None:
    common = _common(scene, rng, "size", [("colour", "shape"), ("colour", "shape"), ("shape",)])
    if common is None or len(common[1]) > 1:
        return None
    description, things = common
    form = rng.choice(("what size is the {noun}?", "is the {noun} small or large?"))
    noun = description.noun()
    size = things[0].kind.size
    return Question("size", form.format(noun=noun), size, _chosen(scene, noun, things, "size"))


def _count(scene: Scene, rng: random.Random) -> Question:
    description = described(scene, rng)
    form = rng.choice(
        (
            "how many {nouns} are there?",
            "how many {nouns} are in the picture?",
            "how many {nouns} can you see?",
        )
    )
    return Question("count", form.format(nouns=description.noun(True)), *counted(scene, description))


def described(scene: Scene, rng: random.Random) -> Description:
    """A description that may fit some things here, nothing, or everything."""
    description = rng.choice((_present, _present, _present, _absent))(scene, rng)
    return Description() if rng.random() < 0.2 else description


def counted(scene: Scene, description: Description) -> tuple[str, str]:
    """How many things fit, in words, and the work that finds it out."""
    number = NUMBERS[sum(map(description.fits, scene.things))]
    return number, f"{counted_off(description.noun(), scene.things, description.fits)}; {number}"


def _presence(scene: Scene, rng: random.Random) -> Question:
    forms = (
        "is there {a_noun}?",
        "is there {a_noun} in the image?",
        "is {a_noun} present?",
        "does the image contain {a_noun}?",
    )
    return _whether("presence", forms, "yes", "no", scene, rng)


def _absence(scene: Scene, rng: random.Random) -> Question:
    forms = (
        "is there not {a_noun}?",
        "is there not {a_noun} in the image?",
        "is no {noun} present?",
        "does the image not contain {a_noun}?",
    )
    return _whether("absence", forms, "no", "yes", scene, rng)


def _whether(
    topic: str, forms: tuple[str, ...], if_present: str, if_absent: str, scene: Scene, rng: random.Random
) -> Question:
    form = rng.choice(forms)
    present = rng.random() < 0.5
    description = (_present if present else _absent)(scene, rng)
    text = form.format(a_noun=description.counted(1), noun=description.noun())
    answer = if_present if present else if_absent
    return Question(topic, text, answer, _present_or_not(scene, description, answer))


def _relation(scene: Scene, rng: random.Random) -> Question | None:
    single = [things[0] for things in scene.kinds().values() if len(things) == 1]
    if len(single) < 2:
        return None
    a, b = rng.sample(single, 2)
    first, second = _unique(scene, rng, a), _unique(scene, rng, b)
    truth = rng.random() < 0.5
    relation = rng.choice([relation for relation in RELATIONS if holds(relation, a, b) == truth])
    text = f"is the {first.noun()} {relation} the {second.noun()}?"
    work = _compared(scene, relation, first, second, truth)
    return Question("relation", text, "yes" if truth else "no", work)


def _background(scene: Scene, rng: random.Random) -> Question:
    word = rng.choice(COLOUR_WORDS)
    form = rng.choice(("what {word} is the background?", "what is the background {word}?"))
    return Question("background", form.format(word=word), scene.background, f"background: {scene.background}")


def _place(scene: Scene, rng: random.Random) -> Question:
    by_cell = {thing.cell: thing for thing in scene.things}
    cell = rng.choice(tuple(by_cell)) if rng.random() < 0.8 else rng.randrange(len(PLACES))
    answer = describe(by_cell[cell].kind).counted(1) if cell in by_cell else NOTHING
    return Question("place", f"what is {PLACES[cell]}?", answer, f"{SPOTS[cell]}: {answer}")


def _statement(scene: Scene, rng: random.Random) -> Question:
    truth = rng.random() < 0.5
    kind = rng.random()
    if kind < 0.4 and len(scene.things) > 1:
        a, b = rng.sample(scene.things, 2)
        first, second = _part(rng, a.kind), _part(rng, b.kind)
        true = [
            relation
            for relation in RELATIONS
            if any(
                holds(relation, x, y) for x in scene.things for y in scene.things if first.fits(x) and second.fits(y)
            )
        ]
        options = [relation for relation in RELATIONS if (relation in true) == truth]
        if not options:
            options, truth = true, True
        relation = rng.choice(options)
        text = f"There is {first.counted(1)} {relation} {second.counted(1)}."
        work = _compared(scene, relation, first, second, truth)
    elif kind < 0.7:
        description = _present(scene, rng)
        count = sum(description.fits(thing) for thing in scene.things)
        claimed = count if truth else rng.choice([n for n in (1, 2, 3, 4) if n != count])
        text = f"There {'are' if claimed > 1 else 'is'} exactly {description.counted(claimed, one='one')}."
        work = f"{counted(scene, description)[1]}; {NUMBERS[count]} is {NUMBERS[claimed]}: {said(truth)}"
    else:
        description = (_present if truth else _absent)(scene, rng)
        text = f"There is {description.counted(1)}."
        work = _present_or_not(scene, description, said(truth))
    return Question("statement", f"Is this statement true? {text}", said(truth), work)


def _chosen(scene: Scene, noun: str, things: Sequence[Thing], asked: str) -> str:
    """The work of a question about an attribute, which all things that a noun fits have in common."""
    work = checked(noun, scene.things, things.__contains__, lambda thing: getattr(thing.kind, asked))
    return f"{work}; {getattr(things[0].kind, asked)}"


def _present_or_not(scene: Scene, description: Description, answer: str) -> str:
    """The work of a question whether anything fits; how it asks decides what no thing means."""
    number = NUMBERS[sum(map(description.fits, scene.things))]
    return f"{counted_off(description.noun(), scene.things, description.fits)}; {number}; {answer}"


def _compared(scene: Scene, relation: str, first: Description, second: Description, holds: bool) -> str:
    """The work of a question about a relation: where what fits each side is, by row or column, and what that makes."""

    def place(thing: Thing) -> str:
        return line(thing, relation)

    parts = (first, second)
    steps = [checked(part.noun(), scene.things, part.fits, place) for part in parts]
    places = [", ".join(map(place, filter(part.fits, scene.things))) or NONE for part in parts]
    return f"{'; '.join(steps)}; {places[0]} {relation} {places[1]}: {said(holds)}"


def _part(rng: random.Random, kind: Kind) -> Description:
    names = rng.choice((("shape",), ("colour",), ("colour", "shape"), ("colour", "shape"), ("size", "colour", "shape")))
    return Description(**{name: getattr(kind, name) for name in names})


def _present(scene: Scene, rng: random.Random) -> Description:
    return _part(rng, rng.choice(scene.things).kind)


def _absent(scene: Scene, rng: random.Random) -> Description:
    """A description that fits nothing here; half of the time made by changing one word of one that does."""
    while True:
        colours = [colour for colour in COLOURS if colour != scene.background]
        other = Kind(rng.choice(tuple(SIZES)), rng.choice(colours), rng.choice(SHAPES))
        kind = rng.choice(scene.things).kind
        if rng.random() < 0.5:
            changed = rng.choice(("size", "colour", "shape", "colour", "shape"))
            values = {name: getattr(kind, name) for name in ("size", "colour", "shape")}
            kind = Kind(**{**values, changed: getattr(other, changed)})
        else:
            kind = other
        description = _part(rng, kind)
        if not any(description.fits(thing) for thing in scene.things):
            return description


def _unique(scene: Scene, rng: random.Random, thing: Thing) -> Description:
    """A description of `thing`, the only one of its kind, that fits nothing else here."""
    while True:
        description = _part(rng, thing.kind)
        if sum(description.fits(other) for other in scene.things) == 1:
            return description


def _common(
    scene: Scene, rng: random.Random, asked: str, options: Iterable[tuple[str, ...]]
) -> tuple[Description, list[Thing]] | None:
    """A description without `asked` that fits only things with the same `asked`, and those things."""
    kind = rng.choice(scene.things).kind
    options = list(options)
    rng.shuffle(options)
    for names in options:
        description = Description(**{name: getattr(kind, name) for name in names})
        things = [thing for thing in scene.things if description.fits(thing)]
        if len({getattr(thing.kind, asked) for thing in things}) == 1:
            return description, things
    return None
