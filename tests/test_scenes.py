"""The drawn scenes of recipes/nano: pictures, wording, splits and the judge."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from recipes.nano.data import read_tars, write_scenes
from recipes.nano.judge import judge_caption
from recipes.nano.questions import questions
from recipes.nano.scenes import (
    BACKGROUNDS,
    COLOURS,
    GRID,
    SHAPES,
    SIDE,
    UNSEEN_PAIRS,
    Kind,
    Scene,
    Thing,
    draw,
    holds,
    sample_scene,
    training_scene,
    unseen_layout,
    unseen_pair,
)
from recipes.nano.wording import caption, phrases, placed_caption


def scene(background, *things):
    return Scene(background, tuple(sorted(Thing(cell, Kind(*words.split())) for cell, words in things)))


PAIR = scene("white", (0, "small red circle"), (4, "large blue heart"))
COUNTED = scene("gray", (1, "small green ring"), (2, "large teal cross"), (5, "small green ring"))


# What a person would say of the two scenes above, right and wrong.
@pytest.mark.parametrize(
    ("caption", "scene", "right"),
    [
        ("a small red circle and a large blue heart", PAIR, True),
        ("a large blue heart and a small red circle on white", PAIR, True),
        ("a small red circle above a large blue heart", PAIR, True),
        ("a small red circle left of a large blue heart on a white background", PAIR, True),
        ("a large blue heart below a small red circle", PAIR, True),
        ("one small red circle and one large blue heart", PAIR, True),
        ("a white background with a small red circle and a large blue heart", PAIR, True),
        ("a picture of two small green rings and a large teal cross", COUNTED, True),
        ("there are two small green rings and a large teal cross on a gray background", COUNTED, True),
        ("the picture shows a large teal cross and two small green rings", COUNTED, True),
        ("in the top left a small red circle and in the middle a large blue heart", PAIR, True),
        ("in the middle a large blue heart and in the top left a small red circle, on a white background", PAIR, True),
        (
            "a picture of two shapes on white: in the top left a small red circle and in the middle a large blue heart",
            PAIR,
            True,
        ),
        (
            "there are three shapes on a gray background: at the top a small green ring, in the top right a large teal "
            "cross and on the right a small green ring",
            COUNTED,
            True,
        ),
        (
            "there are two shapes on a gray background: at the top a small green ring, in the top right a large teal "
            "cross and on the right a small green ring",
            COUNTED,
            False,
        ),  # they are three
        (
            "there are three shapes on a gray background: at the top a small green ring, in the top right a large teal "
            "cross and at the top a small green ring",
            COUNTED,
            False,
        ),  # one of the rings is on the right
        (
            "there are three shapes on a gray background: at the top a small green ring and in the top right a large "
            "teal cross",
            COUNTED,
            False,
        ),
        (
            "three shapes on a white background: at the top a small green ring, in the top right a large teal cross "
            "and on the right a small green ring",
            COUNTED,
            False,
        ),  # it is gray
        ("in the top left a small red circle and in the top right a large blue heart", PAIR, False),
        ("in the top left a small red circle and a large blue heart", PAIR, False),  # half with places, half without
        ("in the top left two small red circles and in the middle a large blue heart", PAIR, False),
        (
            "two shapes on white: in the top left a small red circle and in the middle a large blue heart on white",
            PAIR,
            False,
        ),
        ("a small red circle", PAIR, False),  # the heart is not named
        ("a small red circle below a large blue heart", PAIR, False),
        ("a large blue heart left of a small red circle", PAIR, False),
        ("a small red circle and a small blue heart", PAIR, False),
        ("a small blue circle and a large red heart", PAIR, False),
        ("a small red circle and a large blue star", PAIR, False),
        ("a small red circle and a large blue heart on black", PAIR, False),
        ("a small red circle, a large blue heart and a large blue heart", PAIR, False),
        ("a small red circle and two large blue hearts", PAIR, False),
        ("a small green ring and a large teal cross", COUNTED, False),
        ("three small green rings and a large teal cross", COUNTED, False),
        ("a red circle and a blue heart", PAIR, False),  # the sizes are not named
        ("a small red circle and a large blue heart and", PAIR, False),
        ("", PAIR, False),
        ("a photograph of a dog", PAIR, False),
    ],
)
def test_judge(caption, scene, right):
    assert judge_caption(caption, scene).correct is right


def test_judge_says_which_place_is_wrong():
    judgement = judge_caption("in the top left a small red circle and on the left a large blue heart", PAIR)
    assert judgement.wrong == ("on the left 1 large blue heart",)
    assert judgement.missing == ("in the middle 1 large blue heart",)


def test_judge_says_what_is_wrong():
    judgement = judge_caption("a small red ring above a large blue heart on black", PAIR)
    assert judgement.wrong == ("1 small red ring",)
    assert judgement.missing == ("1 small red circle",)
    assert judgement.background is False


def test_every_caption_is_right_about_its_scene_and_wrong_about_a_changed_one():
    rng = random.Random(0)
    for _ in range(1000):
        drawn = sample_scene(rng)
        text = caption(drawn, rng)
        assert judge_caption(text, drawn).correct, text
        first = drawn.things[0]
        other = rng.choice([shape for shape in SHAPES if shape != first.kind.shape])
        changed = Thing(first.cell, Kind(first.kind.size, first.kind.colour, other))
        assert not judge_caption(text, Scene(drawn.background, (changed, *drawn.things[1:]))).correct


def test_relations_of_the_grid():
    # Cells 0..8 in reading order; the answers are read off a sketch of the grid.
    small = Kind("small", "red", "circle")
    table = {
        (0, 8): "above left of",
        (2, 6): "above right of",
        (3, 5): "left of",
        (7, 1): "below",
        (5, 0): "below right of",
    }
    for (a, b), expected in table.items():
        for relation in ("above", "below", "left of", "right of"):
            assert holds(relation, Thing(a, small), Thing(b, small)) == (relation in expected)


@pytest.mark.parametrize("colour", COLOURS)
def test_the_picture_shows_what_the_scene_says(colour):
    rng = random.Random(1)
    for shape in SHAPES:
        for background in BACKGROUNDS:
            if background == colour:
                continue
            for cell in rng.sample(range(GRID * GRID), 2):
                counts = {}
                for size in ("small", "large"):
                    picture = draw(scene(background, (cell, f"{size} {colour} {shape}")), rng)
                    pixels = np.asarray(picture, dtype=float)
                    assert pixels.shape == (SIDE, SIDE, 3)
                    painted = np.linalg.norm(pixels - COLOURS[colour], axis=2) < 20
                    counts[size] = painted.sum()
                    ys, xs = np.nonzero(painted)
                    assert (int(ys.mean() * GRID / SIDE), int(xs.mean() * GRID / SIDE)) == divmod(cell, GRID)
                assert counts["large"] > 1.5 * counts["small"] > 0


def test_drawing_is_seeded():
    a, b, c = (draw(COUNTED, random.Random(seed)).tobytes() for seed in (3, 3, 4))
    assert a == b != c


def test_splits_are_apart():
    rng = random.Random(2)
    assert all(colour in COLOURS and shape in SHAPES for colour, shape in UNSEEN_PAIRS)
    train = [sample_scene(rng, training_scene) for _ in range(2000)]
    dev = [sample_scene(rng, unseen_layout) for _ in range(500)]
    unseen = [sample_scene(rng, unseen_pair) for _ in range(200)]
    layouts = {s.things for s in train}
    assert not layouts & {s.things for s in dev}
    assert not layouts & {s.things for s in unseen}
    pairs = {(t.kind.colour, t.kind.shape) for s in train + dev for t in s.things}
    assert len(pairs) == len(COLOURS) * len(SHAPES) - len(UNSEEN_PAIRS)
    assert not pairs & UNSEEN_PAIRS
    assert all({(t.kind.colour, t.kind.shape) for t in s.things} & UNSEEN_PAIRS for s in unseen)


def test_questions_of_a_known_scene():
    asked = {}
    for seed in range(3000):
        asked |= {q.question: q.answer for q in questions(PAIR, random.Random(seed))}
    # By hand, looking at: a small red circle in the top left, a large blue heart in the middle, white behind.
    expected = {
        "what color is the heart?": "blue",
        "what shape is the red thing?": "circle",
        "what size is the blue heart?": "large",
        "how many shapes are there?": "two",
        "how many circles are there?": "one",
        "is there a red circle?": "yes",
        "is there not a heart?": "no",
        "is the circle above the heart?": "yes",
        "is the red circle right of the blue heart?": "no",
        "what color is the background?": "white",
        "what is in the top left?": "a small red circle",
        "what is in the bottom right?": "nothing",
        "Is this statement true? There is exactly one heart.": "yes",
        "Is this statement true? There is a heart below a circle.": "yes",
    }
    assert {question: asked.get(question) for question in expected} == expected


def test_yes_and_no_are_balanced():
    rng = random.Random(5)
    answers = {}
    for _ in range(1500):
        for q in questions(sample_scene(rng), rng):
            answers.setdefault(q.topic, []).append(q.answer)
    for topic in ("presence", "absence", "relation", "statement"):
        assert 0.4 < np.mean([answer == "yes" for answer in answers[topic]]) < 0.62, topic


def test_placed_captions_name_every_thing():
    rng = random.Random(6)
    text = placed_caption(scene("black", (0, "small red star"), (8, "small red star")), rng)
    assert "in the top left" in text and "in the bottom right" in text


def test_phrases_name_what_fills_a_cell():
    kind = Kind("large", "teal", "star")
    assert phrases(kind, 4) == ("a star", "a large shape", "a teal shape", "a large teal star", "in the middle")
    assert phrases(kind, 8, colour=False) == ("a star", "a large shape", None, None, "in the bottom right")
    assert phrases(None, 1) == ("nothing", None, None, "nothing", "at the top")


def test_tars_hold_the_scenes_and_are_the_same_again(tmp_path):
    for name in ("a", "b"):
        write_scenes(tmp_path / name, {"dev": 6}, seed=0)
    assert (tmp_path / "a/dev-000000.tar").read_bytes() == (tmp_path / "b/dev-000000.tar").read_bytes()
    examples = list(read_tars(tmp_path / "a", "dev"))
    assert len(examples) == 6
    for picture, record in examples:
        assert Image.open(io.BytesIO(picture)).size == (SIDE, SIDE)
        drawn = Scene.from_dict(record["scene"])
        assert unseen_layout(drawn)
        assert all(judge_caption(text, drawn).correct for text in record["captions"])
