"""What the recipes of alignment teach: what drawings earn by what nano sees in them, and what a judge is asked."""

import random

import mmlm
from mmlm.data.records import Text
from mmlm.generation.result import GenerationResult, Usage
from mmlm.training.alignment.rewards import Written
from recipes.align.drawings import JUDGED, PRACTISED, prompts, scenes_of, told_by
from recipes.align.judged import lessons
from recipes.align.scenes import signals
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


def test_a_judge_sees_each_pair_in_both_orders():
    """The number of the right answer is the lesson, and stands before the colour of the thing."""
    pairs = signals(6, 0)
    asked = lessons(pairs)
    assert len(asked) == 12
    for pair, own in zip(pairs, (asked[at : at + 2] for at in range(0, 12, 2)), strict=True):
        right = pair.texts[0].answer
        for record, number in zip(own, "12", strict=True):
            ((question, answer),) = record.qa
            assert (answer, record.image) == (number, pair.image)
            assert f"Answer {number}: {right}\n" in question and f": {pair.rejected}\n" in question


def drawn(picture):
    """A result that shows a picture."""
    return GenerationResult("", (), (), "stop", Usage(0, 0, 0, 0), parts=(picture,))
