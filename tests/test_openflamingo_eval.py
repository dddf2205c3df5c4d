"""The recipe of OpenFlamingo's published evaluation (recipes/openflamingo_eval)."""

import json

import pytest
from PIL import Image as PILImage

import mmlm
from mmlm.assembly.interop.open_flamingo_eval import ANSWER_DECODING, CAPTION_DECODING
from mmlm.data import Record
from mmlm.generation.result import GenerationResult, Usage
from mmlm.prompting.templates import PromptTemplate
from recipes.openflamingo_eval.run import evaluate_answers, evaluate_captions, main, questions_of, score_of
from support import parts


@pytest.mark.parametrize(
    "answer, answers, expected",
    [
        ("red", ["red"] * 10, 1.0),
        ("Red.", ["red"] * 4 + ["blue"] * 6, 1.0),
        ("red", ["red"] * 3 + ["blue"] * 7, 0.3 * 2 / 3 + 0.7 * 1.0),  # by hand: 3 times two of three, 7 times all
        ("red", ["red"] + ["blue"] * 9, 0.9 / 3),
        ("green", ["red"] * 10, 0.0),
        ("red", ["red"], 1.0),
        ("red", ["blue"], 0.0),
    ],
)
def test_vqa_accuracy_by_hand(answer, answers, expected):
    assert score_of(answer, answers) == pytest.approx(expected)


def test_answers_of_one_question_belong_together():
    record = Record("a", b"", qa=(("what?", "red"), ("where?", "here"), ("what?", "blue")))
    assert questions_of(record) == [("what?", ["red", "blue"]), ("where?", ["here"])]


class Oracle:
    """Says what belongs to the last picture of a prompt, whatever stands before it."""

    template = PromptTemplate()

    def __init__(self, known):
        self.known, self.seen = known, []

    def generate(self, prompts, batch_size, **options):
        self.seen.append((prompts, options))
        shown = [[part for part in prompt if isinstance(part, mmlm.Image)][-1].source for prompt in prompts]
        return [GenerationResult(self.known[one], (), (), "stop", Usage(1, 1, 1, 1)) for one in shown]


def records(count):
    words = ["red", "blue", "green", "black", "white"]
    return [
        Record(f"{i}", f"picture {i}".encode(), captions=(f"a {words[i]} ring {i}",), qa=(("what color?", words[i]),))
        for i in range(count)
    ]


@pytest.mark.parametrize("shots", [0, 2])
def test_the_right_pictures_are_worth_more_and_the_shots_are_shown(shots):
    dev = records(5)
    train = [Record(f"t{i}", f"train {i}".encode(), captions=(f"t {i}",), qa=(("q?", f"t{i}"),)) for i in range(4)]
    model = Oracle({record.source: f" {record.captions[0]}Output: more" for record in dev})
    right, wrong = evaluate_captions(model, train, dev, shots, seed=0, batch_size=2)
    assert right > 5 * max(wrong, 0.1)
    prompts, options = model.seen[0]
    assert options == CAPTION_DECODING
    for prompt, record in zip(prompts, dev, strict=True):
        pictures = [part.source for part in prompt if isinstance(part, mmlm.Image)]
        assert pictures[-1] == record.source and len(pictures) == shots + 1
        text = "".join(part for part in prompt if isinstance(part, str))
        assert text.count("Output:t ") == 2
    model = Oracle({record.source: f" {record.qa[0][1]}, Question: no" for record in dev})
    right, wrong = evaluate_answers(model, train, dev, shots, seed=0, batch_size=2)
    assert (right, wrong) == (1.0, 0.0) and model.seen[0][1] == ANSWER_DECODING


@pytest.mark.parametrize(
    "dev, shots, reason",
    [
        (2, "4", "needs 4 records to show"),
        (1, "2", "2 to measure; --train has 3, --dev 1"),
        (0, "0", "no record of --dev"),
    ],
)
def test_too_few_records_are_an_error(tmp_path, capsys, dev, shots, reason):
    for name, count in (("train", 3), ("dev", dev)):
        lines = [json.dumps({"image": "1.png", "caption": f"a {name}"}) for _ in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines or ['{"audio": "1.wav", "transcript": "a"}']))
    parts.picture(1).save(tmp_path / "1.png")
    (tmp_path / "1.wav").touch()
    sources = ["--train", f"{tmp_path}/train.jsonl", "--dev", f"{tmp_path}/dev.jsonl"]
    with pytest.raises(SystemExit):
        main(["--model", "nano", *sources, "--shots", shots])
    assert reason in capsys.readouterr().err


def test_a_model_is_measured(tmp_path, capsys):
    lines = []
    for number, colour in enumerate(["red", "blue", "green", "black"]):
        PILImage.new("RGB", (64, 64), colour).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": f"{colour} all over"}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    main(["--model", "nano", "--train", str(tmp_path), "--dev", str(tmp_path), "--shots", "0", "2", "--limit", "2"])
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[2].strip() for row in rows] == ["0", "2"]
    assert all(float(row[4]) >= 0 for row in rows)
