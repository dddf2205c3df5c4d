"""Suites of `mmlm eval` on predictions made elsewhere: official files, counts, and the files that are written."""

import json

import pytest

from mmlm.cli import main


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
