"""Preferences as trl, LLaMA-Factory and verl write them down, read as records."""

import json
from pathlib import Path

import pytest

from mmlm.data import Record, check_data, convert_data, read_records
from mmlm.data.judged import worse
from mmlm.data.records import BadRecordsError
from support.training_objectives import png

USER = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
SAID = [{"role": "assistant", "content": "a dog"}]
ALSO = [{"role": "assistant", "content": [{"type": "text", "text": "a cat"}]}]
MARKED = {"role": "user", "content": "<image>What is it?"}
PAIR = dict(chosen="a dog", rejected="a cat")
ASKED, TALK = ("question", "What?", "a dog"), ("conversation", "What is it?", "a dog")


def shown(name: str) -> list[dict]:
    return [{"role": "assistant", "content": [{"type": "image", "image": name}]}]


@pytest.fixture
def read(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(png("red" if name == "a" else "blue"))
    (tmp_path / "a.wav").write_bytes(b"RIFF")

    def one(**fields) -> Record:
        (tmp_path / "data.jsonl").write_text(json.dumps(fields))
        (record,) = read_records(tmp_path / "data.jsonl", bad_limit=0)
        return record

    one.folder = tmp_path
    return one


def told(record: Record) -> tuple:
    (text,) = record.texts
    return text.kind, text.question, text.answer, record.rejected, record.good


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (dict(image="a.png", prompt="What?", **PAIR), (*ASKED, "a cat", None)),
        (dict(images=["a.png"], prompt="What?", **PAIR), (*ASKED, "a cat", None)),
        (dict(image="a.png", **PAIR), ("caption", None, "a dog", "a cat", None)),
        (dict(image="a.png", caption="a dog", rejected="a cat"), ("caption", None, "a dog", "a cat", None)),
        (dict(audio="a.wav", **PAIR), ("transcript", None, "a dog", "a cat", None)),
        (dict(image="a.png", prompt="What?", completion="a dog", label=False), (*ASKED, None, False)),
        (dict(image="a.png", prompt="What?", solution="a dog"), (*ASKED, None, None)),
        (dict(image="a.png", prompt=[USER], chosen=SAID, rejected=ALSO), (*TALK, "a cat", None)),
        (dict(image="a.png", chosen=[USER, *SAID], rejected=[USER, *ALSO]), (*TALK, "a cat", None)),
        (dict(prompt="What is it?", **PAIR), (*TALK, "a cat", None)),
        (dict(image="a.png", prompt=[USER], completion=SAID, label=True), (*TALK, None, True)),
        (dict(images=["a.png"], prompt=[MARKED], reward_model={"ground_truth": "a dog"}), (*TALK, None, None)),
    ],
)
def test_a_line_is_read_as_its_answers(read, fields, expected):
    record = read(**fields)
    assert told(record) == expected
    if isinstance(record.rejected, str):
        (text,), (other,) = record.texts, worse(record).texts
        assert other.answer == "a cat" and (other.kind, other.question) == (text.kind, text.question)
        assert worse(record).places == record.places


def test_pictures_that_are_shown_are_drawings(read):
    record = read(prompt="a red square", chosen=shown("a.png"), rejected=shown("b.png"))
    assert record.image == png("red") and record.captions == ("a red square",)
    assert worse(record).image == png("blue") and worse(record).captions == ("a red square",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(image="a.png", prompt="What?", chosen="a dog", rejected=""), "rejected answer is empty"),
        (dict(image="a.png", prompt="What?", completion="a dog", label="yes"), "neither true nor false"),
        (dict(image="a.png", prompt="What?"), '"prompt" without "chosen" and "rejected"'),
        (dict(image="a.png", captions=["a dog", "a fox"], rejected="a cat"), "about one answer"),
        (dict(chosen=[USER, *SAID], rejected=[{**USER, "content": "Who?"}, *ALSO], image="a.png"), "the same messages"),
        (dict(prompt="a red square", chosen=shown("a.png"), rejected="a cat"), "does not show one of its kind"),
        (dict(image="none.png", chosen="a dog", rejected="a cat"), "no picture at"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(read, fields, message):
    with pytest.raises(BadRecordsError, match=message):
        read(**fields)


def test_they_are_counted_and_converted(read, tmp_path):
    record = read(image="a.png", prompt="What?", chosen="a dog", rejected="a cat")
    report = check_data(tmp_path / "data.jsonl", media=True)
    assert report.records == 1 and report.pictures == 1 and not report.bad and report.preferences == 1
    assert "preferences" in str(report)
    for form in ("tar", "jsonl"):
        folder = convert_data(tmp_path / "data.jsonl", tmp_path / form, form=form).output
        source = folder if form == "jsonl" else str(folder / "*.tar")
        (again,) = read_records(source)
        assert told(again) == told(record) and again.image == record.image
    plain = Record("x", png("red"), qa=(("What?", "a dog"),))
    assert plain.identity() == plain.texts and record.identity() != plain.identity()


def test_an_answer_is_judged_in_one_way():
    with pytest.raises(ValueError, match="give either"):
        Record("x", png("red"), ("a dog",), rejected="a cat", good=True)
    with pytest.raises(TypeError, match="True or False"):
        Record("x", png("red"), ("a dog",), good=1)  # pyright: ignore[reportArgumentType]


def test_the_page_on_data_shows_preferences_that_are_read(tmp_path):
    page = (Path(__file__).parents[1] / "docs/data.md").read_text(encoding="utf-8")
    lines = page.partition('```json title="preferences.jsonl"\n')[2].partition("```")[0]
    (tmp_path / "1.jpg").touch()
    (tmp_path / "data.jsonl").write_text(lines)
    records = read_records(tmp_path / "data.jsonl", bad_limit=0)
    assert [record.rejected for record in records] == ["a cat", "a cat on grass", "a cat", None, None, None]
    assert [record.good for record in records] == [None, None, None, True, None, None]
    assert all(record.texts[0].answer.startswith("a dog") for record in records)
