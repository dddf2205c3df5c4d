"""Streams: an order that is a function of the seed, positions that are one integer, losses as without streams."""

import io
import json
import os
import re
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.utils import infer_storage_options
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlm.data import BadRecordsError, read_records
from mmlm.data.ahead import Ahead
from mmlm.data.readers.paths import without_secrets
from mmlm.data.streams import RecordStream, find_shards
from mmlm.data.streams import shards as module
from mmlm.data.streams.index import index_of, index_path
from mmlm.data.streams.order import PERIOD, Mixture, ShardOrder
from mmlm.data.streams.shards import Shard
from mmlm.training import TrainConfig, Trainer, load_recipe, plan_from_recipe, train
from mmlm.training.bad_log import BadLog
from mmlm.training.examples import prepare
from mmlm.training.objectives.adapters import AdaptersObjective
from mmlm.training.rows import batch_of
from mmlm.training.streaming import StreamedExamples, open_stream, shards_of
from mmlm.training.trial import trial_of_adapters
from support.training_objectives import COLOURS, added, assert_equal, metrics, png, stopping, tiny_model, tiny_records


def tar_of(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def members(start: int, count: int) -> dict[str, bytes]:
    """Pictures with two captions and two questions each."""
    found = {}
    for record in tiny_records(count, start):
        fields = {"captions": record.captions, "qa": [list(pair) for pair in record.qa]}
        found |= {f"{record.key}.png": record.image, f"{record.key}.json": json.dumps(fields).encode()}
    return found


@pytest.fixture
def shards(tmp_path) -> Path:
    """Five tars of 1 to 7 records, 20 in all."""
    folder, start = tmp_path / "shards", 0
    folder.mkdir()
    for number, count in enumerate((4, 7, 1, 5, 3)):
        (folder / f"{number}.tar").write_bytes(tar_of(members(start, count)))
        start += count
    return folder


def stream_of(pattern, folder: Path, size: int = 4, **keywords) -> RecordStream:
    patterns = pattern if isinstance(pattern, list) else [pattern]
    return RecordStream([find_shards(own) for own in patterns], size, folder=folder / "index", **keywords)


def keys(stream: RecordStream, drawn) -> list[str]:
    return [stream.read(one).key for one in drawn]


# The order


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(sum), st.integers(1, 5), st.integers(0, 9), st.data()
)
def test_every_epoch_is_a_permutation_and_a_position_needs_none_before_it(counts, window, seed, data):
    order, size = ShardOrder(counts, seed, window), sum(counts)
    everything = sorted((shard, record) for shard, count in enumerate(counts) for record in range(count))
    taken = [order[position] for position in range(2 * size)]
    assert sorted(taken[:size]) == everything == sorted(taken[size:])
    position = data.draw(st.integers(0, 2 * size - 1))
    assert ShardOrder(counts, seed, window)[position] == taken[position]


def test_orders_differ_by_seed_and_epoch_and_mix_the_shards_of_a_window_alone():
    counts = [50] * 12
    order = ShardOrder(counts, 0, 4)
    epochs = [[order[e * 600 + p] for p in range(600)] for e in range(2)]
    assert epochs[0] != epochs[1] and epochs[0] != [ShardOrder(counts, 1, 4)[p] for p in range(600)]
    for start in range(0, 600, 200):
        window = [shard for shard, _ in epochs[0][start : start + 200]]
        assert len(set(window)) == 4 and len(set(window[:40])) == 4  # from the first of them on
    assert epochs[0] != sorted(epochs[0])


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(0.01, 9), min_size=1, max_size=5), st.integers(0, 9))
def test_a_mixture_has_exact_shares_and_takes_each_set_in_its_own_order(weights, seed):
    mixture = Mixture(weights, seed)
    taken = [mixture[position] for position in range(PERIOD + 50)]
    for number, weight in enumerate(weights):
        own = [place for chosen, place in taken if chosen == number]
        assert own == list(range(len(own)))
        first = sum(chosen == number for chosen, _ in taken[:PERIOD])
        assert abs(first - PERIOD * weight / sum(weights)) <= 1
    assert Mixture(weights, seed)[PERIOD + 7] == taken[PERIOD + 7]


def test_weights_that_make_no_sense_are_refused():
    for weights in ([], [1, 0], [1, -1], [1, float("nan")], [1, 1e-9]):
        with pytest.raises(ValueError, match="weight"):
            Mixture(weights, 0)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_ranks_take_each_record_of_a_step_once(shards, tmp_path, world):
    stream = stream_of(f"{shards}/*.tar", tmp_path, size=6)
    for step in (0, 1, 5):
        whole = stream.step(step)
        ranks = [stream.step(step, rank, world) for rank in range(world)]
        assert [ranks[at % world][at // world] for at in range(6)] == whole
        assert sum(map(len, ranks)) == 6
    epoch = [name for step in range(10) for name in keys(stream, stream.step(step))]
    assert len(stream) == 20 and sorted(epoch[:20]) == sorted(epoch[20:40]) == sorted(f"r{i}" for i in range(20))


# Shards


def test_an_index_is_made_once_and_anew_when_it_or_the_shard_is_not_the_same(shards, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(Shard, "open", lambda self, plain=Shard.open: opened.append(self.url) or plain(self))
    first = stream_of(f"{shards}/*.tar", tmp_path)
    assert len(opened) == 5
    again = stream_of(f"{shards}/*.tar", tmp_path)
    assert len(opened) == 5 and again.fingerprint() == first.fingerprint()
    assert again.step(3) == first.step(3)
    (shard,) = find_shards(shards / "1.tar")
    for damage in (b"", b"{}", b'{"members": 99, "records": 99, "suffixes": [], "crc": 0}\n', b"\x80\x04junk"):
        index_path(shard, tmp_path / "index").write_bytes(damage)
        assert stream_of(f"{shards}/*.tar", tmp_path).fingerprint() == first.fingerprint()
    whole = bytearray(index_path(shard, tmp_path / "index").read_bytes())
    whole[-1] ^= 1
    index_path(shard, tmp_path / "index").write_bytes(whole)
    assert stream_of(f"{shards}/*.tar", tmp_path).fingerprint() == first.fingerprint() and len(opened) == 10
    (shards / "1.tar").write_bytes(tar_of(members(100, 7)))
    assert stream_of(f"{shards}/*.tar", tmp_path).fingerprint() != first.fingerprint() and len(opened) == 11


def test_names_and_places_make_no_difference(shards, tmp_path):
    first = stream_of(f"{shards}/*.tar", tmp_path)
    os.rename(shards, tmp_path / "elsewhere")
    assert stream_of(f"{tmp_path}/elsewhere/*.tar", tmp_path).fingerprint() == first.fingerprint()


@pytest.mark.parametrize("what", ["cut", "twice", "compressed", "empty", "pipe", "gone", "no tar", "within"])
def test_what_cannot_be_a_stream_is_one_line(tmp_path, what):
    path, whole = tmp_path / "a.tar", tar_of(members(0, 3))
    if what == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif what == "twice":
        path.write_bytes(whole + tar_of(members(1, 1)))  # joined
    elif what == "compressed":
        with tarfile.open(path, "w:gz"):
            pass
    elif what == "empty":
        path.write_bytes(tar_of({}))
    source = {
        "pipe": "pipe:cat a.tar",
        "gone": f"{tmp_path}/b-{{0..3}}.tar",
        "no tar": str(tmp_path),
        "within": "reference::memory://a.tar",
    }.get(what, path)
    words = {"cut": "truncated", "twice": "several members are named r1", "compressed": "not a plain tar",
             "empty": "no records in .*a.tar", "pipe": "a pipe", "gone": "no file matches", "no tar": "folder",
             "within": "within others"}  # fmt: skip
    with pytest.raises((ValueError, FileNotFoundError), match=words[what]) as caught:
        stream_of(source, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_shard_that_vanishes_or_changes_meanwhile_is_one_line(shards, tmp_path):
    stream = stream_of(f"{shards}/0.tar", tmp_path)
    drawn = stream.step(0)[0]
    whole = (shards / "0.tar").read_bytes()
    (shards / "0.tar").write_bytes(whole + bytes(512))
    with pytest.raises(OSError, match="0.tar cannot be read any more .it was written again") as caught:
        stream.read(drawn)
    (shards / "0.tar").unlink()
    with pytest.raises(OSError, match="0.tar cannot be read any more") as caught:
        stream.read(drawn)
    assert "\n" not in str(caught.value)


def test_shards_elsewhere_are_the_same_and_are_read_in_pieces(shards, tmp_path, monkeypatch):
    memory = fsspec.filesystem("memory")
    for path in shards.glob("*.tar"):
        memory.pipe(f"/bucket/{path.name}", path.read_bytes())
    here, there = stream_of(f"{shards}/*.tar", tmp_path), stream_of("memory://bucket/*.tar", tmp_path)
    assert there.fingerprint() == here.fingerprint()
    monkeypatch.setattr(Shard, "open", None)
    for step in range(3):
        found = [(one.key, one.image, one.texts) for one in map(there.read, there.step(step))]
        assert found == [(one.key, one.image, one.texts) for one in map(here.read, here.step(step))]
    assert stream_of("memory://bucket/{0..4}.tar", tmp_path).step(2) == there.step(2)
    with pytest.raises(FileNotFoundError, match="bucket/8.tar"):
        stream_of("memory://bucket/{8..9}.tar", tmp_path)
    memory.rm("/bucket", recursive=True)
    with pytest.raises(OSError, match="cannot be read any more"):
        there.read(there.step(5)[0])


class Hosted(MemoryFileSystem):
    """A file system whose addresses name a host and who reads, which its paths lack, as those of sftp and github do."""

    protocol = "hosted"

    def __init__(self, host: str, username: str | None = None, password: str | None = None, **options):
        super().__init__(**options)
        if (host, username, password) not in (("there", None, None), ("there", "alice", "pass@word")):
            raise ConnectionError(f"hosted://{username}:{password}@{host}/ lets nobody in")

    @classmethod
    def _strip_protocol(cls, path):
        return infer_storage_options(path)["path"].rstrip("/")

    @staticmethod
    def _get_kwargs_from_urls(path):
        return {name: value for name, value in infer_storage_options(path).items() if name not in ("protocol", "path")}


def test_an_address_keeps_its_host_and_its_secrets_are_not_told(shards, tmp_path):
    fsspec.register_implementation("hosted", Hosted, clobber=True)
    memory = fsspec.filesystem("memory")
    for path in shards.glob("*.tar"):
        memory.pipe(f"/hosted/{path.name}", path.read_bytes())
    secret = "hosted://alice:pass@word@there/hosted/"
    mine, open_to_all = (find_shards(f"{where}*.tar") for where in (secret, "hosted://there/hosted/"))
    assert [shard.url for shard in mine] == [f"{secret}{number}.tar" for number in range(5)]
    assert [shard.name for shard in mine] == [shard.url for shard in open_to_all]
    assert stream_of(f"{secret}*.tar", tmp_path).fingerprint() == stream_of(f"{shards}/*.tar", tmp_path).fingerprint()
    folder = tmp_path / "index"
    assert [index_path(shard, folder) for shard in mine] == [index_path(shard, folder) for shard in open_to_all]
    memory.rm("/hosted", recursive=True)
    for fails in (
        lambda: mine[0].read(0, 9),
        lambda: index_of(mine[0], tmp_path),
        lambda: find_shards(f"{secret}{{0,1}}.tar"),
        lambda: find_shards(f"memory::{secret}0.tar"),
    ):
        with pytest.raises((OSError, ValueError), match="hosted://there/hosted/") as caught:
            fails()
        assert "alice" not in str(caught.value) and "word" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:p@a.b/c.tar?X-Sig=1&b=c", "https://a.b/c.tar"),
        ("no shard at http://u@a.b:80/c.tar?d (of http://u@a.b:80/{c}.tar?d).", None),
        ("401, url='https://u:p@a.b/c.tar?d=1'", "401, url='https://a.b/c.tar'"),
        ("s3://bucket/a-?.tar and sftp://u:p@q@a.b/x@y.tar", "s3://bucket/a-?.tar and sftp://a.b/x@y.tar"),
        ("hf://datasets/user/name@main/a.tar", "hf://datasets/user/name@main/a.tar"),
        ("who?@is this: https://a.b/, mail@a.b?", "who?@is this: https://a.b/, mail@a.b?"),
        ("/a/path@2/with?it.tar", "/a/path@2/with?it.tar"),
    ],
)
def test_what_is_secret_in_an_address(text, shown):
    shown = "no shard at http://a.b:80/c.tar (of http://a.b:80/{c}.tar)." if shown is None else shown
    assert without_secrets(text) == shown == without_secrets(shown)


def test_records_of_a_stream_are_those_of_the_reader(shards, tmp_path):
    stream = stream_of(f"{shards}/*.tar", tmp_path)
    known = {one.key: one for one in read_records(f"{shards}/*.tar")}
    for one in map(stream.read, stream.step(0) + stream.step(1)):
        assert (one.texts, one.image) == (known[one.key].texts, known[one.key].image)


def test_what_is_read_to_resume_does_not_depend_on_the_position(shards, tmp_path, monkeypatch):
    stream_of(f"{shards}/*.tar", tmp_path)
    read, opened = [], []
    monkeypatch.setattr(
        Shard, "read", lambda self, at, size, plain=Shard.read: read.append(size) or plain(self, at, size)
    )
    monkeypatch.setattr(Shard, "open", lambda self, plain=Shard.open: opened.append(self.url) or plain(self))
    amounts = []
    for step in (0, 10, 10_000, 10**9):
        read.clear()
        stream = stream_of(f"{shards}/*.tar", tmp_path)
        list(map(stream.read, stream.step(step)))
        amounts.append(sum(read))
        assert len(read) == 4
    assert not opened and max(amounts) < 1.2 * min(amounts)


# Training

SETTINGS = dict(batch_size=4, learning_rate=1e-2, warmup_steps=2, log_every=1, save_every=100, eval_every=100)


def streamed(model, data, output, **changes):
    keywords = {"steps": 6, "stream": True, **SETTINGS, **changes}
    return train(model, data, output=output, progress=False, **keywords)


def test_the_loss_is_that_of_the_same_records_without_a_stream(shards, tmp_path):
    config = TrainConfig(stream=True, steps=5, **SETTINGS)
    model = tiny_model()
    stream = open_stream(f"{shards}/*.tar", tmp_path, config, progress=False)
    training = StreamedExamples(model, stream, BadLog(tmp_path / "bad.jsonl", 0.01, 20), 5)
    records = read_records(f"{shards}/*.tar")
    examples = prepare(model, records, cache=tmp_path / "features", config=config, progress=False)
    numbers = {record.key: number for number, record in enumerate(records)}
    objective = AdaptersObjective(model, training, None, config)
    for step in range(5):
        drawn = stream.step(step)
        chosen = [(numbers[one.key], stream.text(own, one)) for own in drawn for one in [stream.read(own)]]
        (part,) = objective.parts(step)
        batch, media = batch_of(examples.processor, [[one] for one in examples.ready(chosen)])
        assert part.count == int((batch.labels[:, 1:] >= 0).sum())
        torch.testing.assert_close(part.loss(), model(batch, media).loss, rtol=1e-5, atol=1e-5)
    training.close()


@pytest.mark.parametrize("stops", [[1], [3, 4]])
def test_a_resumed_stream_is_the_undisturbed_one_bit_for_bit(shards, tmp_path, monkeypatch, stops):
    data = [f"{shards}/[01].tar", f"{shards}/[234].tar"]
    mixing = dict(mix=(0.7, 0.3), shard_window=2, accumulation=2, batch_size=2)
    undisturbed = tiny_model()
    streamed(undisturbed, data, tmp_path / "whole", **mixing)
    for stop in stops:
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "step", stopping(stop))
            with pytest.raises(KeyboardInterrupt):
                streamed(tiny_model(), data, tmp_path / "stopped", save_every=1, **mixing)
    resumed = tiny_model()
    streamed(resumed, data, tmp_path / "stopped", **mixing)
    assert_equal(added(undisturbed), added(resumed))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "stopped")


def test_other_shards_are_another_run(shards, tmp_path):
    streamed(tiny_model(), f"{shards}/*.tar", tmp_path / "run")
    with pytest.raises(ValueError, match="data was"):
        streamed(tiny_model(), f"{shards}/[0-3].tar", tmp_path / "run")


@pytest.mark.parametrize("where", ["files", "addresses", "at hand"])
def test_a_shard_that_was_written_again_before_a_resume_is_refused_by_its_name(shards, tmp_path, monkeypatch, where):
    """Even where all its members have the same names and places, and other bytes."""
    memory = fsspec.filesystem("memory")

    def write(number: int, data: bytes) -> None:
        (shards / f"{number}.tar").write_bytes(data)
        memory.pipe(f"/again/{number}.tar", data)

    for number in range(5):
        write(number, (shards / f"{number}.tar").read_bytes())
    source = "memory://again/*.tar" if where == "addresses" else f"{shards}/*.tar"
    changes = {"save_every": 1, **({"stream": False, "features": "ahead"} if where == "at hand" else {})}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "step", stopping(3))
        streamed(tiny_model(), source, tmp_path / "run", **changes)
    whole = (shards / "1.tar").read_bytes()
    write(1, whole.replace(b"\x89PNG", b"\x88PNG"))
    with pytest.raises(ValueError, match=r"settings \(.*files: 1.tar has changed since\). To go on"):
        streamed(tiny_model(), source, tmp_path / "run", **changes)


@pytest.mark.parametrize("changes", [{}, {"stream": False, "features": "ahead"}], ids=["stream", "at hand"])
def test_a_run_goes_on_with_copies_of_its_shards(shards, tmp_path, monkeypatch, changes):
    """On another machine, where they lie elsewhere and have the time at which they were copied."""
    undisturbed, resumed = tiny_model(), tiny_model()
    streamed(undisturbed, f"{shards}/*.tar", tmp_path / "whole", **changes)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "step", stopping(3))
        streamed(tiny_model(), f"{shards}/*.tar", tmp_path / "run", save_every=1, **changes)
    (tmp_path / "elsewhere").mkdir()
    for tar in shards.glob("*.tar"):
        copied = tmp_path / "elsewhere" / tar.name
        copied.write_bytes(tar.read_bytes())
        os.utime(copied, ns=(1, 1))
    streamed(resumed, f"{tmp_path}/elsewhere/*.tar", tmp_path / "run", **changes)
    assert_equal(added(undisturbed), added(resumed))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "run")


def test_a_run_that_knows_no_files_is_refused_without_all_their_names(shards, tmp_path):
    source = f"{shards}/*.tar"
    for number, (now, then) in enumerate([("not known of the run", True), ("known of the run alone", False)]):
        with_files, without = dict(stream=True), dict(stream=False, features="cached")
        streamed(tiny_model(), source, tmp_path / f"{number}", **(without if then else with_files))
        with pytest.raises(ValueError, match=rf"files: {now}[;)]") as error:
            streamed(tiny_model(), source, tmp_path / f"{number}", **(with_files if then else without))
        assert "changed" not in str(error.value)


def test_an_object_that_is_written_again_in_a_run_ends_it_and_is_asked_about_now_and_then(shards, monkeypatch):
    memory, asked = fsspec.filesystem("memory"), []
    memory.pipe("/meanwhile/0.tar", whole := (shards / "0.tar").read_bytes())
    (shard,) = find_shards("memory://meanwhile/0.tar")
    monkeypatch.setattr(module, "CHECKED", 1e9)
    monkeypatch.setattr(Shard, "now", lambda self, plain=Shard.now: asked.append(self) or plain(self))
    assert [shard.read(at, 512) for at in (0, 512)] == [whole[:512], whole[512:1024]] and len(asked) == 1
    monkeypatch.setattr(module, "CHECKED", 1e-9)
    memory.pipe("/meanwhile/0.tar", whole)
    with pytest.raises(OSError, match="meanwhile/0.tar cannot be read any more .it was written again"):
        shard.read(0, 512)


def test_media_that_do_not_decode_are_left_out_named_once_and_bounded(shards, tmp_path, monkeypatch):
    bad = {"bad.png": b"no picture", "bad.json": b'{"caption": "x"}', "none.txt": b"no medium"}
    (shards / "5.tar").write_bytes(tar_of(bad))
    output = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "step", stopping(9))
        streamed(tiny_model(), f"{shards}/*.tar", output, steps=11, save_every=4, bad_limit=0.2)
    result = streamed(tiny_model(), f"{shards}/*.tar", output, steps=11, bad_limit=0.2)  # from step 8
    lines = [json.loads(line) for line in (output / "bad_records.jsonl").read_text().splitlines()]
    assert result.steps == 11 and result.bad_records == len(lines) == 4  # 44 records: twice each
    assert sorted({(line["key"].rpartition(" ")[2], line["reason"][:14]) for line in lines}) == [
        ("bad", lines[0]["reason"][:14] if lines[0]["key"].endswith("bad") else lines[1]["reason"][:14]),
        ("none", "no picture and"),
    ]
    assert len({(line["step"], line["key"]) for line in lines}) == 4
    with pytest.raises(BadRecordsError, match="more than the limit of 0.0%"):
        streamed(tiny_model(), f"{shards}/*.tar", tmp_path / "strict", steps=11, bad_limit=0.0)


def test_an_answer_that_is_labelled_bad_is_not_learned(tmp_path):
    """As without a stream, where it is refused."""
    judged = [{"prompt": "what is it?", "completion": "red", "label": label} for label in (True, False)]
    inside = {f"{n}.{suffix}": data for n, own in enumerate(judged)
              for suffix, data in (("png", png((250, 0, 0))), ("json", json.dumps(own).encode()))}  # fmt: skip
    (tmp_path / "a.tar").write_bytes(tar_of(inside))
    config = TrainConfig(stream=True, steps=1, bad_limit=1.0, **SETTINGS | {"batch_size": 2})
    model = tiny_model()
    stream = open_stream(tmp_path / "a.tar", tmp_path, config, progress=False)
    training = StreamedExamples(model, stream, BadLog(tmp_path / "bad.jsonl", 1.0, 2), 1)
    made = training.make(0)
    training.close()
    assert len(made.ready) == 1
    assert [(one.key.rpartition(" ")[2], one.reason[:27]) for one in made.bad] == [("1", "its answer is labelled bad:")]


def test_a_step_without_any_good_record_has_a_gradient_of_zero(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_of({"bad.png": b"no picture", "bad.json": b'{"caption": "x"}'}))
    model = tiny_model()
    before = added(model)
    result = streamed(model, tmp_path / "a.tar", tmp_path / "run", steps=2, bad_limit=1.0, weight_decay=0.0)
    assert_equal(before, added(model))
    assert result.skipped == 0


def test_steps_made_ahead_are_those_asked_for_and_errors_come_where_they_belong():
    made = []

    def make(step: int) -> int:
        made.append(step)
        if step == 3:
            raise OSError("gone")
        return step * step

    ahead = Ahead(make, end=5)
    assert [ahead(step) for step in range(3)] == [0, 1, 4]
    with pytest.raises(OSError, match="gone"):
        ahead(3)
    assert ahead(4) == 16 and ahead(1) == 1  # back, too
    ahead.close()
    assert max(made) == 4 and made[:5] == list(range(5))


def test_a_trial_needs_no_records_in_the_first_shard(shards, tmp_path):
    (shards / "-.tar").write_bytes(tar_of({}))
    assert find_shards(f"{shards}/*.tar")[0].url.endswith("-.tar")
    tried = trial_of_adapters(
        tiny_model(), f"{shards}/*.tar", None, tmp_path, TrainConfig(stream=True, steps=9, **SETTINGS)
    )
    assert (tried.steps, tried.cached.records) == (9, 4)


def test_settings_of_streams_are_checked(shards, tmp_path):
    with pytest.raises(ValueError, match="a stream needs steps"):
        TrainConfig(stream=True)
    with pytest.raises(ValueError, match="mix is for streams"):
        TrainConfig(mix=(1.0,))
    with pytest.raises(ValueError, match="3 weights for 1 sets"):
        streamed(tiny_model(), f"{shards}/*.tar", tmp_path / "run", mix=(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="paths, patterns or addresses"):
        streamed(tiny_model(), tiny_records(), tmp_path / "run")
    (tmp_path / "recipe.yaml").write_text(
        f"model: nano\ndata: [{shards}/0.tar, {shards}/1.tar]\noutput: {tmp_path}/r\n"
        "stream: true\nmix: [1, 3]\nsteps: 4\n"
    )
    assert load_recipe(tmp_path / "recipe.yaml").mix == (1.0, 3.0)
    plan = plan_from_recipe(tmp_path / "recipe.yaml")
    assert re.fullmatch(r"a stream of 2 tars, \d+\.\d MB, which .*", plan.data)
    with pytest.raises(ValueError, match="3 weights for 2 sets"):
        plan_from_recipe(tmp_path / "recipe.yaml", ["mix=[1,1,1]"])
    assert plan.steps == 4 and not (tmp_path / "r").exists()


def test_conversations_and_documents_stream(tmp_path):
    red, blue = png(COLOURS["red"]), png(COLOURS["blue"])
    said = [{"from": "human", "value": "<image> or <image>?"}, {"from": "gpt", "value": "Both."}]
    (tmp_path / "a.tar").write_bytes(
        tar_of({
            "1.0.png": red, "1.1.png": blue, "1.json": json.dumps({"conversations": said}).encode(),
            "2.0.png": blue, "2.json": json.dumps({"texts": [None, "A page."], "images": ["0.png", None]}).encode(),
        })
    )  # fmt: skip
    result = streamed(tiny_model(), tmp_path / "a.tar", tmp_path / "run", steps=3)
    assert np.isfinite(result.loss) and result.bad_records == 0
    assert index_of(shards_of(tmp_path / "a.tar")[0][0], tmp_path / "run" / "index").key(1) == "2"
