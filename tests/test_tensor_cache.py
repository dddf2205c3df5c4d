"""The cache of tensors: damage of any bit is noticed, and what is made anew has the same bits."""

import logging
import math
import os
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoders.codecs.base import NonFiniteLatentsError
from decoders.files import LEFT
from mmlm.data import FileSlice, Record, RecordSet
from mmlm.data import cache as caches
from mmlm.data.cache import TensorCache
from mmlm.retrieval.rices import Rices
from mmlm.training.features import cached_features
from mmlm.training.pairs import read_pairs
from support.training_objectives import CASES, png, tiny_encoder, tiny_records

VALUES = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor([[1, 2], [3, 4]], dtype=torch.int32),
    "c": torch.zeros(2, 0, dtype=torch.int32),
    "d": torch.tensor([0.5, -2.0], dtype=torch.bfloat16),
    "e": torch.tensor(7.0, dtype=torch.float64),
}


def filled(folder: Path) -> Path:
    """A cache of VALUES; returns its one shard."""
    cache = TensorCache(folder)
    for key, value in VALUES.items():
        cache.add(key, value)
    cache.flush()
    (shard,) = folder.glob("*.safetensors")
    return shard


def test_what_is_kept_is_what_was_given(tmp_path):
    filled(tmp_path)
    cache = TensorCache(tmp_path)
    assert len(cache) == 5 and "z" not in cache
    for key, value in VALUES.items():
        assert key in cache and cache[key].dtype == value.dtype and torch.equal(cache[key], value)


def test_every_flipped_bit_is_noticed_or_harmless(tmp_path, caplog):
    """All bits of a shard: an entry is whole, or it is not there."""
    whole = filled(tmp_path / "whole").read_bytes()
    for bit in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        shard = tmp_path / "flipped" / "x.safetensors"
        shard.parent.mkdir(exist_ok=True)
        shard.write_bytes(flipped)
        caplog.clear()
        cache = TensorCache(shard.parent)
        kept = [key for key in VALUES if key in cache]
        assert all(torch.equal(cache[key], VALUES[key]) and cache[key].dtype == VALUES[key].dtype for key in kept)
        assert len(kept) == 5 or f"{shard} is damaged" in caplog.text and not shard.exists()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_shard_that_is_cut_or_overwritten_is_made_anew(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cache")
    shard = filled(folder)
    whole = shard.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    noise = data.draw(st.binary(max_size=40))
    shard.write_bytes(whole[:cut] + noise)
    cache = TensorCache(folder)
    for key, value in VALUES.items():
        if key not in cache:
            cache.add(key, value)
        assert torch.equal(cache[key], value)
    cache.flush()
    assert [path.read_bytes() for path in folder.glob("*.safetensors")] == [whole]
    assert not list(folder.glob(".*"))


def test_a_shard_that_is_cut_under_a_run_is_an_error_that_names_it(tmp_path):
    shard = filled(tmp_path)
    cache = TensorCache(tmp_path)
    assert "a" in cache
    os.truncate(shard, 10)  # a mapped file would end the process
    with pytest.raises(OSError, match=f"{shard}: an entry is not as it was written"):
        cache["a"]
    assert "a" not in cache and not shard.exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nothing_is_kept_that_is_not_finite(tmp_path, value):
    cache = TensorCache(tmp_path)
    with pytest.raises(ValueError, match="NaN or infinite"):
        cache.add("a", torch.tensor([1.0, value]))
    cache.flush()
    assert "a" not in cache and not list(tmp_path.iterdir())


def test_many_shards_and_what_a_killed_process_left(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(caches, "SHARD_SIZE", 3)
    cache = TensorCache(tmp_path)
    for number in range(10):
        cache.add(f"{number}", torch.full((2,), float(number)))
    cache.flush()
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) == 4
    old, new = tmp_path / ".old.tmp", tmp_path / ".new.tmp"
    for path in (old, new):
        path.touch()
    os.utime(old, (time.time() - LEFT - 9,) * 2)
    os.utime(new)
    data = bytearray(shards[0].read_bytes())
    data[-1] ^= 1
    shards[0].write_bytes(data)
    again = TensorCache(tmp_path)
    assert not old.exists() and new.exists()  # which another process may be writing
    lost = [number for number in range(10) if f"{number}" not in again]
    assert len(lost) == 1 and caplog.text.count("is damaged") == 1
    again.flush()  # the others of that shard
    caplog.clear()
    later = TensorCache(tmp_path)
    assert [number for number in range(10) if f"{number}" not in later] == lost and not caplog.text


# What is read once is what is hashed and encoded


class Changing(FileSlice):
    """A file that holds another picture each time it is read."""

    def read(self) -> bytes:
        seen.append(png((40 * len(seen) % 256, 200, 30)))
        return seen[-1]


seen: list[bytes] = []


@pytest.fixture
def changing(tmp_path):
    seen.clear()
    return RecordSet((Record("changing", Changing(tmp_path / "p.png"), ("a square",)),))


def test_features_are_of_the_bytes_that_were_hashed(tmp_path, changing):
    encoder = tiny_encoder()
    features, bad, keys = cached_features(changing, encoder, tmp_path, progress=False)
    first = RecordSet((Record("first", seen[0], ("a square",)),))
    assert not bad and len(seen) == 1
    alone = cached_features(first, encoder, tmp_path / "other", progress=False)
    assert alone.keys == keys and torch.equal(alone.features[0].tokens, features[0].tokens)


def test_codes_and_embeddings_are_of_the_bytes_that_were_hashed(tmp_path, changing):
    model = CASES["codes"].build()
    pairs = read_pairs(model, changing, tmp_path / "codes", 4.0, progress=False)
    once = RecordSet((Record("first", seen[0], ("a square",)),))
    first = read_pairs(model, once, tmp_path / "b", 4.0, progress=False)
    assert len(seen) == 1 and first.digest == pairs.digest and torch.equal(first[0].codes, pairs[0].codes)
    encoder = tiny_encoder()
    index = Rices(encoder, changing, cache=tmp_path / "index")
    assert len(seen) == 2
    assert torch.equal(index.embeddings, Rices(encoder, [Record("x", seen[1], ("a",))]).embeddings)


def test_an_entry_made_anew_has_the_bits_of_one_made_among_others(tmp_path):
    """Whatever was encoded with it, and in which order."""
    encoder, records = tiny_encoder(), tiny_records(9)
    all_of_them = cached_features(records, encoder, tmp_path / "all", progress=False).features
    for index in (0, 4, 8):
        own = cached_features(RecordSet((records[index],)), encoder, tmp_path / f"{index}", progress=False)
        assert torch.equal(own.features[0].tokens, all_of_them[index].tokens)
    embedded = Rices(encoder, records).embeddings
    assert torch.equal(Rices(encoder, [records[3]]).embeddings, embedded[3:4])


def test_pictures_that_encode_to_nan_are_named_and_not_kept(tmp_path, monkeypatch):
    records, encoder = tiny_records(6), tiny_encoder()
    bad = encoder.preprocess(records[2].image)
    encode = encoder.encode_items

    def encode_items(items):
        found = encode(items)
        for item, own in zip(items, found, strict=True):
            if torch.equal(item, bad):
                own.tokens[0, 1, 3] = math.nan
        return found

    with monkeypatch.context() as patch:
        patch.setattr(encoder, "encode_items", encode_items)
        found = cached_features(records, encoder, tmp_path, bad_limit=0.5, progress=False)
    assert found.bad == {2: "the picture is encoded to values that are NaN or infinite"}
    assert sorted(found.features) == [0, 1, 3, 4, 5]
    assert not cached_features(records, encoder, tmp_path, progress=False).bad  # a sane encoder encodes it
    monkeypatch.setattr(encoder, "embed_images", lambda batch: torch.full((len(batch), 16), math.nan))
    with pytest.raises(ValueError, match="record 'r0' is embedded to values that are NaN"):
        Rices(encoder, records, cache=tmp_path / "index")
    assert not list((tmp_path / "index").rglob("*.safetensors"))


def test_codes_of_latents_that_are_nan_are_a_bad_record(tmp_path, monkeypatch, caplog):
    model, records = CASES["codes"].build(), tiny_records(120)
    codec = model.codecs["image"]
    encode, calls = codec.encode, []

    def failing(media):
        calls.append(1)
        if len(calls) == 2:
            raise NonFiniteLatentsError("latents are not finite")
        return encode(media)

    monkeypatch.setattr(codec, "encode", failing)
    with caplog.at_level(logging.WARNING):
        pairs = read_pairs(model, records, tmp_path, 4.0, progress=False)
    assert len(pairs) == 119 and "r1: latents are not finite" in caplog.text
    monkeypatch.undo()
    assert len(read_pairs(model, records, tmp_path, 4.0, progress=False)) == 120
