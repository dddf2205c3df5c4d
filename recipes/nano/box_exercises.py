"""What nano learns of NLVR: to tell what is in a box, and to judge sentences about three boxes told in words."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from recipes.nano.boxes import BOX, STARTS, Box, draw_box, is_tower, read_boxes, told_box, varied
from recipes.nano.conversations import Exercise, Turn, write_made
from recipes.nano.data import read_tars
from recipes.nano.notes import written
from recipes.nano.statements import verdict
from recipes.nano.thoughts import thinking_of

QUESTION = "what is in the box?"
TRIES = 20  # how many boxes are tried for a sentence to be as true as it is wanted to be
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


def boxed(rng: random.Random, drawn: Drawn) -> Exercise:
    """One box of a picture of NLVR, to be told in words; as it is, or varied and drawn anew."""
    sentence, _, picture, boxes = drawn
    number = rng.randrange(len(boxes))
    if rng.random() < 0.5:
        box, shown = boxes[number], box_picture(picture, number)
    else:
        box = varied(sentence, boxes, rng)[1][number]
        shown = draw_box(box)
    turns = (Turn("user", (shown, QUESTION)), Turn("assistant", (told_box(box),)))
    return Exercise("box", "box", turns, told_box(box))


def box_picture(picture: Image.Image, number: int) -> Image.Image:
    """One of the three boxes of a picture of NLVR."""
    return picture.crop((STARTS[number], 0, STARTS[number] + BOX, BOX))


def judged(rng: random.Random, drawn: Drawn, others: Sequence[Drawn], think: bool) -> Exercise:
    """A sentence about three boxes that are told in notes, varied; with a thought where its form is known.

    Half of the sentences in a known form are about boxes of other pictures, so that each is true and false by turns.
    """
    sentence, label, _, boxes = drawn
    answer = "yes" if label else "no"
    if verdict(sentence, boxes) is not None and rng.random() < 0.5:
        wanted = rng.choice(("yes", "no"))
        for _ in range(TRIES):
            boxes = [rng.choice(rng.choice(others)[3]) for _ in boxes]
            found = verdict(sentence, boxes)
            if len(set(map(is_tower, boxes))) == 1 and found is not None and found[1] == wanted:
                answer = wanted
                break
        else:
            boxes = drawn[3]
    said, moved = varied(sentence, boxes, rng)
    found = verdict(said, moved)
    thought = found[0] if think and found is not None and found[1] == answer else None
    return judging(said, [told_box(box) for box in moved], answer, thought)


def judging(sentence: str, boxes: list[str], answer: str, thought: str | None = None) -> Exercise:
    """Whether a sentence is true of boxes that are told in words."""
    said = thinking_of(thought or "", thought is not None) + answer
    turns = (
        Turn("user", (written(boxes), f"Is this statement true? {sentence}")),
        Turn("assistant", (said,)),
    )
    return Exercise("boxes", "boxes", turns, answer)


def write_boxes(folder: Path, counts: dict[str, int], sets: Path, seed: int) -> None:
    """Exercises as `write_exercises` has them: as many boxes to tell as sentences to judge."""
    drawn = {split: read_nlvr(sets, split) for split in counts}

    def make(split: str, index: int) -> Exercise:
        rng = random.Random(f"{seed} boxes {split} {index}")
        one = rng.choice(drawn[split])
        return judged(rng, one, drawn[split], index % 8 != 1) if index % 2 else boxed(rng, one)

    write_made(folder, counts, make)
