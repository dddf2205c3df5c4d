"""What nano learns of NLVR: to tell what is in a box, and to judge sentences about three boxes told in words."""

from __future__ import annotations

import io
import random
from pathlib import Path

from PIL import Image

from recipes.nano.boxes import BOX, STARTS, Box, draw_box, read_boxes, told_box, varied
from recipes.nano.conversations import Exercise, Turn, write_made
from recipes.nano.data import read_tars
from recipes.nano.notes import written

QUESTION = "what is in the box?"
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


def judged(rng: random.Random, drawn: Drawn) -> Exercise:
    """A sentence about three boxes, varied, which are told in notes."""
    sentence, label, _, boxes = drawn
    said, moved = varied(sentence, boxes, rng)
    return judging(said, [told_box(box) for box in moved], "yes" if label else "no")


def judging(sentence: str, boxes: list[str], answer: str) -> Exercise:
    """Whether a sentence is true of boxes that are told in words."""
    turns = (
        Turn("system", (written(boxes),)),
        Turn("user", (f"Is this statement true? {sentence}",)),
        Turn("assistant", (answer,)),
    )
    return Exercise("boxes", "boxes", turns, answer)


def write_boxes(folder: Path, counts: dict[str, int], sets: Path, seed: int) -> None:
    """Exercises as `write_exercises` has them: as many boxes to tell as sentences to judge."""
    drawn = {split: read_nlvr(sets, split) for split in counts}

    def make(split: str, index: int) -> Exercise:
        rng = random.Random(f"{seed} boxes {split} {index}")
        return (boxed, judged)[index % 2](rng, rng.choice(drawn[split]))

    write_made(folder, counts, make)
