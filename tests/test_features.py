"""Features of frozen encoders: cached, or made ahead of each step; the choice between them; trials before a run."""

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from encoders.clip import ClipImageEncoder
from mmlm.cli import main
from mmlm.data import BadRecordsError, Record, RecordSet
from mmlm.model.config import FusionConfig, ResamplerConfig
from mmlm.training import TrainConfig, Trainer, train
from mmlm.training.at_hand import RecordsAtHand
from mmlm.training.bad_log import BadLog
from mmlm.training.features import cached_features
from mmlm.training.objectives.adapters import AdaptersObjective
from mmlm.training.streaming import StreamedExamples
from mmlm.training.trial import trial_of_adapters
from mmlm.training.ways import Way, Ways, measured
from support.training_objectives import (
    added,
    assert_equal,
    metrics,
    picture_folder,
    png,
    stopping,
    tiny_encoder,
    tiny_model,
    tiny_records,
)

SETTINGS = dict(batch_size=4, learning_rate=1e-2, warmup_steps=2, log_every=1, save_every=100, eval_every=3)


def run(model, output, data=None, **changes):
    keywords = {"steps": 6, "features": "ahead", "held_out": tiny_records(8, 40), **SETTINGS, **changes}
    return train(model, tiny_records() if data is None else data, output=output, progress=False, **keywords)


# Ahead


@pytest.mark.parametrize("changes", [{"accumulation": 2}, {"row_length": 120}])
def test_features_made_ahead_train_what_cached_ones_train(tmp_path, changes):
    ahead, cached = tiny_model(), tiny_model()
    run(ahead, tmp_path / "ahead", **changes)
    run(cached, tmp_path / "cached", features="cached", **changes)
    for one, other in zip(metrics(tmp_path / "ahead"), metrics(tmp_path / "cached"), strict=True):
        for name, value in other.items():
            assert one[name] == pytest.approx(value, rel=1e-4), name
    expected = added(cached)
    for name, tensor in added(ahead).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)


def test_features_made_ahead_are_rounded_as_those_in_the_cache(tmp_path):
    """Bit for bit, where each is encoded alone."""
    model, records = tiny_model(), tiny_records(6)
    cached = cached_features(records, model.encoders["image"], tmp_path / "cache", progress=False).features
    config = TrainConfig(**{**SETTINGS, "steps": 6, "batch_size": 1})
    steps = RecordsAtHand(model, records, config)
    with closing(StreamedExamples(model, steps, BadLog(tmp_path / "bad", 0.0, 6), 6)) as ahead:
        for step in range(6):
            ((index, _),) = steps.step(step)
            ((one,),) = ahead.parts(step, 1)
            assert torch.equal(one.features[0].tokens, cached[index].tokens)


def test_a_resumed_run_ahead_is_the_undisturbed_one_bit_for_bit_and_auto_goes_on_with_it(tmp_path, monkeypatch):
    undisturbed, resumed = tiny_model(), tiny_model()
    run(undisturbed, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "step", stopping(4))
        run(tiny_model(), tmp_path / "stopped", save_every=1)
    with pytest.raises(ValueError, match="features was 'ahead', now None"):
        run(tiny_model(), tmp_path / "stopped", features="cached")
    run(resumed, tmp_path / "stopped", features="auto")  # which would choose anew, but for the checkpoint
    assert_equal(added(undisturbed), added(resumed))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "stopped")


def test_what_is_never_seen_is_never_encoded_and_nothing_is_kept(tmp_path, monkeypatch):
    encoded = []
    plain = ClipImageEncoder.encode
    monkeypatch.setattr(
        ClipImageEncoder, "encode", lambda self, batch: encoded.extend(map(hash_of, batch)) or plain(self, batch)
    )
    run(tiny_model(), tmp_path / "run", tiny_records(40), steps=3, held_out=None, sort_window=1)
    assert len(encoded) == len(set(encoded)) == 12  # 3 steps of 4, in the first epoch
    assert not (tmp_path / "run" / "features").exists()


def hash_of(pixels: torch.Tensor) -> int:
    return hash(pixels.numpy().tobytes())


def broken(count: int, bad: set[int]) -> RecordSet:
    whole = tiny_records(count)
    return RecordSet(tuple(Record(r.key, b"no picture", r.captions) if i in bad else r for i, r in enumerate(whole)))


def test_media_that_do_not_decode_are_left_out_of_their_step_and_bounded(tmp_path):
    result = run(tiny_model(), tmp_path / "run", broken(20, {3, 7}), steps=10, bad_limit=0.2, sort_window=1)
    lines = [json.loads(line) for line in (tmp_path / "run" / "bad_media.jsonl").read_text().splitlines()]
    assert (
        sorted(line["key"] for line in lines) == ["r3", "r3", "r7", "r7"] and result.bad_records == 4
    )  # in two epochs
    assert len({line["step"] for line in lines}) > 1
    with pytest.raises(BadRecordsError, match="more than the limit of 1.0%"):
        run(tiny_model(), tmp_path / "strict", broken(20, {3, 7}), steps=10)


def test_what_media_make_too_long_is_left_out(tmp_path):
    model = tiny_model("llama")
    prefix = type(model)(
        model.language_model, tiny_encoder(), ResamplerConfig(depth=1, num_latents=64, heads=2, dim_head=8),
        FusionConfig(kind="prefix"),
    )  # fmt: skip
    words = "w" * 220  # of 256 positions: it fits alone
    long = RecordSet((*tiny_records(7), Record("long", png((9, 9, 9)), captions=(words,))))
    run(prefix, tmp_path / "run", long, steps=2, bad_limit=0.2, sort_window=1)
    (line,) = [json.loads(line) for line in (tmp_path / "run" / "bad_media.jsonl").read_text().splitlines()]
    assert line["key"] == "long" and "of the language model's 256 positions" in line["reason"]


def test_settings_of_features_are_checked(tmp_path):
    with pytest.raises(ValueError, match="features must be one of cached, ahead, auto, not 'later'"):
        TrainConfig(features="later")
    with pytest.raises(ValueError, match="features is for data that are no stream"):
        TrainConfig(features="ahead", stream=True, steps=1)
    (tmp_path / "film.mp4").write_bytes(b"")
    from mmlm.data.records import FileSlice

    film = RecordSet((Record("film", FileSlice(tmp_path / "film.mp4"), captions=("a film",)),))
    with pytest.raises(ValueError, match="film is a film: films are encoded before the first step"):
        run(tiny_model(), tmp_path / "run", film)


# The choice


@pytest.mark.parametrize(
    ("before", "a_step", "steps", "disk", "free", "chosen"),
    [
        (100, 1, 200, 10, 99, "cached"),  # each medium is seen more than once
        (100, 1, 50, 10, 99, "ahead"),  # most are never seen
        (100, 1, 100, 10, 99, "cached"),  # later runs find the features
        (1, 9, 1000, 100, 99, "ahead"),  # no room
    ],
)
def test_auto_takes_what_takes_less_time_of_those_that_there_is_room_for(
    before, a_step, steps, disk, free, chosen, tmp_path
):
    ways = Ways(Way(before, 0, disk), Way(0, a_step, 0), 1, 0, 1, 1, free, steps)
    assert ways.chosen == chosen


@pytest.mark.parametrize("way", ["cached", "ahead"])
def test_auto_goes_the_way_that_was_chosen(way, tmp_path, monkeypatch):
    found = Ways(Way(1, 0, 0), Way(0, 1 if way == "cached" else 0, 0), 1, 0, 1, 1, 99, 6)
    monkeypatch.setattr("mmlm.training.ways.measured", lambda *_: found)
    run(tiny_model(), tmp_path / "run", features="auto", held_out=None)
    assert (tmp_path / "run" / "features").exists() == (way == "cached")


def test_the_estimate_of_the_disk_is_what_the_cache_takes_and_knows_what_is_there(tmp_path):
    model, records = tiny_model(), tiny_records(40)
    config = TrainConfig(steps=5, **SETTINGS)
    before = measured(model, records, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
    assert (before.media, before.stored, before.steps, before.batch) == (40, 0, 5, 4)
    assert before.cached.before > 0 and before.ahead.a_step > 0 and before.ahead.disk == 0
    run(model, tmp_path / "run", records, features="cached", held_out=None)
    written = sum(file.stat().st_size for file in Path(tmp_path / "run" / "features").rglob("*.safetensors"))
    assert before.cached.disk == pytest.approx(written, rel=0.1)
    after = measured(model, records, tmp_path / "run", config)
    assert (after.stored, after.cached.disk, after.cached.before) == (40, 0, 0)
    assert after.chosen == "cached"


# Trials


def test_a_trial_takes_the_steps_of_the_run(tmp_path):
    plain = RecordSet(tuple(Record(r.key, r.source, captions=r.captions[:1]) for r in tiny_records(8)))
    config = TrainConfig(**{**SETTINGS, "steps": 2, "batch_size": 8, "log_every": 2})  # all records in each step
    trial = trial_of_adapters(tiny_model(), plain, None, tmp_path / "run", config)
    model = tiny_model()
    expected = train(model, plain, output=tmp_path / "run", progress=False, config=config).loss
    assert trial.ahead is not None
    assert trial.cached.loss == pytest.approx(expected, rel=1e-4)
    # The second trial went on from where the first had come: the same model, which nobody needs afterwards.
    assert trial.ahead.loss is not None and trial.ahead.loss < trial.cached.loss
    weights = sum(tensor.numel() for tensor in added(model).values())
    saved = (tmp_path / "run" / "checkpoints").glob("step-*/*")
    assert trial.cached.checkpoint == pytest.approx(sum(file.stat().st_size for file in saved), rel=0.1)
    assert trial.cached.checkpoint == pytest.approx(3 * 4 * weights, rel=0.01)


def test_a_trial_shows_a_loss_that_is_not_finite(tmp_path, monkeypatch):
    plain = AdaptersObjective._part

    def poisoned(self, ready):
        part = plain(self, ready)
        return type(part)(part.count, lambda: part.loss() * torch.inf, part.size)

    monkeypatch.setattr(AdaptersObjective, "_part", poisoned)
    trial = trial_of_adapters(tiny_model(), tiny_records(8), None, tmp_path, TrainConfig(steps=3, **SETTINGS))
    assert trial.cached.loss is None and "the loss is NOT FINITE" in str(trial)


def recipes(folder: Path) -> dict[str, dict]:
    """A small recipe of each kind."""
    pictures = str(picture_folder(folder))
    codec = {"image": {"size": 16, "downsample": 4, "width": 16, "blocks": 1}}
    soundfile.write(folder / "a.wav", np.zeros(8000), 16000)
    said = [{"audio": "a.wav", "transcript": f"number {n}"} for n in range(4)] + [
        {"audio": "a.wav", "answer": "one"}
    ] * 9
    (folder / "said.jsonl").write_text("".join(json.dumps(line) + "\n" for line in said))
    write = {"steps": 3, "batch_size": 2}
    return {
        "adapters": {"model": "nano", "data": pictures, "held_out": pictures, "steps": 3, "batch_size": 4},
        "codec": {"codec": codec, "data": pictures, "steps": 3, "batch_size": 4},
        "decoder": {
            "decoder": {"codec": "mmlm/nano/image_codec", "channels": [32]},
            "data": pictures,
            "steps": 3,
            "batch_size": 4,
        },
        "writing": {"model": "nano", "write": write, "data": str(folder / "said.jsonl")},
    }


@pytest.mark.parametrize("kind", ["adapters", "codec", "decoder", "writing"])
def test_a_dry_run_tries_every_kind_of_recipe_and_writes_nothing(kind, tmp_path, capsys):
    keys = recipes(tmp_path)[kind]
    before = sorted(tmp_path.rglob("*"))
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"output": str(tmp_path / "out"), **keys}))  # JSON is YAML
    assert main(["train", str(path), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    trial = found["trial"]
    assert found["steps"] == trial["steps"] == 3
    assert trial["cached"]["loss"] > 0 and trial["cached"]["a_step"] > 0 and trial["cached"]["checkpoint"] > 0
    assert (trial["ways"] is not None) == (kind == "adapters")
    assert sorted(tmp_path.rglob("*")) == sorted([*before, path])


def test_a_dry_run_prints_both_ways_and_what_auto_would_take(tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"output": str(tmp_path / "out"), **recipes(tmp_path)["adapters"], "epochs": 9}))
    assert main(["train", str(path), "features=ahead", "--dry-run"]) == 0
    lines = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert "for 16 of 16 media, by 9 that were encoded alone" in lines["features cached"]
    assert "4 records that were encoded together; nothing on the disk" in lines["features ahead"]
    assert lines["features"].strip().startswith("ahead; auto would take ")
    assert "2 steps on 4 records" in lines["one batch"] and "2 are kept" in lines["checkpoints"]
