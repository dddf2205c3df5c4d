"""What drawings earn when nano is taught by what it sees in them: `recipes/align/drawings.py`."""

import random

import pytest

import mmlm
from mmlm.data.records import Text
from mmlm.generation.result import GenerationResult, Usage
from mmlm.training.alignment.rewards import Written
from recipes.align.drawings import prompts, share_right, told_by
from recipes.nano.scenes import Kind, Scene, Thing, draw
from recipes.nano.wording import listed

CIRCLE, STAR = Kind("large", "red", "circle"), Kind("small", "blue", "star")
SCENE = Scene("white", (Thing(0, CIRCLE), Thing(8, STAR)))
RIGHT = "in the top left a large red circle, in the bottom right a small blue star, on a white background"


@pytest.mark.parametrize(
    ("caption", "share"),
    [
        (RIGHT, 1.0),
        (RIGHT.replace("white", "black"), 2 / 3),
        (RIGHT.replace("blue", "green"), 2 / 3),
        (RIGHT.replace("top left", "bottom left"), 2 / 3),
        (RIGHT.replace("blue", "green").replace("large", "small").replace("white", "gray"), 0.0),
        ("in the top left a large red circle, on a white background", 2 / 3),
        ("in the top left", 0.0),
        ("", 0.0),
    ],
)
def test_a_drawing_earns_what_is_right_in_it(caption, share):
    assert listed(SCENE) == RIGHT
    assert share_right(caption, SCENE) == pytest.approx(share)


def test_nano_sees_whether_a_drawing_is_of_its_text():
    other = Scene("black", (Thing(4, STAR),))
    records = prompts([SCENE, other])
    pictures = [draw(scene, random.Random(0), loose=0) for scene in (SCENE, other)]
    reward = told_by(mmlm.load("nano", codecs=None), [SCENE, other])
    written = [
        Written(record, Text("caption", record.captions[0]), drawn(picture))
        for record in records
        for picture in pictures
    ]
    assert reward(written) == [1.0, 0.0, 0.0, 1.0]


def drawn(picture):
    """A result that shows a picture."""
    return GenerationResult("", (), (), "stop", Usage(0, 0, 0, 0), parts=(picture,))
