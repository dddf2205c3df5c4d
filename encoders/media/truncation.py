"""Whether a file of sound or film ends inside a part whose size it states: by its bytes, before anything is decoded.

Only sizes of parts in bytes are asked, of which the file was either written whole or was not. A number of seconds in a
header is often an estimate, or that of another stream, and says nothing. Formats: WAV and AIFF (RIFF and IFF chunks),
AU, Ogg (RFC 3533), Matroska (RFC 8794, 9559), MP4 (ISO/IEC 14496-12), and those of `part_ends`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, Literal

from encoders.media.part_ends import end_of_parts

_UNKNOWN = 0x7FFFFFFF - 4096  # headers that are written to a pipe, or before a crash, state about this size or more
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"moof", b"sidx", b"styp", b"uuid", b"mfra", b"pnot")
_OGG_PAGE = 27 + 255 + 255 * 255  # bytes, at most
_PIECE = 1 << 20  # bytes that are searched at a time


def missing_bytes(file: BinaryIO) -> int:
    """How many bytes are missing at the end of a seekable file, as far as the sizes in it tell. 0 if none are."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(12)
    end = size
    if start[:4] in (b"RIFF", b"RF64") and start[8:] == b"WAVE":
        end = _chunk_end(file, size, b"data", "<I")
    elif start[:4] == b"RIFF" and start[8:] == b"AVI ":
        length = int.from_bytes(start[4:8], "little")
        end = 8 + length if length < _UNKNOWN else size
    elif start[:4] == b"FORM" and start[8:] in (b"AIFF", b"AIFC"):
        end = _chunk_end(file, size, b"SSND", ">I")
    elif start[:4] == b"FORM" and start[8:] in (b"8SVX", b"16SV"):
        end = _chunk_end(file, size, b"BODY", ">I")
    elif start[:4] == b".snd":
        place, length = int.from_bytes(start[4:8], "big"), int.from_bytes(start[8:], "big")
        end = place + length if length < _UNKNOWN else size
    elif start[:4] == b"OggS":
        end = _ogg_end(file, size)
    elif start[:4] == b"\x1aE\xdf\xa3":
        end = _segment_end(file, size)
    elif start[4:8] in _BOXES:
        end = _box_end(file, size)
    else:
        end = end_of_parts(file, size)
    file.seek(0)
    return max(0, end - size)


def reason_of_missing(file: BinaryIO) -> str:
    """That bytes are missing at the end of a seekable file, in words; "" if none are."""
    missing = missing_bytes(file)
    return f"{missing:,} bytes are missing at its end" if missing else ""


def unread_bytes(file: BinaryIO, last: int) -> int:
    """How many bytes of a seekable file FFmpeg does not read, as they lie behind the part where it ends.

    last: where the last packet that it gives ends. The bytes are of a second recording, whose head is like the first's,
    or of this one, whose header states too little. 0 where there are none such.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(16)
    if start[:4] in (b"RIFF", b"RF64") and start[8:12] == b"WAVE":
        end = _end_of_chunks(file, size, _chunk_end(file, size, b"data", "<I"), "little")
    elif start[:4] == b"FORM" and start[8:12] in (b"AIFF", b"AIFC"):
        end = _end_of_chunks(file, size, _chunk_end(file, size, b"SSND", ">I"), "big")
    elif start[4:8] == b"ftyp":
        end = min((place for place, name, _ in _boxes(file, size) if name == b"ftyp" and place >= last), default=size)
    else:
        end = _place_of(start, file, last, size)
    file.seek(0)
    return max(0, size - end)


def _place_of(wanted: bytes, file: BinaryIO, start: int, size: int) -> int:
    """Where these bytes are found at or behind `start`; the size of the file if they are not."""
    for place in range(start, size, _PIECE):
        file.seek(place)
        if (found := file.read(_PIECE + len(wanted)).find(wanted)) >= 0:
            return place + found
    return size


def _end_of_chunks(file: BinaryIO, size: int, place: int, order: Literal["little", "big"]) -> int:
    """Where the chunks end that follow the one that ends at `place`."""
    place += place % 2
    while place + 8 <= size:
        file.seek(place)
        name, length = file.read(4), int.from_bytes(file.read(4), order)
        if name in (b"RIFF", b"RF64", b"FORM") or not name.strip().isalnum() or place + 8 + length > size + 1:
            break
        place += 8 + length + length % 2
    return place


def _chunk_end(file: BinaryIO, size: int, wanted: bytes, order: str) -> int:
    """Where the wanted chunk of a RIFF or IFF file ends; the size of the file if that is not stated."""
    place, long = 12, None
    while place + 8 <= size:
        file.seek(place)
        name, length = file.read(4), struct.unpack(order, file.read(4))[0]
        if name == b"ds64":  # of RF64: the sizes that need 64 bits, the file's and that of its data
            long = int.from_bytes(file.read(16)[8:], "little")
        if name == wanted:
            length = long if long is not None and length == 0xFFFFFFFF else length
            return place + 8 + length if long is not None or length < _UNKNOWN else size
        place += 8 + length + length % 2  # chunks begin at even places
    return size


def _ogg_end(file: BinaryIO, size: int) -> int:
    """Where the last page of an Ogg file ends."""
    first = max(0, size - _OGG_PAGE)
    file.seek(first)
    tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0:
        return size
    lengths = tail[page + 27 :]
    if len(tail) < page + 27 or len(lengths) < tail[page + 26]:
        return size + 1  # not even its head is there
    return first + page + 27 + tail[page + 26] + sum(lengths[: tail[page + 26]])


def _segment_end(file: BinaryIO, size: int) -> int:
    """Where the segment of a Matroska file ends, the element behind the head. Live recordings do not state it."""
    file.seek(4)
    length = _element_size(file)
    if length is None:
        return size
    file.seek(file.tell() + length)
    if file.read(4) != b"\x18S\x80g":
        return size
    length = _element_size(file)
    return size if length is None else file.tell() + length


def _element_size(file: BinaryIO) -> int | None:
    """The size of an EBML element; None if it is unknown, which is written as all ones."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> more)]) + file.read(more), "big")
    return None if value == (1 << 7 * (more + 1)) - 1 else value


def _box_end(file: BinaryIO, size: int) -> int:
    """Where the last of the outermost boxes of an MP4 file ends."""
    return max((end for _, _, end in _boxes(file, size)), default=size)


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes, int]]:
    """Start, name and end of each outermost box of an MP4 file, up to what is no box."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        length, name = int.from_bytes(file.read(4), "big"), file.read(4)
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        if length == 0 and name in _BOXES:  # to the end of the file
            length = size - place
        if length < 8 or name not in _BOXES:
            return
        yield place, name, place + length
        place += length
