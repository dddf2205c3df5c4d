"""Alignment of assembled models: what holds at the first step, what stays frozen, what a stopped run goes on to be."""

from pathlib import Path

import pytest
import torch

from mmlm.data import Record, RecordSet
from mmlm.training import trainer
from mmlm.training.align import align
from mmlm.training.alignment.config import PreferenceConfig
from mmlm.training.alignment.reference import trained_parameters
from support.training_objectives import COLOURS, metrics, noise, png, snapshot, tiny_model

NAMES = list(COLOURS)


@pytest.fixture(autouse=True)
def no_plot(monkeypatch):
    monkeypatch.setattr(trainer, "plot_losses", lambda *args: None)


def pairs(count: int = 8, start: int = 0) -> RecordSet:
    """A right colour and a wrong one, of answers of different lengths."""
    names = [NAMES[i % 4] for i in range(start, start + count + 1)]
    return RecordSet(tuple(
        Record(f"p{i}", png(COLOURS[name], dot=i), qa=(("what colour?", name),), rejected=other)
        for i, (name, other) in enumerate(zip(names[:-1], names[1:], strict=True), start)
    ))  # fmt: skip


def labelled(count: int = 8) -> RecordSet:
    return RecordSet(tuple(
        Record(f"p{i}", png(COLOURS[NAMES[i % 4]], dot=i), (NAMES[(i + i // 4) % 4],), good=i < 4) for i in range(count)
    ))  # fmt: skip


def drawings(count: int = 4) -> RecordSet:
    better, worse = noise(1, count), noise(2, count)
    return RecordSet(tuple(Record(f"d{i}", better[i], (f"picture {i}",), rejected=worse[i]) for i in range(count)))


SETTINGS = dict(steps=4, batch_size=2, accumulation=2, learning_rate=1e-2, log_every=1, eval_every=2, save_every=2)


def run(model, output, objective, data=None, **settings):
    data = pairs() if data is None else data
    given = dict(held_out=data, output=output, progress=False)
    return align(model, data, objective, **given, **{**SETTINGS, **settings})


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in metrics(folder) if "loss" in line]


@pytest.mark.parametrize("kind", ["dpo", "ipo", "kto"])
def test_at_the_first_step_a_model_is_its_reference(tmp_path, kind):
    data = labelled() if kind == "kto" else pairs()
    run(tiny_model(), tmp_path, PreferenceConfig(kind=kind), data, steps=1)
    expected = {"dpo": 0.693147, "ipo": 25.0, "kto": 0.5}[kind]  # log 2, (1 / 2β)², σ(0)
    assert losses(tmp_path) == pytest.approx([expected], abs=2e-5)


def test_it_learns_which_is_better_and_changes_nothing_that_is_frozen(tmp_path):
    model = tiny_model()
    before, trained = snapshot(model), {id(p) for p in trained_parameters(model, "added", False).values()}
    result = run(model, tmp_path, PreferenceConfig(), steps=80)
    assert result.loss < 0.5  # log 2 at the start
    assert metrics(tmp_path)[0]["held_out_accuracy"] < metrics(tmp_path)[-1]["held_out_accuracy"] == 1
    after = snapshot(model)
    frozen = [name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) not in trained]
    assert frozen and not [name for name in frozen if not torch.equal(before[name], after[name])]
