"""Captions, answers and transcripts of data of any size: a row for each input, whatever happens meanwhile."""

import json
import os
import random
import signal
import tarfile
import time
from pathlib import Path

import pytest
import soundfile
from PIL import Image, ImageDraw

from encoders.media.sound import SAMPLE_RATE
from mmlm.cli import main
from mmlm.cli.picture_job import PictureRows
from mmlm.tasks import votes
from support.hearing import noise, save_whisper, tiny_whisper

COLOURS = ("red", "blue", "green", "yellow", "black")
QUESTIONS = ("what color is the circle?", "how many shapes are there?", "is there a star?", "what is it?")


@pytest.fixture
def data(tmp_path) -> Path:
    """Ten pictures in a manifest with questions of many lengths, and among them: no file, no picture, no line."""
    folder, lines, draw = tmp_path / "data", [], random.Random(0)
    folder.mkdir()
    for number in range(10):
        image = Image.new("RGB", (64, 64), (243, 243, 243))
        x, y = draw.randrange(40), draw.randrange(40)
        ImageDraw.Draw(image).ellipse((x, y, x + 18, y + 18), fill=COLOURS[number % 5])
        image.save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "question": QUESTIONS[number % 4]}))
    (folder / "bad.png").write_text("not a picture")
    lines[4:4] = ['{"image": "gone.png", "question": "where?"}', '{"image": "bad.png", "question": "what?"}', "{"]
    (folder / "m.jsonl").write_text("\n".join(lines))
    return folder / "m.jsonl"


def job(verb: str, data: Path, output: Path, *more: str) -> int:
    return main([verb, *more, "--data", str(data), "--output", str(output)])


def rows(output: Path) -> list[dict]:
    return [json.loads(line) for part in sorted(output.glob("part-*")) for line in part.read_text().splitlines()]


def test_an_interrupted_job_says_that_it_can_be_gone_on_with(tmp_path, data, monkeypatch, capsys):
    def interrupted(self, items, first):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PictureRows, "rows_of", interrupted)
        assert job("caption", data, tmp_path / "run", "--max-new-tokens", "2") == 130
    assert "mmlm caption: stopped; the same command goes on" in capsys.readouterr().err
    assert job("caption", data, tmp_path / "run", "--max-new-tokens", "2") == 1 and len(rows(tmp_path / "run")) == 13


def test_each_picture_has_its_row_in_order_and_each_failure_its_reason(tmp_path, data, nano, loaded, capsys):
    output = tmp_path / "run"
    assert job("caption", data, output, "--shard-size", "5", "--batch-size", "3") == 1
    found = rows(output)
    names = [*(f"{number}.png" for number in range(4)), "gone.png", "bad.png", "m.jsonl:7"]
    assert [row["key"] for row in found] == [*names, *(f"{number}.png" for number in range(4, 10))]
    for row in found[:4] + found[7:]:
        assert row == {"key": row["key"], "caption": nano.caption(data.parent / row["key"])}
    reasons = ["no picture at", "not an image", "unreadable JSON"]
    assert all(reason in row["error"] for row, reason in zip(found[4:7], reasons, strict=True))
    assert [len(part.read_text().splitlines()) for part in sorted(output.glob("part-*"))] == [5, 5, 3]
    assert "13 rows in" in (err := capsys.readouterr().err) and "3 could not be used" in err and len(loaded) == 1


def test_questions_of_each_or_one_for_all(tmp_path, data, nano, loaded):
    """Prompts are sorted by their length within a shard, and rows are not."""
    assert job("answer", data, tmp_path / "own", "--batch-size", "4") == 1
    found = [row for row in rows(tmp_path / "own") if "error" not in row]
    for number, row in enumerate(found):
        question = QUESTIONS[number % 4]
        answer = nano.answer(data.parent / f"{number}.png", question)
        assert row == {"key": f"{number}.png", "question": question, "answer": answer}
    assert job("answer", data, tmp_path / "one", "is it red?") == 1
    found = [row for row in rows(tmp_path / "one") if "error" not in row]
    assert [row["answer"] for row in found] == [nano.answer(data.parent / row["key"], "is it red?") for row in found]


def test_several_questions_about_a_picture_are_one_row(tmp_path, data, nano, loaded):
    asked = [{"question": question} for question in QUESTIONS]
    lines = [{"image": "0.png", "qa": asked}, {"image": "1.png"}, {"image": "2.png", "qa": [{"question": "x" * 9000}]}]
    data.write_text("\n".join(map(json.dumps, lines)))
    assert job("answer", data, tmp_path / "run") == 1
    several, none, long = rows(tmp_path / "run")
    expected = [(question, nano.answer(data.parent / "0.png", question)) for question in QUESTIONS]
    assert [(pair["question"], pair["answer"]) for pair in several["qa"]] == expected
    assert none == {"key": "1.png", "error": "no question: give one for all, or a question for each"}
    assert long["key"] == "2.png" and "positions" in long["error"]


def test_a_fault_within_the_model_costs_its_item_alone(tmp_path, data, nano, loaded, monkeypatch):
    with Image.open(data.parent / "6.png") as image:
        poison = image.convert("RGB").tobytes()
    generate = votes.generate

    def one_fails(model, prompts, **options):
        if any(getattr(part, "source", part).tobytes() == poison for row in prompts for part in row[:1]):
            raise ValueError("the logits are not finite")
        return generate(model, prompts, **options)

    monkeypatch.setattr(votes, "generate", one_fails)
    assert job("caption", data, tmp_path / "run") == 1
    failed = {row["key"]: row["error"] for row in rows(tmp_path / "run") if "error" in row}
    assert failed.pop("6.png") == "the logits are not finite" and len(failed) == 3


def test_the_whole_result_with_json(tmp_path, data, nano, loaded):
    assert job("caption", data, tmp_path / "run", "--json", "--num-beams", "2") == 1
    row = rows(tmp_path / "run")[0]
    expected = nano.caption(data.parent / "0.png", details=True, num_beams=2)
    assert row["text"] == expected.text and tuple(row["token_ids"]) == expected.token_ids and row["score"] < 0


def test_the_same_seed_gives_the_same_rows_whatever_was_killed(tmp_path, data, loaded):
    options = ("--temperature", "2", "--seed", "3", "--shard-size", "4", "--batch-size", "2")
    for name in ("one", "two"):
        job("caption", data, tmp_path / name, *options)
    (tmp_path / "two/part-00001.jsonl").unlink()
    job("caption", data, tmp_path / "two", *options)
    assert rows(tmp_path / "one") == rows(tmp_path / "two")


def test_what_is_done_is_told_and_not_done_again(tmp_path, data, nano, loaded, monkeypatch, capsys):
    output = tmp_path / "run"
    job("caption", data, output, "--shard-size", "5")
    before = {path.name: path.read_bytes() for path in output.glob("part-*")}
    (output / "part-00001.jsonl").unlink()
    capsys.readouterr()
    assert job("caption", data, output, "--shard-size", "5") == 1
    assert "2 of 3 shards are done; going on" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in output.glob("part-*")}
    monkeypatch.setattr(type(nano), "generate", None)
    assert job("caption", data, output, "--shard-size", "5") == 1
    assert "3 of 3 shards are done\n" in capsys.readouterr().err


def test_fail_fast_ends_and_publishes_no_half_shard(tmp_path, data, loaded, capsys):
    assert job("caption", data, tmp_path / "run", "--fail-fast", "--shard-size", "4") == 2
    assert "gone.png" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").glob("part-*")] == ["part-00000.jsonl"]


# ---- which job it is


def test_another_job_is_refused_by_what_differs(tmp_path, data, nano, loaded, capsys, monkeypatch):
    output = tmp_path / "run"
    job("caption", data, output, "--num-beams", "2")
    count = len(loaded)
    refusals = {
        ("--num-beams", "3"): "--num-beams was 2, now 3",
        ("--num-beams", "2", "--pack", "int8"): "pack was not given, now int8",
        ("--num-beams", "2", "--shard-size", "9"): "--shard-size was 1000, now 9",
        ("--num-beams", "2", "--max-pixels", "9"): "--max-pixels was not given",
        ("--num-beams", "2", "--examples", str(data)): None,
    }
    capsys.readouterr()
    for options, message in refusals.items():
        assert job("caption", data, output, *options) == 2
        assert message is None or message in capsys.readouterr().err
    assert len(loaded) == count  # it is known without the model
    assert job("answer", data, output, "what?", "--num-beams", "2") == 2
    assert "verb was caption, now answer" in capsys.readouterr().err
    for neutral in ("--batch-size=2", "--device=cpu", "--model=nano"):
        assert job("caption", data, output, "--num-beams", "2", neutral) == 1
    import mmlm

    other = mmlm.load("nano")
    next(iter(dict(other.added_parameters()).values())).data[..., 0] += 1
    monkeypatch.setattr("mmlm.assembly.load.load", lambda *arguments, **keywords: other)
    capsys.readouterr()
    assert job("caption", data, output, "--num-beams", "2") == 2
    assert "another job (model: added was" in capsys.readouterr().err


def test_packed_weights_are_the_same_model(nano):
    """What rounds them is an option of the job; the weights are named by what they were."""
    import mmlm
    from mmlm.model.identity import identity_of

    other = mmlm.load("nano").pack("int8")
    assert identity_of(other) == identity_of(nano)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["caption", "a.png", "--output", "x"], "--output is for --data"),
        (["caption", "a.png", "--ray"], "--ray is for --data with --output"),
        (["answer", "a.png"], "give a picture and a question"),
        (["answer", "--data", "m.jsonl"], "go together"),
        (["answer", "a.png", "what?", "--data", "m.jsonl", "--output", "x"], "give no IMAGE"),
        (["caption", "--data", "m.jsonl", "--output", "x", "--shard-size", "0"], "--shard-size must be at least 1"),
        (["caption", "--data", "m.jsonl", "--output", "x", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["caption", "--data", "gone.jsonl", "--output", "x"], "no file matches"),
        (["transcribe", "--data", "m.jsonl", "--output", "x", "--word-timestamps"], "lines of text have no times"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, loaded, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    Path("m.jsonl").touch()
    assert main(arguments) == 2
    assert message in capsys.readouterr().err and os.listdir() == ["m.jsonl"] and not loaded


# ---- processes


def rank(number: int, world: int, data: Path, output: Path) -> int:
    """A process of the command line, which has nano already."""
    child = os.fork()
    if child == 0:
        os.environ |= {"RANK": str(number), "WORLD_SIZE": str(world)}
        code = 9
        try:
            code = job("caption", data, output, "--shard-size", "2", "--batch-size", "2")
        finally:
            os._exit(code)
    return child


def test_killed_ranks_lose_nothing_and_do_nothing_twice(tmp_path, data, loaded):
    import torch

    torch.set_num_threads(1)  # threads do not outlive a fork
    draw, output = random.Random(1), tmp_path / "run"
    assert job("caption", data, tmp_path / "undisturbed", "--shard-size", "2", "--batch-size", "2") == 1
    for _ in range(4):
        children = [rank(number, 3, data, output) for number in range(3)]
        time.sleep(draw.uniform(0, 0.6))
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    children = [rank(number, 2, data, output) for number in range(2)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [1, 1]
    for one, other in zip(*(sorted((tmp_path / name).glob("part-*")) for name in ("run", "undisturbed")), strict=True):
        assert one.read_bytes() == other.read_bytes()


# ---- recordings


def test_each_recording_has_its_row(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("encoders.transcription.transcriber.COMPRESSION_RATIO", 1e9)  # noise needs no second try
    ears = str(save_whisper(tiny_whisper(sharpness=3.0), tmp_path / "whisper.pt"))
    from encoders.transcription.transcriber import Transcriber
    from encoders.whisper import load_whisper

    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for number in range(3):
            soundfile.write(tmp_path / f"{number}.wav", noise(1.0 + number, seed=number), SAMPLE_RATE)
            tar.add(tmp_path / f"{number}.wav", f"{number}.wav")
        (tmp_path / "bad.wav").write_text("not sound")
        tar.add(tmp_path / "bad.wav", "bad.wav")
    more = ("--model", ears, "--language", "en", "--shard-size", "3")
    assert job("transcribe", tmp_path / "t.tar", tmp_path / "run", *more) == 1
    *found, bad = rows(tmp_path / "run")
    transcriber = Transcriber(load_whisper(ears))
    for number, row in enumerate(found):
        said = transcriber.transcribe(tmp_path / f"{number}.wav", language="en")
        seconds = round(said.seconds, 3)
        assert row == {"key": f"t.tar/{number}", "text": said.text, "language": "en", "seconds": seconds}
    assert bad["key"] == "t.tar/bad" and bad["error"]
    assert job("transcribe", tmp_path / "t.tar", tmp_path / "run", *more, "--task", "translate") == 2
    assert "task was" in capsys.readouterr().err
    assert job("transcribe", tmp_path / "t.tar", tmp_path / "whole", *more, "--json") == 1
    assert all("segments" in row for row in rows(tmp_path / "whole")[:3])
