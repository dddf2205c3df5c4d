"""What nano learns of NLVR: to tell what is in a box, and to judge sentences about three boxes told in words."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from recipes.nano.boxes import (
    BOX,
    COLOURS,
    STARTS,
    Box,
    Item,
    draw_box,
    in_order,
    is_tower,
    overlap,
    read_boxes,
    told_box,
    varied,
)
from recipes.nano.claims import Claim
from recipes.nano.conversations import Exercise, Turn, write_made
from recipes.nano.data import read_tars
from recipes.nano.notes import written
from recipes.nano.statements import read
from recipes.nano.thoughts import thinking_of
from recipes.nano.wordings_of_claims import worded

QUESTION = "what is in the box?"
TRIES = 40  # how many boxes are tried for a sentence to be as true as it is wanted to be, and items for a box
TOWERS = 0.2  # of the made sentences about boxes and items, those that are told of towers
Drawn = tuple[str, bool, Image.Image, tuple[Box, ...]]
"""Of an example of NLVR: the sentence, whether it is true, the picture, and what is in its boxes."""


def read_nlvr(sets: Path, split: str) -> list[Drawn]:
    """All examples of a split."""
    found = []
    for encoded, record in read_tars(sets / "nlvr", split):
        assert encoded is not None, "each has a picture"
        picture = Image.open(io.BytesIO(encoded)).convert("RGB")
        found.append((record["sentence"], bool(record["label"]), picture, read_boxes(picture)))
    return found


def boxed(rng: random.Random, others: Sequence[Drawn]) -> Exercise:
    """One box to be told in words: as NLVR has it, or varied and drawn anew, or made of items of many."""
    sentence, _, picture, boxes = rng.choice(others)
    number, way = rng.randrange(len(boxes)), rng.random()
    if way < 0.3:
        box, shown = boxes[number], box_picture(picture, number)
    else:
        box = varied(sentence, boxes, rng)[1][number] if way < 0.5 else mixed_box(rng, others)
        shown = draw_box(box)
    turns = (Turn("user", (shown, QUESTION)), Turn("assistant", (told_box(box),)))
    return Exercise("box", "box", turns, told_box(box))


def mixed_box(rng: random.Random, others: Sequence[Drawn]) -> Box:
    """As many items as a scattered box has, each where one of another such box lies, and in a colour of its own."""
    count = len(rng.choice(pictured(rng, others, tower=False)))
    found: list[Item] = []
    for _ in range(TRIES):
        box = rng.choice(pictured(rng, others, tower=False))
        if not box or len(found) == count:
            continue
        item = replace(rng.choice(box), colour=rng.choice(list(COLOURS)))
        if not any(overlap(item, other) for other in found):
            found.append(item)
    return in_order(found)


def pictured(rng: random.Random, others: Sequence[Drawn], tower: bool) -> tuple[Box, ...]:
    """The boxes of any picture, with towers or without."""
    while True:
        boxes = rng.choice(others)[3]
        if all(is_tower(box) == tower for box in boxes):
            return boxes


def box_picture(picture: Image.Image, number: int) -> Image.Image:
    """One of the three boxes of a picture of NLVR."""
    return picture.crop((STARTS[number], 0, STARTS[number] + BOX, BOX))


def judged(rng: random.Random, others: Sequence[Drawn]) -> Exercise:
    """A sentence about three boxes that are told in notes, with a thought; true as often as not, where it can be.

    Half of the sentences are people's, varied, and half are made. People's sentences of which `read` does not know what
    they claim are left out: of other boxes nobody knows whether they are true.
    """
    said, claim = worded(rng)
    tower = claim.of == "towers" or rng.random() < TOWERS
    if rng.random() < 0.5:
        said, claim, tower = known(rng, others)
    wanted, boxes, thought, true = rng.random() < 0.5, (), "", False
    for _ in range(TRIES):
        boxes = pictured(rng, others, tower)
        if rng.random() < 0.5:  # those of one picture are alike
            boxes = [rng.choice(pictured(rng, others, tower)) for _ in boxes]
        thought, true = claim.thought(boxes)
        if true == wanted:
            break
    return judging(said, [told_box(box) for box in boxes], "yes" if true else "no", thought)


def known(rng: random.Random, others: Sequence[Drawn]) -> tuple[str, Claim, bool]:
    """A sentence that somebody wrote, varied, what it claims, and whether it was written of towers."""
    while True:
        sentence, _, _, boxes = rng.choice(others)
        said, _ = varied(sentence, boxes, rng)
        if (claim := read(said)) is not None:
            return said, claim, is_tower(boxes[0])


def judging(sentence: str, boxes: list[str], answer: str, thought: str | None = None) -> Exercise:
    """Whether a sentence is true of boxes that are told in words."""
    said = thinking_of(thought or "", thought is not None) + answer
    turns = (
        Turn("user", (written(boxes), f"Is this statement true? {sentence}")),
        Turn("assistant", (said,)),
    )
    return Exercise("boxes", "boxes", turns, answer)


def write_boxes(folder: Path, counts: dict[str, int], sets: Path, seed: int) -> None:
    """Exercises as `write_exercises` has them: twice as many sentences to judge as boxes to tell."""
    drawn = {split: read_nlvr(sets, split) for split in counts}

    def make(split: str, index: int) -> Exercise:
        rng, others = random.Random(f"{seed} boxes {split} {index}"), drawn[split]
        return judged(rng, others) if index % 3 else boxed(rng, others)

    write_made(folder, counts, make)
