"""Files of several recordings, one behind the other, of which FFmpeg would read the second by the head of the first.

In Ogg a recording begins with pages that say so (RFC 3533), in WavPack with a block of sample 0, in AMR, AU and NIST
with a head, which FFmpeg takes for sound. In other formats it reads on by itself, or `truncation.unread_bytes` tells
what it does not read.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO

from encoders.media.source import MediaError

_MOST = 1000  # recordings in a file: a day of radio has some hundreds
_PIECE = 1 << 20  # bytes that are searched at a time
_HEAD = 27 + 255  # bytes of an Ogg page before its packets, at most; those of a WavPack block are 32
_OGG_FIRST = re.compile(rb"OggS\0[\x02\x03]")
_WAVPACK_FIRST = re.compile(rb"wvpk.{4}.\x04\0.{5}\0{4}", re.DOTALL)  # version 4; the 40 bits of its index are 0
_HEADS = {  # by the first bytes of a file: what another recording begins with
    b"#!AM": re.compile(rb"#!AMR(-WB)?\n"),
    b".snd": re.compile(rb"\.snd\0\0.{2}.{4}\0\0\0[\x01-\x1b]", re.DOTALL),  # where its samples are, and their kind
    b"NIST": re.compile(rb"NIST_1A\n *\d+\n"),
}
_WAVPACK_INITIAL = 0x800  # a flag: the first of the blocks that hold the channels of the same samples


class _Part(io.RawIOBase):
    """The bytes of a seekable file from `start` to `end`, as a file."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self.file, self.start, self.size, self.place = file, start, end - start, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        return self.place

    def readinto(self, buffer: memoryview) -> int:
        self.file.seek(self.start + self.place)
        data = self.file.read(max(0, min(len(buffer), self.size - self.place)))
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)


def parts_of(file: BinaryIO, label: str) -> list[BinaryIO]:
    """The recordings of a seekable file, each as a file; the file itself where it is one. MediaError for too many."""
    size, starts = file.seek(0, os.SEEK_END), [0]
    for place in _starts(file, size):
        starts += [place] if place else []
        if len(starts) > _MOST:
            raise MediaError(
                f"{label}: more than {_MOST:,} recordings joined in one file; convert it with ffmpeg to FLAC"
            )
    file.seek(0)
    if len(starts) == 1:
        return [file]
    return [io.BufferedReader(_Part(file, *ends)) for ends in pairwise([*starts, size])]


def _starts(file: BinaryIO, size: int) -> Iterator[int]:
    """Where recordings begin."""
    file.seek(0)
    kind = file.read(4)
    if kind == b"OggS":
        yield from _ogg_starts(file, size)
    elif kind == b"wvpk":
        yield from _wavpack_starts(file, size)
    elif kind in _HEADS:
        yield from (place for place, _ in _found(_HEADS[kind], file, size))


def _ogg_starts(file: BinaryIO, size: int) -> Iterator[int]:
    """Where recordings begin: a first page that does not lie right behind that of another stream of the same film."""
    end = -1
    for place, page in _found(_OGG_FIRST, file, size):
        if place != end:
            yield place
        end = place + 27 + page[26] + sum(page[27 : 27 + page[26]]) if len(page) > 26 else -1


def _wavpack_starts(file: BinaryIO, size: int) -> Iterator[int]:
    """Where recordings begin: a block of the first samples, which are not none, and of their first channels."""
    for place, block in _found(_WAVPACK_FIRST, file, size):
        if any(block[20:24]) and int.from_bytes(block[24:28], "little") & _WAVPACK_INITIAL:
            yield place


def _found(wanted: re.Pattern[bytes], file: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    """Each place of a pattern in a file, and the bytes of a head from there on."""
    for start in range(0, size, _PIECE):
        file.seek(start)
        data = file.read(_PIECE + _HEAD)
        for match in wanted.finditer(data):
            if match.start() < _PIECE:
                yield start + match.start(), data[match.start() : match.start() + _HEAD]
