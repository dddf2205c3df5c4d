"""Suites of `mmlm eval`: official files, counts, what a model is asked, and the files that are written."""

import base64
import io
import json
import re

import numpy as np
import pytest
import soundfile
import torch
from open_clip.transform import image_transform
from PIL import Image

from encoders.clip import ClipImageEncoder
from mmlm.cli import main
from mmlm.data import Record, RecordSet
from mmlm.evaluation import evaluate
from mmlm.evaluation.answering import answered, judge_model, transcribed
from mmlm.evaluation.cases import Case, cases_of
from mmlm.evaluation.judge import judge
from mmlm.evaluation.official import read_captions, read_predictions
from mmlm.evaluation.page import page
from mmlm.prompting import Image as Picture
from mmlm.prompting.messages import Message
from support.together import wav
from support.training_objectives import COLOURS, png, tiny_clip, tiny_model, tiny_records


@pytest.fixture
def asked(tmp_path):
    """Annotations of three questions in VQAv2's form; the third has no prediction."""
    answers = [["yes"] * 10, ["two"] * 3 + ["3"] * 7, ["red"] * 10]
    entries = [
        {"question_id": n, "image_id": 7, "answers": [{"answer": own} for own in said]}
        for n, said in enumerate(answers)
    ]
    (tmp_path / "annotations.json").write_text(json.dumps({"annotations": entries, "data_subtype": "val2014"}))
    results = [{"question_id": 0, "answer": "Yes."}, {"question_id": 1, "answer": "<b>2</b>"}]
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


def judged(folder, *more):
    files = ["--predictions", str(folder / "results.json"), "--references", str(folder / "annotations.json")]
    return main(["eval", *files, "--suite", "vqa", *more])


def test_predictions_in_official_form_are_judged_and_kept(asked, capsys):
    output = asked / "out"
    assert judged(asked, "--output", str(output), "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["suites"]
    assert (found["expected"], found["used"]) == (3, 2) and found["left_out"][0]["key"] == 2
    figures = {figure["name"]: figure["value"] for figure in found["figures"]}
    assert figures == {"VQA accuracy": 0.5, "exact match": 0.5}
    lines = [json.loads(line) for line in (output / "items.jsonl").read_text().splitlines()]
    assert [line["scores"]["VQA accuracy"] for line in lines] == [1.0, 0.0]
    assert json.loads((output / "predictions.json").read_text()) == json.loads((asked / "results.json").read_text())
    page = (output / "page.html").read_text()
    assert "&lt;b&gt;2&lt;/b&gt;" in page and "<b>" not in page and "2 of 3 expected items" in page
    assert judged(asked, "--output", str(output)) == 2
    assert "choose another folder" in capsys.readouterr().err


def test_what_is_missing_is_told_by_number_and_first_name(asked, capsys):
    (asked / "pictures").mkdir()
    assert judged(asked, "--images", str(asked / "pictures")) == 2
    assert "1 of 1 pictures are not in" in (told := capsys.readouterr().err) and "COCO_val2014_000000000007.jpg" in told
    (asked / "results.json").write_text(json.dumps([{"question_id": 9, "answer": "yes"}]))
    assert judged(asked) == 2
    assert "1 of 1 predictions are of nothing in the references: first 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.json", '[{"id": "a b", "text": "x\\u2028y"}, {"id": 2, "text": ""}]'),
        ("bom.json", '\ufeff[{"id": "a b", "text": "x\u2028y"}, {"id": 2, "text": ""}]'),
        ("a.jsonl", '{"id": "a b", "text": "x\u2028y"}\n\n{"id": 2, "text": ""}\n'),
        ("crlf.jsonl", '{"audio": "a b", "transcript": "x\u2028y"}\r\n{"id": 2, "text": ""}\r\n'),
    ],
)
def test_results_are_read_whatever_writes_them(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    assert read_predictions(tmp_path / name, "asr") == {"a b": "x\u2028y", 2: ""}


def test_lines_of_ids_and_words(tmp_path):
    (tmp_path / "a.txt").write_bytes("a the  quick\x85fox\nb\thello world\r\n  c   \n\nd\n".encode())
    assert read_predictions(tmp_path / "a.txt", "asr") == {
        "a": "the  quick\x85fox",
        "b": "hello world",
        "c": "",
        "d": "",
    }
    (tmp_path / "a.txt").write_bytes(b"a caf\xe9\n")
    with pytest.raises(ValueError, match="a.txt is no text in UTF-8"):
        read_predictions(tmp_path / "a.txt", "asr")


def test_a_file_of_another_form_is_told_what_it_lacks(tmp_path, capsys):
    (tmp_path / "llava.json").write_text('[{"image": "1.jpg", "conversations": []}]')
    (tmp_path / "results.json").write_text('[{"image_id": 1, "caption": "x"}]')
    files = ["--predictions", str(tmp_path / "results.json"), "--references", str(tmp_path / "llava.json")]
    for suite, words in (("captions", 'no "images", so it is no file of COCO captions'), ("vqa", 'no "annotations"')):
        if suite == "vqa":
            (tmp_path / "results.json").write_text('[{"question_id": 1, "answer": "x"}]')
        assert main(["eval", *files, "--suite", suite]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("caption, words", [(" ", "1 images have empty captions alone; first 1"), (None, "lacks a")])
def test_references_that_say_nothing_are_told(tmp_path, caption, words):
    annotations = [{"image_id": 1, "caption": caption}, {"image_id": 2, "caption": "x"}]
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2)]
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    with pytest.raises(ValueError, match=words):
        read_captions(tmp_path / "c.json")


# What a model is asked


def broken(records, number: int) -> RecordSet:
    """The records, of which one has a picture that cannot be read."""
    found = list(records)
    found[number] = Record(found[number].key, b"no picture", found[number].captions, found[number].qa)
    return RecordSet(tuple(found))


def test_a_model_is_asked_what_its_own_verbs_ask_and_what_it_cannot_see_is_named():
    model, records = tiny_model(), broken(tiny_records(5), 2)
    cases = cases_of("vqa", records)
    said, left_out = answered(model, cases, 3, {"max_new_tokens": 5})
    assert {case.key for case in cases} == said.keys() | left_out.keys() and len(left_out) == 2
    assert all("record 'r2' cannot be used" in reason for reason in left_out.values())
    for case in cases:
        if case.key in said:
            assert said[case.key] == model.answer(case.picture, case.question, max_new_tokens=5)
    captions, _ = answered(model, cases_of("captions", records), 2, {"max_new_tokens": 5})
    assert captions["r0"] == model.caption(records[0].source, max_new_tokens=5)


def test_pictures_that_cannot_be_read_do_not_end_a_suite_that_compares_embeddings():
    model, records = tiny_model(), tiny_records(5)

    def ids(texts):
        return torch.tensor([[*(ord(letter) % 60 for letter in f"{text:8}"[:7]), 63] for text in texts])

    clip = ClipImageEncoder(tiny_clip(), image_transform(16, is_train=False), tokenizer=ids)
    found = judge_model("retrieval", model, cases_of("retrieval", broken(records, 2)), clip=clip)
    assert (found.expected, found.used, list(found.left_out)) == (5, 4, ["r2"])
    whole = cases_of("retrieval", [record for record in records if record.key != "r2"])
    alone = judge_model("retrieval", model, whole, clip=clip)
    assert found.figures == alone.figures and alone.expected == 4
    with pytest.raises(ValueError, match="none of 1 pictures can be used"):
        judge_model("retrieval", model, cases_of("retrieval", broken(tiny_records(1), 0)), clip=clip)


def test_recordings_are_written_down_one_by_one():
    class Ears:
        def transcribe(self, data, language):
            if not data.startswith(b"RIFF"):
                raise ValueError("no sound")
            return type("Said", (), {"text": f" {language} {len(data)} "})

    records = [Record(name, None, sound=data, transcript="x") for name, data in (("a", wav(0)), ("b", b"?"))]
    said, left_out = transcribed(Ears(), cases_of("asr", records), "de")
    assert said == {"a": f"de {len(wav(0))}"} and left_out == {"b": "no sound"}


def test_conversations_have_nothing_to_be_compared_with():
    talk = Record("talk", messages=(Message("user", (Picture(png("red")), "?")), Message("assistant", ("Red.",))))
    with pytest.raises(ValueError, match="nothing to compare"):
        evaluate(lambda: pytest.fail("no model is needed"), [talk, talk])
    assert cases_of("captions", [talk]) == cases_of("vqa", [talk]) == []
    report = evaluate(tiny_model(), [*tiny_records(2), talk], max_new_tokens=2)
    assert report.scripts == 1 and "1 conversations and documents were left out" in str(report)


# The page


def test_the_page_holds_its_media_and_names_those_that_it_cannot_read():
    buffer = io.BytesIO()
    tone = np.sin(np.arange(40 * 8000) / 9).astype(np.float32)
    soundfile.write(buffer, tone, 8000, format="WAV")
    colours = [COLOURS[name] for name in ("red", "blue")]
    pictures = [png(colours[0], size=700), png(colours[1]), b"no picture"]
    cases = [Case(n, ("red", "a red one", "red"), "what?", picture=own) for n, own in enumerate(pictures)]
    cases += [Case(3, ("red",), "<what>?", sound=buffer.getvalue()), Case(4, ("red",), "what?", sound=b"no sound")]
    judgement = judge("vqa", cases, {0: "red", 1: "blue", 2: "red", 3: "<i>", 4: "red"})
    text = page(judgement, "a <title>")
    assert text.count("<title>a &lt;title&gt;</title>") == 1 and "&lt;what&gt;?" in text and "<i>" not in text
    assert text.index("Best by") < text.index("Worst by") and text.count('<div class="item">') == 5
    best, worst = text.split("<h2>Worst by")
    assert best.count('class="said">red<') == 3 and worst.index(">blue<") and worst.index("&lt;i&gt;")
    shown = [Image.open(io.BytesIO(base64.b64decode(own))) for own in re.findall(r'jpeg;base64,([^"]+)"', text)]
    assert [(own.size, np.abs(np.subtract(own.getpixel((8, 8)), colour)).max() < 12)
            for own, colour in zip(shown, colours, strict=True)] == [((320, 320), True), ((16, 16), True)]  # fmt: skip
    (heard,) = re.findall(r'audio/flac;base64,([^"]+)"', text)
    waveform, rate = soundfile.read(io.BytesIO(base64.b64decode(heard)))
    assert rate == 16_000 and len(waveform) == 30 * rate
    assert abs(np.abs(waveform).mean() - 2 / np.pi) < 0.02, "the mean of a sine's absolute value"
    assert text.count("<p>") == 1 + 2, "how many were used, and two media that cannot be read"
    assert "http" not in re.sub(r"http-equiv", "", text)


def test_pictures_in_another_folder_are_found_where_the_message_says(tmp_path, monkeypatch, capsys):
    (tmp_path / "pictures").mkdir()
    for number, name in enumerate(COLOURS):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(png(COLOURS[name], size=64))
    lines = [json.dumps({"image": f"{n}.png", "question": "what?", "answer": name}) for n, name in enumerate(COLOURS)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "nano", "pairs.jsonl"]) == 2
    assert "start from another folder, give --images)" in capsys.readouterr().err
    assert main(["eval", "nano", "pairs.jsonl", "--images", "pictures", "--max-new-tokens", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["image"]["answers"]["count"] == 4
    assert main(["eval", "nano", "pairs.jsonl", "--limit", "-3"]) == 2
    assert "--limit must be at least 1" in capsys.readouterr().err


def test_figures_that_are_left_out_are_told(monkeypatch):
    monkeypatch.setattr("mmlm.evaluation.judge.has_java", lambda: False)  # METEOR takes seconds to start
    few = [Case(n, ("a",), "what?") for n in range(2)]
    assert [own.name for own in judge("vqa", few, {0: "a", 1: "b"}).figures] == ["exact match"]
    assert any("VQA accuracy is left out" in note for note in judge("vqa", few, {0: "a", 1: "b"}).notes)
    short = judge("captions", [Case(n, ("a red dog",)) for n in range(2)], {0: "a red dog", 1: "a"})
    assert not any(own.name == "BLEU-4" for own in short.figures)
    assert any("No caption, or no reference, has more than 3 words" in note for note in short.notes)
    assert any("METEOR is left out" in note for note in short.notes)
    long = judge("captions", [Case(n, ("a red dog runs",)) for n in range(2)], {0: "a red dog ran", 1: "a"})
    assert any(own.name == "BLEU-4" for own in long.figures) and not any("BLEU" in note for note in long.notes)
