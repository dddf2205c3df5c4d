"""The weights that come with the package: they load, they are small, and they see."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import mmlm
from recipes.nano.data import scene_example
from recipes.nano.evaluate import word_f1
from recipes.nano.judge import judge_caption
from recipes.nano.scenes import SHAPES, Scene

FOLDER = Path(mmlm.__file__).parent / "nano"


@pytest.fixture(scope="module")
def nano():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # fingerprints of the frozen parts are those the adapters were trained with
        return mmlm.load("nano")


def examples(split, count):
    # Other scenes than those of docs/nano.md: another seed.
    pictures, records = zip(*(scene_example(split, index, seed=1) for index in range(count)), strict=True)
    return list(pictures), list(records), [Scene.from_dict(record["scene"]) for record in records]


def share(values):
    values = list(values)
    return sum(values) / len(values)


def test_it_ships_in_half_precision_and_leaves_room():
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 20e6  # of 32 MB; the rest is for ears, pencil and voice
    for file in FOLDER.rglob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float16}


def test_it_belongs_to_no_machine():
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["language_model"]["name"] == "preset:nano/language_model"
    assert config["image_encoder"]["name"] == "preset:nano/image_encoder"


def test_the_card_says_what_it_is_for_and_where_it_fails():
    card = (FOLDER / "MODEL_CARD.md").read_text()
    for said in ("Photographs", "CC BY 4.0", "MIT", "OFL", "held out", "wrong picture"):
        assert said in card


# What the packaged weights reach (docs/nano.md), with room for the draw.


def test_it_describes_layouts_it_has_never_seen(nano):
    pictures, _, scenes = examples("dev", 100)
    captions = nano.caption(pictures, batch_size=64, max_new_tokens=60)
    right, wrong = (
        share(judge_caption(text, scene).correct for text, scene in zip(captions, described, strict=True))
        for described in (scenes, scenes[1:] + scenes[:1])
    )
    assert right >= 0.85 and wrong <= 0.05


def test_it_reads_a_thing_that_stands_alone(nano):
    pictures, _, scenes = examples("dev", 200)
    alone = [(picture, scene) for picture, scene in zip(pictures, scenes, strict=True) if len(scene.things) == 1]
    captions = nano.caption([picture for picture, _ in alone], batch_size=64, max_new_tokens=60)
    right = share(judge_caption(text, scene).correct for text, (_, scene) in zip(captions, alone, strict=True))
    assert len(alone) >= 20 and right >= 0.95


def test_it_answers_questions_about_them(nano):
    pictures, records, _ = examples("dev", 60)
    asked = [(number, qa) for number, record in enumerate(records) for qa in record["qa"]]
    features = nano.encode_media(pictures)
    right, wrong = (
        share(
            answer == qa["answers"][0]
            for answer, (_, qa) in zip(
                nano.answer([shown[n] for n, _ in asked], [qa["question"] for _, qa in asked], batch_size=64),
                asked,
                strict=True,
            )
        )
        for shown in (features, features[1:] + features[:1])
    )
    assert right >= 0.9 and wrong <= right - 0.45


def test_it_tells_yes_from_no(nano):
    """Half of these answers are yes, so that half of them right is what no picture at all gives."""
    pictures, records, _ = examples("dev", 150)
    asked = [(number, qa) for number, record in enumerate(records) for qa in record["qa"] if qa["topic"] == "presence"]
    features = nano.encode_media(pictures)
    answers = nano.answer([features[n] for n, _ in asked], [qa["question"] for _, qa in asked], batch_size=64)
    right = share(answer == qa["answers"][0] for answer, (_, qa) in zip(answers, asked, strict=True))
    assert len(asked) >= 50 and right >= 0.9


def test_it_names_pairs_that_it_has_never_seen(nano):
    pictures, _, scenes = examples("unseen", 100)
    captions = nano.caption(pictures, batch_size=64, max_new_tokens=60)
    right = share(judge_caption(text, scene).correct for text, scene in zip(captions, scenes, strict=True))
    assert right >= 0.7


def test_its_clip_reads_texts(nano):
    pictures, _, scenes = examples("dev", 40)
    alone = [(picture, scene.things[0].kind) for picture, scene in zip(pictures, scenes, strict=True)
             if len({thing.kind for thing in scene.things}) == 1]  # fmt: skip
    encoder = nano.encoders["image"]
    shapes = encoder.embed_texts([f"a {shape}" for shape in SHAPES])
    seen = encoder.embed_images(torch.stack([encoder.preprocess(picture) for picture, _ in alone]))
    found = [SHAPES[index] for index in (seen @ shapes.T).argmax(1)]
    assert share(shape == kind.shape for shape, (_, kind) in zip(found, alone, strict=True)) > 0.5  # one in eight


def test_word_f1():
    # By hand: two of three words said are in the name of four: precision 2/3, recall 1/2.
    assert word_f1("red big heart", "big red fire engine") == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    assert word_f1("cat", "dog") == 0 and word_f1("Dog", "dog") == 1
