"""Features of a frozen encoder, computed once and kept on disk for later epochs and later runs.

A cache folder holds shards, `<digest>.safetensors`: the tokens [S, D] of some hundred pictures or recordings, each
under the hash of its bytes and with a checksum. The folder is named by the encoder's fingerprint, which covers its
weights and its preprocessing. Shards are memory-mapped, so a set larger than memory works, and one that is in the page
cache is not copied. A film is encoded as its frames are, with the time of each token beside the tokens.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from encoders.base import Features, FrozenEncoder
from encoders.media.image import content_key
from encoders.media.sound import audio_key
from encoders.media.video import NUM_FRAMES, is_video, load_video
from mmlm.data.records import FileSlice, Record, RecordSet
from mmlm.model.features import video_features
from mmlm.training.reporting import Counter

SHARD_SIZE = 512  # pictures a shard; what an interruption can lose
FRAMES = f"-{NUM_FRAMES}-frames"  # ends the keys of films
CHECKSUMS = "checksums"
TIMES = ".times"  # ends the names of the times of a film's tokens


class CachedFeatures(NamedTuple):
    """By the index of a record: features [1, S, D]; reasons why media are bad; hashes of the media's bytes."""

    features: dict[int, Features]
    bad: dict[int, str]
    keys: dict[int, str]


def cached_features(
    records: RecordSet,
    encoder: FrozenEncoder,
    folder: Path,
    *,
    batch_size: int = 32,
    bad_limit: float = 0.01,
    progress: bool = True,
) -> CachedFeatures:
    """Features of the picture, or the recording, of each record that has one.

    They come from the cache or, where it lacks them, from the encoder. Media that cannot be read or decoded are bad.
    BadRecordsError if these are more than `bad_limit` of all records, OSError if the disk has no room for the features.
    """
    folder = Path(folder) / f"{encoder.modality}-{encoder.fingerprint()}"
    folder.mkdir(parents=True, exist_ok=True)
    keys, bad = _keys(records, encoder)
    records.without(bad).check(bad_limit)

    found = _read_shards(folder, {name for key in keys.values() for name in _names(key)})
    first = {key: index for index, key in reversed(keys.items())}  # one record for each picture
    missing = {key: index for key, index in first.items() if not found.keys() >= set(_names(key))}
    encoded, undecodable = _encode(records, encoder, folder, missing, batch_size, progress)
    found |= encoded

    bad |= {index: undecodable[key] for index, key in keys.items() if key in undecodable}
    bad = dict(sorted(bad.items()))
    records.without(bad).check(bad_limit)
    features = {index: _features(encoder, found, key) for index, key in keys.items() if key in found}
    return CachedFeatures(features, bad, keys)


def film_of(record: Record) -> Path | None:
    """The film that a record has in the place of a picture, by the suffix of its file."""
    place = record.source
    return place.path if isinstance(place, FileSlice) and place.size is None and is_video(place.path) else None


def _names(key: str) -> list[str]:
    """The names of the tensors that are kept of a medium."""
    return [key, key + TIMES] if key.endswith(FRAMES) else [key]


def _medium(encoder: FrozenEncoder) -> str:
    return {"image": "picture", "audio": "recording"}[encoder.modality]


def _content(record: Record, encoder: FrozenEncoder) -> bytes:
    return record.image if encoder.modality == "image" else record.audio


def _keys(records: RecordSet, encoder: FrozenEncoder) -> tuple[dict[int, str], dict[int, str]]:
    """The hash of each medium's bytes, and why media cannot be read, by the index of a record."""
    key_of = {"image": content_key, "audio": audio_key}[encoder.modality]
    keys: dict[int, str] = {}
    bad: dict[int, str] = {}
    for index, record in enumerate(records):
        if (record.source if encoder.modality == "image" else record.sound) is None:
            continue
        try:
            if encoder.modality == "image" and (film := film_of(record)) is not None:
                keys[index] = audio_key(film) + FRAMES
            else:
                keys[index] = key_of(_content(record, encoder))
        except (OSError, ValueError) as error:
            bad[index] = f"the {_medium(encoder)} cannot be read ({error})"
    return keys, bad


def _encode(
    records: RecordSet, encoder: FrozenEncoder, folder: Path, missing: dict[str, int], batch_size: int, progress: bool
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tokens of the missing media, written into shards, and why media cannot be decoded, by their keys."""
    medium = _medium(encoder)
    found: dict[str, Tensor] = {}
    undecodable: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    room = shutil.disk_usage(folder).free
    with Counter(len(missing), f"encoding {medium}s", progress) as counter:
        for batch in _batches(list(missing.items()), batch_size):
            made: dict[str, Tensor] = {}
            items: dict[str, Tensor] = {}
            for key, index in batch:
                try:
                    if key.endswith(FRAMES):
                        made |= _film_tensors(encoder, key, records[index])
                    else:
                        items[key] = encoder.preprocess(_content(records[index], encoder))
                except (OSError, ValueError, ImportError) as error:
                    undecodable[key] = f"the {medium} cannot be decoded ({error})"
            if items:
                encoded = encoder.encode_items(list(items.values()))
                made |= {key: own.tokens[0].cpu().contiguous() for key, own in zip(items, encoded, strict=True)}
            shard |= made
            _check_room(folder, room, sum(tensor.nbytes for tensor in made.values()) // len(batch) * len(missing))
            if len(shard) >= SHARD_SIZE:
                found |= _write_shard(folder, shard)
                shard = {}
            counter.update(len(batch))
    if shard:
        found |= _write_shard(folder, shard)
    return found, undecodable


def _film_tensors(encoder: FrozenEncoder, key: str, record: Record) -> dict[str, Tensor]:
    film = film_of(record)
    assert film is not None, "its key says so"
    features = video_features(encoder, load_video(film))
    assert features.times is not None, "frames have times"
    return {key: features.tokens[0].cpu().contiguous(), key + TIMES: features.times[0].cpu().contiguous()}


def _features(encoder: FrozenEncoder, found: dict[str, Tensor], key: str) -> Features:
    tokens = found[key]
    times = found[key + TIMES] if key.endswith(FRAMES) else encoder.token_times(len(tokens))
    return Features(tokens.unsqueeze(0), None, None if times is None else times.unsqueeze(0))


def _check_room(folder: Path, room: int, needed: int) -> None:
    if needed > room:
        raise OSError(
            f"the features need about {needed / 1e9:.1f} GB, and {folder} has room for {room / 1e9:.1f} GB: "
            "choose another cache folder"
        )


def _read_shards(folder: Path, wanted: set[str]) -> dict[str, Tensor]:
    """The wanted tokens in the folder whose checksum is right. A shard that cannot be opened is removed."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            found |= _read_shard(path, wanted - found.keys())
        except SafetensorError:
            path.unlink(missing_ok=True)  # its pictures are encoded again
    return found


def _read_shard(path: Path, wanted: set[str]) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        checksums = json.loads((file.metadata() or {}).get(CHECKSUMS, "{}"))
        tensors = {key: file.get_tensor(key) for key in wanted.intersection(file.keys())}
    return {key: tensor for key, tensor in tensors.items() if checksums.get(key) == _checksum(tensor)}


def _write_shard(folder: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Writes a shard whole or not at all; returns its tensors mapped from the file."""
    name = hashlib.sha256("".join(sorted(tensors)).encode()).hexdigest()[:16]
    path, temporary = folder / f"{name}.safetensors", folder / f".{name}.{os.getpid()}.tmp"
    try:
        checksums = {key: _checksum(tensors[key]) for key in sorted(tensors)}
        save_file(tensors, temporary, metadata={CHECKSUMS: json.dumps(checksums)})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    written = _read_shard(path, set(tensors))
    if len(written) < len(tensors):
        raise OSError(f"{path} does not read back as it was written: the disk is faulty, choose another cache folder")
    return written


def _checksum(tensor: Tensor) -> str:
    return f"{zlib.crc32(tensor.view(torch.uint8).numpy().data):08x}"


def _batches(items: list[tuple[str, int]], size: int) -> Iterator[list[tuple[str, int]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
