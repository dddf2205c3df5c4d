"""What drawings earn when nano is taught by what it sees in them: `recipes/align/drawings.py`."""

import random

import mmlm
from mmlm.data.records import Text
from mmlm.generation.result import GenerationResult, Usage
from mmlm.training.alignment.rewards import Written
from recipes.align.drawings import JUDGED, PRACTISED, prompts, scenes_of, told_by
from recipes.nano.scenes import UNSEEN_PAIRS, Kind, Scene, Thing, draw, training_scene

CIRCLE, STAR = Kind("large", "red", "circle"), Kind("small", "blue", "star")
SCENE = Scene("white", (Thing(0, CIRCLE), Thing(8, STAR)))


def test_nano_sees_whether_a_drawing_is_of_its_text():
    scenes = [SCENE, Scene("black", (Thing(4, STAR),)), Scene("black", (Thing(0, CIRCLE), Thing(8, STAR)))]
    records = prompts(scenes)
    pictures = [draw(scene, random.Random(0), loose=0) for scene in scenes]
    reward = told_by(mmlm.load("nano", codecs=None), scenes)
    written = [
        Written(record, Text("caption", record.captions[0]), drawn(picture))
        for record in records
        for picture in pictures
    ]
    assert reward(written) == [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]


def test_what_is_judged_was_not_practised():
    """Five pairs of ten; the scenes of one kind have none of another's."""
    assert len(PRACTISED) == 5 and PRACTISED < UNSEEN_PAIRS
    for name, pairs in {"practised pairs": PRACTISED, "unpractised pairs": UNSEEN_PAIRS - PRACTISED}.items():
        scenes = scenes_of(JUDGED[name], 20, 1)
        found = [{(thing.kind.colour, thing.kind.shape) for thing in scene.things} & UNSEEN_PAIRS for scene in scenes]
        assert all(found) and set().union(*found) <= pairs and not any(map(training_scene, scenes))


def drawn(picture):
    """A result that shows a picture."""
    return GenerationResult("", (), (), "stop", Usage(0, 0, 0, 0), parts=(picture,))
