"""WebDataset tars, indexed so that any member can be read alone."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from mmlm.data.readers.fields import Find, json_object, record_of
from mmlm.data.readers.forms import apart_of, is_apart, named
from mmlm.data.readers.paths import FILM_SUFFIXES, IMAGE_SUFFIXES, SOUND_SUFFIXES, packed_by
from mmlm.data.records import BadRecord, FileSlice, Record

LONGEST_HEADER = 8192  # bytes
TEXTS = ("json", "txt")  # suffixes of members that are read at once


def read_tar(path: Path) -> Iterator[Record | BadRecord]:
    """The records of a tar. Members of one key are one record."""
    for key, members in index_tar(path).items():
        where = f"{path.name} {key}"
        try:
            twice = [suffix for suffix, slices in members.items() if len(slices) > 1]
            if twice:
                raise ValueError(f"several members are named {key}.{twice[0]}")
            read = {suffix: slices[0].read() for suffix, slices in members.items() if suffix in TEXTS}
            yield record_of_members(key, {suffix: slices[0] for suffix, slices in members.items()}, read)
        except ValueError as error:
            yield BadRecord(where, str(error))


def record_of_members(key: str, members: Mapping[str, FileSlice | bytes], texts: Mapping[str, bytes]) -> Record:
    """The record of the members of one key: where they lie, or their bytes, and the bytes of the texts among them.

    Conversations and documents name their media by the suffix of a member ("0.jpg"). ValueError for no good record.
    """
    media = {suffix: modality for suffix in members if (modality := _modality(suffix)) is not None}
    fields = json_object(texts["json"]) if "json" in texts else {}
    if is_apart(fields) and not named(fields):
        fields |= {f"{own}s": [one for one, its in media.items() if its == own] for own in ("image", "audio")}
    if (found := apart_of(key, fields, _find(key, members))) is not None:
        return found
    pictures, sounds = ([suffix for suffix in media if suffix in own] for own in (IMAGE_SUFFIXES, SOUND_SUFFIXES))
    if not pictures + sounds:
        several = len(media) > 1
        found = f"{len(media)} media for one caption or question" if several else "no picture and no recording"
        raise ValueError(f"{found} (members: {', '.join(members)}; a key ends at the first dot)")
    for several, name in ((pictures, "pictures"), (sounds, "recordings")):
        if len(several) > 1:
            raise ValueError(f"{len(several)} {name} (members: {', '.join(members)})")
    if not texts:
        raise ValueError(f"no text: neither {key}.json nor {key}.txt (members: {', '.join(members)})")
    if "txt" in texts:
        # "sig": with the mark that some programs put first. What is no UTF-8 is refused with the record's other texts.
        fields["text"] = texts["txt"].decode("utf-8-sig", "surrogateescape").strip()
    if sounds and not pictures and sounds[0] in FILM_SUFFIXES and "text" in fields and "transcript" not in fields:
        raise ValueError(
            f"{key}.{sounds[0]} is a film, of which a tar gives the sound alone: if its text is what is said, put "
            f'it into {key}.json as "transcript"; to learn from its pictures, name it as "image" in a manifest (.jsonl)'
        )
    picture, sound = (members[own[0]] if own else None for own in (pictures, sounds))
    return record_of(key, picture, fields, sound)


def _modality(suffix: str) -> str | None:
    """What a member is, by the last of its suffixes; None for no medium."""
    last = suffix.rpartition(".")[2]
    return "image" if last in IMAGE_SUFFIXES else "audio" if last in SOUND_SUFFIXES else None


def _find(key: str, members: Mapping[str, FileSlice | bytes]) -> Find:
    def find(name: str, modality: str) -> FileSlice | bytes:
        if not isinstance(name, str):  # as JSON may have it
            raise ValueError(f"the name of a medium is {name!r:.80}")
        own = name.lower()
        if own not in members:  # the whole name of the member
            own = own.removeprefix(f"{os.path.basename(key)}.".lower())
        if own not in members:
            raise ValueError(f"no member {key}.{own} for {name!r:.80} (members: {', '.join(members)})")
        return members[own]

    return find


def index_tar(path: Path) -> dict[str, dict[str, list[FileSlice]]]:
    """{key: {suffix: where the members lie}}, in the order of the tar. A key is the name up to its first dot.

    ValueError where the tar is damaged, compressed or truncated.
    """
    try:
        with open(path, "rb") as file:
            changed = os.fstat(file.fileno()).st_mtime_ns
            found = index_members(file, str(path))
    except (tarfile.TarError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or not a plain tar ({error}); fetch or write it again") from error
    return {
        key: {suffix: [FileSlice(path, *place, changed) for place in places] for suffix, places in members.items()}
        for key, members in found.items()
    }


def index_members(
    file: BinaryIO, name: str, told: Callable[[bytes], object] | None = None
) -> dict[str, dict[str, list[tuple[int, int]]]]:
    """{key: {suffix: (offset, size) of each member}} of an open tar, in its order.

    Tars that were joined (`cat a.tar b.tar`) are read to the end of the file; a link stands for the member it names.
    TarError or ValueError where the tar is damaged, compressed or truncated. name: of the tar, for messages.
    told: is called with the `edges` of each file in it, which lie beside the headers that are read anyway.
    """
    index: dict[str, dict[str, list[tuple[int, int]]]] = {}
    places: dict[str, tuple[int, int]] = {}
    for member in _members(file):
        folder, own = os.path.split(member.name)
        if own.startswith(".") or not (member.isfile() or member.islnk() or member.issym()):
            continue
        if member.issparse():
            raise ValueError(f"{name}: its member {member.name} is stored with holes; write the tar without --sparse")
        if member.isfile():
            place = (member.offset_data, member.size)
            if told is not None:
                told(edges(file, *place))
        else:
            place = places.get(member.linkname if member.islnk() else os.path.join(folder, member.linkname))
        if place is None:
            raise ValueError(
                f"{name}: its member {member.name} is a link to {member.linkname}, which is not in the tar before "
                "it; write it again with the files themselves (tar --dereference --hard-dereference)"
            )
        places[member.name] = place
        stem, _, suffix = own.partition(".")
        index.setdefault(os.path.join(folder, stem), {}).setdefault(suffix.lower(), []).append(place)
    return index


def edges(file: BinaryIO, offset: int, size: int, length: int = 512) -> bytes:
    """The first and the last bytes of a part of a file: what differs when a picture or a text is another one."""
    file.seek(offset)
    first = file.read(min(length, size))
    file.seek(offset + max(0, size - length))
    return first + file.read(min(length, size))


class _Member(tarfile.TarInfo):
    """A member whose extended header is no longer than a name and some numbers need.

    The time that tarfile takes to read one grew with the square of its length until Python 3.11.10.
    """

    def _proc_pax(self, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size > LONGEST_HEADER:
            raise tarfile.ReadError(f"an extended header of {self.size:,} bytes, more than {LONGEST_HEADER:,}")
        return super()._proc_pax(tarfile_)  # pyright: ignore[reportAttributeAccessIssue]


def _members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """All members of all tars in the file. TarError where what stands between or behind them is no tar."""
    file.seek(0)
    if packed := packed_by(file.read(6)):
        raise tarfile.ReadError(f"it is compressed by {packed}, and has to be unpacked first")
    # tarfile does not notice a file that is cut between two members. Only the zeros at the end of a tar show it.
    size = file.seek(0, os.SEEK_END)
    file.seek(size - min(1024, size))
    if file.read().strip(b"\0"):
        raise tarfile.ReadError("it has no end mark, so it is truncated")
    begin = _next_block(file, 0) if size else 0  # a tar without members is zeros alone; tarfile refuses an empty file
    while begin is not None:
        file.seek(begin)
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_Member) as tar:
            yield from tar
        if tar.offset == begin:
            raise tarfile.ReadError(f"what begins at byte {begin:,} is no member")
        begin = _next_block(file, tar.offset)


def _next_block(file: BinaryIO, offset: int) -> int | None:
    """Where the first block of 512 bytes that is not zero begins, from `offset` on; None where there is none.

    At the end of a tar, and at a damaged header, tarfile stops without a word.
    """
    file.seek(offset)
    while chunk := file.read(1 << 20):
        if rest := chunk.lstrip(b"\0"):
            return offset + (len(chunk) - len(rest)) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        offset += len(chunk)
    return None
