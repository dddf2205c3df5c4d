"""Tensors on disk, each under a key that stands for the content it was made of. Damage is noticed, and made good.

A folder holds shards, `<digest>.safetensors`: some hundred tensors each, with a checksum of each in the metadata. A
tensor is read when it is asked for, into memory of its own: a set larger than memory works, and a file that is cut
short or changed under a run is an error, where a mapped one would end the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from decoders.files import remove_left, save_tensors

log = logging.getLogger(__name__)

SHARD_SIZE = 512  # tensors a shard; what an interruption can lose
CHECKSUMS = "checksums"
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32,
}  # fmt: skip


class TensorCache:
    """The tensors in a folder, and new ones. `key in cache` is true of a whole tensor only.

    Shards of which something is damaged are named in a warning and replaced by what is whole in them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._new: dict[str, Tensor] = {}
        self._places: dict[str, _Place] = {}
        folder.mkdir(parents=True, exist_ok=True)
        remove_left(folder.glob(".*.tmp"))
        for path in sorted(folder.glob("*.safetensors")):
            try:
                self._places |= _index(path)
            except (OSError, ValueError) as error:
                self._drop(path, str(error))

    def __len__(self) -> int:
        return len(self._places.keys() | self._new.keys())

    def __contains__(self, key: str) -> bool:
        place = self._places.get(key)
        if place is not None and place.read() is None:
            self._drop(place.path, "an entry is not as it was written")
        return key in self._places or key in self._new

    def __getitem__(self, key: str) -> Tensor:
        """KeyError if it is not there; OSError if it was damaged since."""
        if key in self._new:
            return self._new[key]
        place = self._places[key]
        if (tensor := place.read()) is None:
            raise OSError(
                f"{place.path}: an entry is not as it was written. The same call, given again, makes it anew; if that "
                "recurs, the disk is faulty: choose another cache folder"
            )
        return tensor

    def shape(self, key: str) -> tuple[int, ...]:
        """That of a tensor, which is not read; KeyError if it is not there."""
        return tuple(self._new[key].shape) if key in self._new else self._places[key].shape

    def add(self, key: str, tensor: Tensor) -> None:
        """ValueError, and nothing is kept, where a value is not finite."""
        if not tensor.isfinite().all():
            raise ValueError("is encoded to values that are NaN or infinite")
        self._new[key] = tensor.detach().cpu().contiguous()
        if len(self._new) >= SHARD_SIZE:
            self.flush()

    def flush(self) -> None:
        """Writes what is new into a shard, whole or not at all."""
        if not self._new:
            return
        name = hashlib.sha256("".join(sorted(self._new)).encode()).hexdigest()[:16]
        path = self.folder / f"{name}.safetensors"
        temporary = self.folder / f".{name}.{os.getpid()}-{threading.get_ident()}.tmp"
        checksums = {key: _checksum(key, self._new[key]) for key in sorted(self._new)}
        try:
            save_tensors(self._new, temporary, {CHECKSUMS: json.dumps(checksums)})
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        written = _index(path)
        if any(place.read() is None for place in written.values()):
            raise OSError(f"{path} does not read back as it was written; the disk is faulty: take another cache folder")
        self._places |= written
        self._new = {}

    def _drop(self, path: Path, damage: str) -> None:
        """Keeps what is whole of a shard to be written anew, and removes the shard."""
        log.warning("%s is damaged (%s): what is not whole in it is made anew", path, damage)
        for key in [key for key, place in self._places.items() if place.path == path]:
            if (tensor := self._places.pop(key).read()) is not None:
                self._new[key] = tensor
        path.unlink(missing_ok=True)


def count_stored(folder: Path) -> int:
    """How many tensors lie in a cache folder, by its headers: nothing is checked, changed or made there."""
    count = 0
    for path in folder.glob("*.safetensors"):
        with contextlib.suppress(OSError, ValueError):
            count += len(_index(path))
    return count


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies, and the checksum of its key, type, shape and values."""

    path: Path
    key: str
    offset: int
    size: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    checksum: str

    def read(self) -> Tensor | None:
        """None where it is not as it was written."""
        data = bytearray(self.size)
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                read = file.readinto(data)
        except OSError:
            return None
        values = torch.frombuffer(data, dtype=self.dtype) if data else torch.empty(0, dtype=self.dtype)
        tensor = values.reshape(self.shape)
        return tensor if read == self.size and _checksum(self.key, tensor) == self.checksum else None


def _index(path: Path) -> dict[str, _Place]:
    """What a shard's header says lies in it. ValueError where that cannot be."""
    with open(path, "rb") as file:
        whole = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 8 + length <= whole:
            raise ValueError("it is cut short")
        header = file.read(length)
    found, held = {}, 0
    try:
        entries = json.loads(header)
        checksums = json.loads(entries.pop("__metadata__")[CHECKSUMS])
        if entries.keys() != checksums.keys():
            raise ValueError("its header changed")
        for key, entry in entries.items():
            dtype, shape, (begin, end) = DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
            if len(shape) > 32 or not all(type(size) is int and 0 <= size <= whole for size in (begin, end, *shape)):
                raise ValueError("its header changed")
            if not 0 <= begin <= end <= whole - 8 - length or end - begin != math.prod(shape) * dtype.itemsize:
                raise ValueError("it is cut short, or its header changed")
            held += end - begin
            found[key] = _Place(path, key, 8 + length + begin, end - begin, dtype, shape, checksums[key])
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("its header cannot be read") from error
    if held > whole:
        raise ValueError("its entries overlap")
    return found


def _checksum(key: str, tensor: Tensor) -> str:
    about = f"{key} {tensor.dtype} {list(tensor.shape)};".encode()
    return f"{zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, zlib.crc32(about)):08x}"
