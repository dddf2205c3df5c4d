"""Where the last part of a file ends, in formats that are a row of parts, each with its size in its head.

ASF (of WMA and WMV), CAF, Sony Wave64, VOC, WavPack, DSF, NIST SPHERE, and streams of MPEG (ISO/IEC 11172-1, 13818-1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import BinaryIO

_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF_UNKNOWN = 50  # bytes of the head of the data, which live recordings state as its size
_W64 = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # behind the four letters of a chunk's name
_UNKNOWN = 1 << 62  # bytes
_NIST = 1 << 16  # bytes of its head that are read
_MPEG_TS = ((188, 0), (192, 4), (204, 0))  # bytes of a packet, and the place of "G" in it
_PACK = b"\0\0\1\xba"  # the head of a pack of MPEG-PS
_TAIL = 1 << 17  # bytes at the end of an MPEG-PS in which a pack begins, of mostly 2 KB


def end_of_parts(file: BinaryIO, size: int) -> int:
    """Where the last part of a seekable file ends; its size for formats without such parts, or if it is not stated."""
    file.seek(0)
    start = file.read(256)
    if start[:4] == b"caff":
        return _walked(file, size, 8, 12, _caf)
    if start[:4] == b"riff" and start[24:28] == b"wave":
        return _walked(file, size, 40, 24, _w64, 8)
    if start[:19] == b"Creative Voice File":
        return _walked(file, size, int.from_bytes(start[20:22], "little"), 4, _voc)
    if start[:16] == _ASF:
        return _walked(file, size, 0, 24, _asf)
    if start[:4] == b"wvpk":
        return _walked(file, size, 0, 8, _wavpack)
    if start[:4] == b"DSD ":
        return int.from_bytes(start[12:20], "little")
    if start[:8] == b"NIST_1A\n":
        return _nist_end(file, size, int(start[8:16]) if start[8:16].strip().isdigit() else 0)
    if start[:4] == _PACK:
        file.seek(first := max(0, size - _TAIL))
        return _walked(file, size, max(0, first + file.read().find(_PACK)), 14, _pack)
    for packet, sync in _MPEG_TS:
        if start[sync : sync + 1] == start[sync + packet : sync + packet + 1] == b"G":
            file.seek(size - size % packet + sync)
            return size - size % packet + packet if file.read(1) == b"G" else size
    return size


def _walked(file: BinaryIO, size: int, place: int, head: int, length_of: Callable[[bytes], int], align: int = 1) -> int:
    """Where the last of the parts from `place` on ends, each as long as its head says; 0 is no part, or unknown."""
    end = place
    while place + head <= size:
        file.seek(place)
        length = length_of(file.read(head))
        if length <= 0:
            return size
        end = place + length
        place = -(-end // align) * align
    return end


def _nist_end(file: BinaryIO, size: int, head: int) -> int:
    """Where the samples end that follow a head of so many bytes, which says how many there are, in lines of text."""
    file.seek(0)
    fields = {line.split()[0]: line.split()[-1] for line in file.read(min(head, _NIST)).splitlines() if line.split()}
    numbers = [fields.get(name, b"") for name in (b"sample_count", b"channel_count", b"sample_n_bytes")]
    if not all(number.isdigit() for number in numbers) or b"," in fields.get(b"sample_coding", b""):  # compressed
        return size
    return head + math.prod(map(int, numbers))


def _caf(head: bytes) -> int:
    length = int.from_bytes(head[4:], "big", signed=True)  # -1 where it is not known
    return 12 + length if head[:4].isalnum() and head[:4] != b"caff" and length >= 0 else 0


def _w64(head: bytes) -> int:
    length = int.from_bytes(head[16:], "little")  # the highest where it was written to a pipe
    return length if head[4:16] == _W64 and length < _UNKNOWN else 0


def _voc(head: bytes) -> int:
    length = int.from_bytes(head[1:], "little")
    return 4 + length if 1 <= head[0] <= 9 and length else 0


def _asf(head: bytes) -> int:
    length = int.from_bytes(head[16:], "little")
    return length if head[:16] == _ASF or head[:16] == _ASF_DATA and length > _ASF_UNKNOWN else 0


def _wavpack(head: bytes) -> int:
    return 8 + int.from_bytes(head[4:], "little") if head[:4] == b"wvpk" else 0


def _pack(head: bytes) -> int:
    if head[:4] == _PACK:
        return 14 + (head[13] & 7) if head[4] >> 6 == 1 else 12  # of MPEG 2, or 1
    if head[:4] == b"\0\0\1\xb9":  # the end
        return 4
    return 6 + int.from_bytes(head[4:6], "big") if head[:3] == b"\0\0\1" and head[3] > 0xBA else 0
