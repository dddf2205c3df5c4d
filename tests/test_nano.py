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
from recipes.nano.scenes import Scene

FOLDER = Path(mmlm.__file__).parent / "nano"
pytestmark = pytest.mark.skipif(
    not (FOLDER / "model.safetensors").is_file(), reason="no packaged weights: python -m recipes.nano.run"
)


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


def test_it_describes_layouts_it_has_never_seen(nano):
    pictures, _, scenes = examples("dev", 100)
    captions = nano.caption(pictures, max_new_tokens=60)
    right, wrong = (
        share(judge_caption(text, scene).correct for text, scene in zip(captions, described, strict=True))
        for described in (scenes, scenes[1:] + scenes[:1])
    )
    assert right >= 0.9 and wrong <= 0.05


def test_it_answers_questions_about_them(nano):
    pictures, records, _ = examples("dev", 60)
    asked = [(picture, qa) for picture, record in zip(pictures, records, strict=True) for qa in record["qa"]]
    answers = nano.answer([picture for picture, _ in asked], [qa["question"] for _, qa in asked])
    assert share(answer == qa["answers"][0] for answer, (_, qa) in zip(answers, asked, strict=True)) >= 0.88


def test_word_f1():
    # By hand: two of three words said are in the name of four: precision 2/3, recall 1/2.
    assert word_f1("red big heart", "big red fire engine") == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    assert word_f1("cat", "dog") == 0 and word_f1("Dog", "dog") == 1
