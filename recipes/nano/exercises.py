"""What nano learns to do in several steps: exercises as conversations, each made from a scene that is known exactly.

An exercise is a conversation as `mmlm.data` reads it. What the assistant says holds marks as text, `<think>` and
`<tool_call>` among them; `recipes.nano.marks` turns them into control tokens.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from recipes.nano.conversations import Exercise, Turn, write_made
from recipes.nano.data import SPLITS
from recipes.nano.notes import noted
from recipes.nano.questions import Question, counted, described, questions
from recipes.nano.scenes import GRID, PLACES, SIDE, Kind, Scene, Thing, draw, sample_scene
from recipes.nano.thoughts import SPOTS, counted_off, said, thinking_of
from recipes.nano.thoughts import thought as thought_of
from recipes.nano.wording import NUMBERS, describe

ORDINALS = ("first", "second", "third")
SHEET = 4 * SIDE  # pixels of a sheet, in which scenes are cards
STARTS = (0.05, 0.4, 0.7)  # where a card begins, in shares of the sheet: left, middle, right, and from the top
CARD = 0.25  # its side, so that it is a scene at its own resolution
GROUND = (120, 150, 200)  # of a sheet: none of the backgrounds
JSON_REQUESTS = ("describe the picture as JSON", "what is in the picture, as JSON?", "write the scene as JSON")
SCENE_SCHEMA = {
    "type": "object",
    "properties": {
        "things": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in ("place", "size", "colour", "shape")},
                "required": ["place", "size", "colour", "shape"],
                "additionalProperties": False,
            },
        },
        "background": {"type": "string"},
    },
    "required": ["things", "background"],
    "additionalProperties": False,
}
# How often a question of a topic is thought about: those that nano gets wrong more often than others.
TOPIC_WEIGHTS = {"relation": 6, "comparison": 3, "statement": 3, "count": 3, "size": 2}
THINKING_SHARE = 0.8  # of exercises that can be done with a thought and without one


def thinking(rng: random.Random, accept: Callable[[Scene], bool], think: bool) -> Exercise:
    """A question about a scene, with a thought or without one."""
    scene = sample_scene(rng, accept)
    asked = [*questions(scene, rng), comparison(scene, rng)]
    question = rng.choices(asked, [TOPIC_WEIGHTS.get(one.topic, 1) for one in asked])[0]
    return _asked("thinking", scene, (draw(scene, rng), question.question), question, think)


def comparison(scene: Scene, rng: random.Random) -> Question:
    """Whether there are more of one kind than of another, or as many."""
    first, second = described(scene, rng), described(scene, rng)
    (one, work), (other, more) = (counted(scene, part) for part in (first, second))
    form, how, holds = rng.choice(
        (
            ("are there more {a} than {b}?", "more than", lambda a, b: a > b),
            ("are there fewer {a} than {b}?", "fewer than", lambda a, b: a < b),
            ("are there as many {a} as {b}?", "as many as", lambda a, b: a == b),
        )
    )
    answer = said(holds(NUMBERS.index(one), NUMBERS.index(other)))
    text = form.format(a=first.noun(True), b=second.noun(True))
    return Question("comparison", text, answer, f"{work}; {more}; {one} {how} {other}: {answer}")


def arithmetic(rng: random.Random, accept: Callable[[Scene], bool], think: bool) -> Exercise:
    """A sum about counts, whose result has three digits, by a call of the calculator."""
    while True:
        scene = sample_scene(rng, accept)
        parts = [describe(thing.kind) for thing in rng.sample(scene.things, min(2, len(scene.things)))]
        parts = [replace(part, **dict.fromkeys(rng.choice(_LEFT_OUT))) for part in parts]
        numbers = [sum(part.fits(thing) for thing in scene.things) for part in parts]
        prices = [rng.randint(101, 499) for _ in parts]
        nouns = [part.noun(True) for part in parts]
        form = rng.randrange(3 if len(parts) > 1 and nouns[0] != nouns[1] else 2)
        if form == 0:
            used, expression = 1, f"{numbers[0]}*{prices[0]}"
            text = f"each of the {nouns[0]} costs {prices[0]}. what do the {nouns[0]} cost?"
        elif form == 1:
            used, expression = 1, f"{prices[0]}+{numbers[0]}"
            text = f"there are {prices[0]} {nouns[0]} elsewhere. how many with those in the picture?"
        else:
            used, expression = 2, f"{numbers[0]}*{prices[0]}+{numbers[1]}*{prices[1]}"
            text = f"the {nouns[0]} cost {prices[0]} each, the {nouns[1]} {prices[1]} each. what do they cost?"
        result = value(expression)
        if 100 <= result <= 999:
            break
    work = "; ".join(counted(scene, part)[1] for part in parts[:used])
    call = tool_call("calculator", expression=expression)
    turns = (
        Turn("system", (offered("calculator"),)),
        Turn("user", (draw(scene, rng), text)),
        Turn("assistant", (thinking_of(thought_of(scene, work), think) + call,)),
        Turn("tool", (str(result),)),
        Turn("assistant", (thinking_of(f"{expression} = {result}", rng.random() < 0.4) + str(result),)),
    )
    return Exercise("arithmetic", ("price", "sum", "two prices")[form], turns, str(result), scene)


def value(expression: str) -> int:
    """The value of a sum of whole numbers and products of two."""
    return sum(_product(part) for part in expression.split("+"))


def _product(part: str) -> int:
    first, *rest = map(int, part.split("*"))
    return first * rest[0] if rest else first


_LEFT_OUT = (("size",), ("size", "colour"), ("size", "shape"))


def zooming(rng: random.Random, accept: Callable[[Scene], bool], think: bool) -> Exercise:
    """A question about a card on a sheet of four times a scene's side, which has to be looked at from near."""
    cards = rng.sample(range(GRID * GRID), rng.randint(2, 4))
    scenes = {cell: sample_scene(rng, accept) for cell in cards}
    cell = rng.choice(cards)
    grounds = [scene.background for scene in scenes.values()]
    scene = scenes[cell]
    if grounds.count(scene.background) == 1 and rng.random() < 0.5:
        name = where = f"the {scene.background} card"
    else:
        name, where = f"the card {PLACES[cell]}", "card"
    question = rng.choice([one for one in questions(scene, rng) if one.topic != "background"])
    sheet = Image.new("RGB", (SHEET, SHEET), GROUND)
    for place, own in scenes.items():
        left, top, _, _ = card_box(place)
        sheet.paste(draw(own, rng), (round(left * SHEET), round(top * SHEET)))
    box, look = card_box(cell), thought_of(scene, question.work)
    turns = (
        Turn("system", (offered("zoom"),)),
        Turn("user", (sheet, f"on {name}: {question.question}")),
        Turn("assistant", (thinking_of(f"{where}: {SPOTS[cell]}", think) + tool_call("zoom", box=list(box)),)),
        Turn("tool", (cut(sheet, box),)),
        Turn("assistant", (thinking_of(look, rng.random() < THINKING_SHARE) + question.answer,)),
    )
    return Exercise("zoom", question.topic, turns, question.answer, scene)


def card_box(cell: int) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a card, in shares of the sheet."""
    row, column = divmod(cell, GRID)
    left, top = STARTS[column], STARTS[row]
    return left, top, round(left + CARD, 2), round(top + CARD, 2)


def cut(sheet: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """What lies in a box of a picture, as a tool that zooms returns it."""
    width, height = sheet.size
    sides = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    return sheet.crop(tuple(map(round, sides)))


def as_json(rng: random.Random, accept: Callable[[Scene], bool], think: bool) -> Exercise:
    """A scene as JSON of `SCENE_SCHEMA`."""
    scene = sample_scene(rng, accept)
    question = Question("json", rng.choice(JSON_REQUESTS), scene_json(scene), "")
    return _asked("json", scene, (draw(scene, rng), question.question), question, think=False)


def scene_json(scene: Scene) -> str:
    """The scene as JSON without spaces, things in reading order."""
    things = [{"place": SPOTS[thing.cell], **_attributes(thing.kind)} for thing in scene.things]
    return json.dumps({"things": things, "background": scene.background}, separators=(",", ":"))


def _attributes(kind: Kind) -> dict[str, str]:
    return {"size": kind.size, "colour": kind.colour, "shape": kind.shape}


def several(rng: random.Random, accept: Callable[[Scene], bool], think: bool) -> Exercise:
    """Two or three pictures, each called by its number behind it, and a question about one of them or about which."""
    count = rng.choice((2, 2, 3))
    scenes = [sample_scene(rng, accept) for _ in range(count)]
    content: list[str | Image.Image] = []
    for number, scene in enumerate(scenes):
        content += [draw(scene, rng), f"{ORDINALS[number]} picture: "]
    chosen = rng.randrange(count)
    own = [thing for thing in scenes[chosen].things if _only(thing, scenes)]
    if own and rng.random() < 0.5:
        description = describe(rng.choice(own).kind)
        work = counted_off(description.noun(), scenes[chosen].things, description.fits)
        question = Question("which", f"which picture has {description.counted(1)}?", ORDINALS[chosen], work)
    else:
        question = rng.choice(questions(scenes[chosen], rng))
        question = replace(question, question=f"in the {ORDINALS[chosen]} picture: {question.question}")
    look = f"{ORDINALS[chosen]}: {thought_of(scenes[chosen], question.work)}"
    turns = (
        Turn("user", (*content, question.question)),
        Turn("assistant", (thinking_of(look, think) + question.answer,)),
    )
    return Exercise("pictures", question.topic, turns, question.answer, scenes[chosen])


def _only(thing: Thing, scenes: list[Scene]) -> bool:
    """Whether just one of the scenes has a thing of this kind."""
    return sum(any(other.kind == thing.kind for other in scene.things) for scene in scenes) == 1


KINDS: dict[str, tuple[Callable[[random.Random, Callable[[Scene], bool], bool], Exercise], float]] = {
    "thinking": (thinking, 0.5),
    "arithmetic": (arithmetic, 0.12),
    "zoom": (zooming, 0.12),
    "json": (as_json, 0.06),
    "notes": (noted, 0.12),
    "pictures": (several, 0.08),
}
"""The kinds of exercises, and the share of each."""


def exercise(split: str, index: int, seed: int, kind: str | None = None, think: bool | None = None) -> Exercise:
    """Exercise `index` of a split; of a kind, and with thoughts or without, as drawn or as told."""
    rng = random.Random(f"{seed} exercise {split} {index} {kind or ''}")
    drawn = rng.choices(list(KINDS), [share for _, share in KINDS.values()])[0]
    thinks = rng.random() < THINKING_SHARE
    make, _ = KINDS[kind or drawn]
    return make(rng, SPLITS[split], thinks if think is None else think)


def tool_call(name: str, **arguments: object) -> str:
    """A call as Hermes and Qwen write it, on one line."""
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def offered(*tools: str) -> str:
    """What tells that there are tools."""
    return f"Tools: {', '.join(tools)}"


def _asked(
    kind: str, scene: Scene, content: tuple[str | Image.Image, ...], question: Question, think: bool
) -> Exercise:
    said = thinking_of(thought_of(scene, question.work), think) + question.answer
    turns = (Turn("user", content), Turn("assistant", (said,)))
    return Exercise(kind, question.topic, turns, question.answer, scene)


def write_exercises(folder: Path, counts: dict[str, int], seed: int) -> None:
    """`counts[split]` exercises in `folder/SPLIT-000000.tar` and on; finished tars are kept."""
    write_made(folder, counts, lambda split, index: exercise(split, index, seed))
