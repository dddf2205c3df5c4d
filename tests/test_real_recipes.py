"""The recipes for real weights: what they judge by, on hand-made figures, and small runs from end to end."""

import dataclasses
import io
import json
import sys
import tarfile

import numpy as np
import pytest
import soundfile

from mmlm.data import Record
from mmlm.evaluation.gap import MediumGap
from mmlm.evaluation.medium import AnswerScores, MediumReport, TranscriptScores
from mmlm.model.config import FusionConfig
from recipes.defaults import run as defaults
from recipes.ears import run as ears
from support.families import language_model, tokenizer
from support.hearing import save_whisper, tiny_whisper

GAP = MediumGap(1.0, 2.0, 1.5, 1.0, (0.9, 1.1), 2, 10)


def orders(*answers: tuple[str, str]) -> list[Record]:
    return [Record(str(n), qa=(pair,), sound=b"RIFF") for n, pair in enumerate(answers)]


def test_the_commonest_answer_is_that_of_each_question_in_training():
    train = orders(("size?", "small"), ("size?", "small"), ("size?", "large"), ("milk?", "soy"), ("milk?", "soy"))
    dev = orders(("size?", "small"), ("size?", "large"), ("milk?", "soy"), ("milk?", "oat"), ("milk?", "soy"))
    assert ears.commonest(train, dev) == 3 / 5


def test_bars_of_orders_and_digits():
    train, dev = orders(("size?", "small")), orders(("size?", "small"), ("size?", "large"))
    asked = MediumReport("recording", GAP, answers=AnswerScores(0.9, 0.4, 0.5, "small", 2))
    ((found, wanted),) = ears.bars(asked, train, dev).values()
    assert found == pytest.approx(0.4) and wanted == 0.2
    spoken = TranscriptScores(0.02, 0.9, None, 120, AnswerScores(0.98, 0.1, 0.1, "zero", 120))
    digits = MediumReport("recording", GAP, transcripts=spoken)
    assert ears.bars(digits, train, dev) == {"digits right": (0.98, 0.97)}
    sentences = dataclasses.replace(spoken, whole=AnswerScores(0.1, 0, 0.04, "a boy", 24))
    assert ears.bars(dataclasses.replace(digits, transcripts=sentences), train, dev) == {}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Tiny stand-ins for the real weights and sets, and a folder for what is made of them."""
    real, data = tmp_path / "real", tmp_path / "data"
    language_model("llama").save_pretrained(real / "smollm2-135m-instruct")
    tokenizer().save_pretrained(real / "smollm2-135m-instruct")
    save_whisper(tiny_whisper(), real / "whisper-base.pt")
    sets = {
        "fsdd": {"text": "one"}, "speechocean": {"text": "a boy is here"},
        "coffee_orders": {"qa": [{"question": "size?", "answers": ["small"]}]},
    }  # fmt: skip
    for (name, texts), split in [(entry, split) for entry in sets.items() for split in ("train", "dev")]:
        (data / name).mkdir(parents=True, exist_ok=True)
        with tarfile.open(data / name / f"{split}-000000.tar", "w") as tar:
            for n in range(3):
                sound = io.BytesIO()
                soundfile.write(sound, 0.5 * np.sin(np.arange(3200) * (0.1 + 0.1 * n)), 16000, format="FLAC")
                for suffix, content in (("flac", sound.getvalue()), ("json", json.dumps(texts).encode())):
                    member = tarfile.TarInfo(f"{split}{n}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    for recipe in (ears, defaults):
        monkeypatch.setattr(recipe, "DATA", data)
    return real, tmp_path / "out"


def test_ears_from_end_to_end_and_what_is_done_is_not_done_again(folders, monkeypatch, capsys):
    real, output = folders
    monkeypatch.setattr(ears, "FUSION", FusionConfig(2, heads=2, dim_head=8))
    monkeypatch.setattr(ears, "ADAPTERS", dataclasses.replace(ears.ADAPTERS, steps=4, batch_size=4))
    monkeypatch.setattr(ears, "LONGEST", 8)
    monkeypatch.setattr(sys, "argv", ["run", "--real", str(real), "--output", str(output)])
    ears.main()
    printed = capsys.readouterr().out
    figures = json.loads((output / "report.json").read_text())
    assert set(figures) == {"fsdd", "coffee_orders", "speechocean"}
    assert "bar 97%" in printed and "bar 20%" in printed and "own Whisper" in printed
    # One order in the whole set: whoever learned anything gives it, and the commonest answer as well.
    assert figures["coffee_orders"]["answers right, above the commonest answer to each question"] <= 0
    assert figures["speechocean"]["audio"]["transcripts"]["whisper"] is not None
    ears.main()
    assert "adapters: done" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["run"])
    monkeypatch.delenv("MMLM_REAL", raising=False)
    with pytest.raises(SystemExit):
        ears.main()
    assert "--real FOLDER" in capsys.readouterr().err


def test_the_grid_prints_a_line_a_form_and_keeps_what_is_done(folders, monkeypatch, capsys):
    real, output = folders
    options = ["sound", "--real", str(real), "--output", str(output), "--steps", "3"]
    forms = ["depth 0, stack 4", "depth 2, 8 latents"]
    monkeypatch.setattr(sys, "argv", ["run", *options, "--only", *forms])
    defaults.main()
    table = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in table[3:]] == [f"| {form}" for form in forms]
    assert not list(output.rglob("checkpoints")) and len(list(output.rglob("figures.json"))) == 2
    defaults.main()
    assert capsys.readouterr().out.splitlines() == table
