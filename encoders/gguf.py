"""Files of GGUF (llama.cpp): settings, and where each tensor lies. What a header tells is checked against the file."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from encoders.files import check_regular
from encoders.sizes import RefusedError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_ENTRIES = 1 << 24  # of one list; the largest vocabularies have 2^18
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, LIST = 8, 9
BLOCKS = {  # number of a tensor's type → values in a block, bytes of a block
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
    17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54),
    35: (256, 66), 39: (32, 17),
}  # fmt: skip


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a file: its shape (as torch has it), the number of its type, and the bytes that hold it."""

    shape: tuple[int, ...]
    type: int
    start: int
    size: int


@dataclass(frozen=True)
class GgufFile:
    """Settings and tensors by their names in the file."""

    path: Path
    settings: dict[str, Any]
    tensors: dict[str, GgufTensor]


def is_gguf(path: str | Path) -> bool:
    """Whether a path is a file that begins as GGUF does, whatever its name."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(4) == MAGIC


def read_gguf(path: str | Path) -> GgufFile:
    """The header of a file; no weights are read.

    `RefusedError` for a file that is cut off, or whose header tells of more than the file holds; ValueError for a
    version that is not read, and for a type of tensors that is not known.
    """
    check_regular(path)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:4] != MAGIC:
            raise ValueError(f"{path} is no GGUF file")
        try:
            return _read(Path(path), _Cursor(content))
        except (struct.error, UnicodeDecodeError, IndexError) as error:
            raise RefusedError(f"the GGUF file {path} is damaged or cut off: fetch it again") from error


def _read(path: Path, cursor: _Cursor) -> GgufFile:
    version, tensor_count, setting_count = cursor.numbers("IQQ", start=4)
    if version not in VERSIONS:
        raise ValueError(f"{path} is GGUF of version {version}, and versions 2 and 3 are read: convert the model anew")
    settings = {cursor.string(): cursor.value(cursor.numbers("I")[0]) for _ in range(setting_count)}
    entries = [(cursor.string(), *cursor.tensor()) for _ in range(tensor_count)]
    if len(settings) != setting_count or len({name for name, *_ in entries}) != tensor_count:
        raise RefusedError(f"the GGUF file {path} names a setting or a tensor twice")
    alignment = settings.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
        raise RefusedError(f"the GGUF file {path} has no alignment {alignment!r}")
    start = -(-cursor.place // alignment) * alignment
    tensors, held = {}, 0
    for name, shape, kind, offset in entries:
        if kind not in BLOCKS:
            raise ValueError(f"{path} holds tensors of the type {kind}, which is not known: take another quantisation")
        values, size = BLOCKS[kind]
        if shape[-1] % values:
            raise RefusedError(f"{name} in the GGUF file {path} has the shape {list(shape)}, which is no row of blocks")
        tensors[name] = GgufTensor(shape, kind, start + offset, prod(shape) // values * size)
        held += tensors[name].size
        if max(tensors[name].start + tensors[name].size, held) > len(cursor.content):
            raise RefusedError(f"the GGUF file {path} is cut off, or tells of more than it holds: fetch it again")
    return GgufFile(path, settings, tensors)


class _Cursor:
    """Reads from the front to the back; `struct.error` or IndexError past the end."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.place = content, 0

    def numbers(self, form: str, start: int | None = None) -> tuple[Any, ...]:
        form, place = f"<{form}", self.place if start is None else start
        found = struct.unpack_from(form, self.content, place)
        self.place = place + struct.calcsize(form)
        return found

    def string(self) -> str:
        (length,) = self.numbers("Q")
        if length > len(self.content) - self.place:
            raise IndexError(length)
        self.place += length
        return self.content[self.place - length : self.place].decode()

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind != LIST:
            return self.numbers(_form(kind))[0]
        kind, count = self.numbers("IQ")
        if count > MOST_ENTRIES:
            raise IndexError(count)
        if kind != STRING:
            return list(self.numbers(f"{count}{_form(kind)}"))
        one: Callable[[], str] = self.string
        return [one() for _ in range(count)]

    def tensor(self) -> tuple[tuple[int, ...], int, int]:
        (dimensions,) = self.numbers("I")
        if not 0 < dimensions <= 8:
            raise IndexError(dimensions)
        shape = self.numbers(f"{dimensions}Q")
        kind, offset = self.numbers("IQ")
        return shape[::-1], kind, offset


def _form(kind: int) -> str:
    if kind not in NUMBERS:
        raise IndexError(kind)
    return NUMBERS[kind]
