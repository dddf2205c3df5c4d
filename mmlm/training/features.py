"""Features of the frozen encoder, computed once and kept on disk for later epochs and later runs.

A cache folder holds shards, `<digest>.safetensors`: the tokens [S, D] of some hundred pictures, under the hash of each
picture's bytes, with a checksum for each. The folder is named by the encoder's fingerprint: its weights and its
preprocessing. Shards are memory-mapped, so a set larger than memory works and a set in the page cache costs no copy.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from encoders.base import Features, FrozenEncoder
from encoders.media import content_key
from mmlm.data.records import RecordSet

SHARD_SIZE = 512  # pictures a shard; what an interruption can lose


def cached_features(
    records: RecordSet,
    encoder: FrozenEncoder,
    folder: Path,
    *,
    batch_size: int = 32,
    bad_limit: float = 0.01,
    progress: bool = True,
) -> tuple[RecordSet, list[Features]]:
    """Features [1, S, D] of every record's picture, in order, from the cache or, where it lacks them, the encoder.

    Pictures that cannot be read or decoded go to the bad records of the set that is returned, which is checked
    against `bad_limit`. OSError if the disk has no room for the features.
    """
    folder = Path(folder) / f"{encoder.modality}-{encoder.fingerprint()}"
    folder.mkdir(parents=True, exist_ok=True)
    keys: dict[int, str] = {}
    bad: dict[int, str] = {}
    for index, record in enumerate(records):
        try:
            keys[index] = content_key(record.image)
        except (OSError, ValueError) as error:
            bad[index] = f"the picture cannot be read ({error})"
    records.without(bad).check(bad_limit)

    wanted = set(keys.values())
    found = _read_shards(folder, wanted)
    first = {key: index for index, key in reversed(keys.items())}  # one record for each picture
    missing = [index for key, index in first.items() if key not in found]
    undecodable: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    room = shutil.disk_usage(folder).free
    with tqdm(total=len(missing), desc="encoding pictures", unit="picture", disable=not (progress and missing)) as bar:
        for batch in _batches(missing, batch_size):
            pixels, good = [], []
            for index in batch:
                try:
                    pixels.append(encoder.preprocess(records[index].image))
                    good.append(keys[index])
                except (OSError, ValueError) as error:
                    undecodable[keys[index]] = f"the picture cannot be decoded ({error})"
            if good:
                shard |= zip(good, _encode(encoder, pixels), strict=True)
                _check_room(folder, room, shard[good[0]].nbytes * len(missing))
            if len(shard) >= SHARD_SIZE:
                found |= _write_shard(folder, shard)
                shard = {}
            bar.update(len(batch))
    if shard:
        found |= _write_shard(folder, shard)

    bad |= {index: undecodable[key] for index, key in keys.items() if key in undecodable}
    features = [Features(found[key].unsqueeze(0)) for key in keys.values() if key in found]
    return records.without(dict(sorted(bad.items()))).check(bad_limit), features


def _check_room(folder: Path, room: int, needed: int) -> None:
    if needed > room:
        raise OSError(
            f"the features need about {needed / 1e9:.1f} GB, and {folder} has room for {room / 1e9:.1f} GB: "
            "choose another cache folder"
        )


def _encode(encoder: FrozenEncoder, pixels: list[Tensor]) -> Iterator[Tensor]:
    """Tokens [S, D] of each picture, on the CPU; S counts the real tokens only."""
    features = encoder.encode(torch.stack(pixels))
    for row, tokens in enumerate(features.tokens):
        kept = tokens if features.mask is None else tokens[features.mask[row]]
        yield kept.cpu().contiguous()


def _read_shards(folder: Path, wanted: set[str]) -> dict[str, Tensor]:
    """The wanted tokens that lie in the folder with the right checksum. A shard that cannot be opened is removed."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            found |= _read_shard(path, wanted - found.keys())
        except SafetensorError:
            path.unlink(missing_ok=True)  # its pictures are encoded again
    return found


def _read_shard(path: Path, wanted: set[str]) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        checksums = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys() if key in wanted}
    return {key: tensor for key, tensor in tensors.items() if checksums.get(key) == _checksum(tensor)}


def _write_shard(folder: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Writes a shard whole or not at all; returns its tensors mapped from the file."""
    name = hashlib.sha256("".join(sorted(tensors)).encode()).hexdigest()[:16]
    path, temporary = folder / f"{name}.safetensors", folder / f".{name}.{os.getpid()}.tmp"
    try:
        save_file(tensors, temporary, metadata={key: _checksum(tensor) for key, tensor in tensors.items()})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    written = _read_shard(path, set(tensors))
    if len(written) < len(tensors):
        raise OSError(f"{path} does not read back as it was written: the disk is faulty, choose another cache folder")
    return written


def _checksum(tensor: Tensor) -> str:
    return f"{zlib.crc32(tensor.view(torch.uint8).numpy()):08x}"


def _batches(items: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
