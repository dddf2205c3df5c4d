"""JSONL manifests: one record a line."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mmlm.data.readers.fields import existing_file, in_folder, json_object, record_of
from mmlm.data.readers.forms import apart_of, is_script, script_of
from mmlm.data.readers.paths import packed_by
from mmlm.data.records import BadRecord, FileSlice, Record


def read_jsonl(path: Path, images: Path | None) -> Iterator[Record | BadRecord]:
    """The records of a manifest. Its paths start from the folder `images`, or from its own folder."""
    folder = path.parent if images is None else images
    for where, line in _lines(path):
        try:
            fields = json_object(line)
            if (apart := apart_of(str(fields.get("id", where)), fields, in_folder(folder))) is not None:
                yield apart
                continue
            picture, recording = media_of(fields, folder)
            name = fields.get("image") or fields.get("file_name") or fields.get("audio")
            yield record_of(str(name), picture, fields, recording)
        except ValueError as error:
            yield BadRecord(where, str(error))


def media_of(fields: dict[str, Any], folder: Path) -> tuple[FileSlice | None, FileSlice | None]:
    """The picture and the recording that a line names. ValueError where a field is no name, or a file is missing."""
    names = {name: fields[name] for name in ("image", "file_name", "audio") if name in fields}
    if not names:
        hint = '; a film has the place of a picture: name it as "image"' if "video" in fields else ""
        hint += '; "texts" are a document where "images" are a list beside them' if "texts" in fields else ""
        raise ValueError(f'no picture or recording: none of "image", "file_name" and "audio" names a file{hint}')
    for name, value in names.items():
        if not isinstance(value, str) or not value:
            raise ValueError(f'"{name}" is {value!r:.80}, not the name of a file; leave it out where there is none')
    picture, sound = names.get("image", names.get("file_name")), names.get("audio")
    return (
        None if picture is None else existing_file(folder, picture),
        None if sound is None else existing_file(folder, sound, "recording"),
    )


def media_of_jsonl(path: Path) -> Iterator[tuple[str, FileSlice | bytes] | BadRecord]:
    """(modality, place) of all media of each line, whether it has texts or not."""
    for where, line in _lines(path):
        try:
            fields = json_object(line)
            if is_script(fields):
                yield from script_of(where, fields, in_folder(path.parent)).places
                continue
            places = zip(("image", "audio"), media_of(fields, path.parent), strict=True)
            yield from ((modality, place) for modality, place in places if place is not None)
        except ValueError as error:
            yield BadRecord(where, str(error))


@dataclass(frozen=True)
class Piece:
    """Lines of a manifest that follow each other.

    start: where they begin, as the file's `tell` gives it. before: lines before them. count: those that are not empty.
    """

    start: int
    before: int
    count: int


def pieces_of_jsonl(path: Path, size: int) -> Iterator[Piece]:
    """The manifest in pieces of `size` lines that are not empty, the last one shorter. Each can be read alone."""
    with _opened(path) as file:
        start = before = count = 0
        for number, line in _numbered(file, path):
            count += bool(line.strip())
            if count == size:
                yield Piece(start, before, count)
                start, before, count = file.tell(), number, 0
        if count:
            yield Piece(start, before, count)


def lines_of_jsonl(path: Path, piece: Piece) -> Iterator[tuple[str, str]]:
    """("FILE:NUMBER", text) of each line of a piece that is not empty."""
    return itertools.islice(_lines(path, piece.start, piece.before), piece.count)


def _lines(path: Path, start: int = 0, before: int = 0) -> Iterator[tuple[str, str]]:
    """("FILE:NUMBER", text) of each line that is not empty, of all of the file or from a piece's beginning on."""
    with _opened(path) as file:
        file.seek(start)
        for number, line in _numbered(file, path, before):
            if line.strip():
                yield f"{path.name}:{number}", line


def _opened(path: Path) -> TextIO:
    """The file as text: UTF-8, or UTF-16 where it begins with its mark. ValueError where it is compressed."""
    with open(path, "rb") as start:
        head = start.read(6)
    if packed := packed_by(head):
        raise ValueError(f"{path} is compressed by {packed}, and has to be unpacked first")
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return open(path, encoding=encoding, errors="surrogateescape")


def _numbered(file: TextIO, path: Path, before: int = 0) -> Iterator[tuple[int, str]]:
    """The lines from where the file stands, with their numbers.

    ValueError where UTF-16 is damaged: what follows may be shifted by a byte.
    """
    number = before
    try:
        # Not `for line in file`, after which the file would not tell where it is.
        for number, line in enumerate(iter(file.readline, ""), before + 1):
            yield number, line
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged after line {number} ({error}); fetch or write it again") from error
