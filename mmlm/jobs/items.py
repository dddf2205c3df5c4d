"""What lies in a shard: one item for each line of a manifest, sample of a tar or picture of a COCO captions file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mmlm.data.readers.coco import pictures_of_coco
from mmlm.data.readers.fields import existing_file, json_object
from mmlm.data.readers.forms import is_script
from mmlm.data.readers.json_file import json_of
from mmlm.data.readers.jsonl import Piece, lines_of_jsonl, pieces_of_jsonl
from mmlm.data.readers.tar import index_tar
from mmlm.data.records import BadRecord, FileSlice
from mmlm.data.streams import UnreachableError
from mmlm.jobs.remote import RemoteSlice, RemoteTar

Modality = Literal["image", "audio"]
FIELDS = {"image": ("image", "file_name"), "audio": ("audio",)}
OTHERS = "`mmlm data convert` makes tars of other formats"
WHAT = {"image": "picture", "audio": "recording"}

Source: TypeAlias = Path | RemoteTar
Place: TypeAlias = FileSlice | RemoteSlice


@dataclass(frozen=True)
class Item:
    """A picture or recording. key: its name in the output. name: of its file, whose suffix tells a film.

    questions: those that its manifest or tar asks about it.
    """

    key: str
    name: str
    place: Place
    questions: tuple[str, ...] = ()


def pieces(source: Source, size: int) -> Iterator[Piece]:
    """The items of a manifest, tar or COCO file in pieces of at most `size`. ValueError where the file is damaged.

    Of a tar and a COCO file, `Piece.start` and `before` are the number of items before it.
    """
    if isinstance(source, RemoteTar):
        total = len(source.index())
    elif source.suffix == ".jsonl":
        yield from pieces_of_jsonl(source, size)
        return
    else:
        total = len(_samples(source) if source.suffix == ".tar" else _pictures(source))
    for start in range(0, total, size):
        yield Piece(start, start, min(size, total - start))


def items(source: Source, piece: Piece, modality: Modality, suffixes: Sequence[str]) -> list[Item | BadRecord]:
    """The items of a piece, in order, and what cannot be used in its place.

    suffixes: of members of a tar that are such media ("jpg"). ValueError where the file is not as it was;
    UnreachableError where a tar at an address cannot be read.
    """
    if isinstance(source, RemoteTar) or source.suffix == ".tar":
        chosen = islice(_samples(source).items(), piece.start, piece.start + piece.count)
        found = [_of_sample(f"{source.name}/{key}", members, modality, suffixes) for key, members in chosen]
    elif source.suffix == ".jsonl":
        found = [_of_line(where, line, source.parent, modality) for where, line in lines_of_jsonl(source, piece)]
    else:
        chosen = _pictures(source)[piece.start : piece.start + piece.count]
        found = [one if isinstance(one, BadRecord) else Item(one[0], *one) for one in chosen]
    if len(found) != piece.count:
        raise ValueError(f"{source.name} has {piece.count - len(found)} items less than when the job was begun")
    return found


# One file at a time: a process works through neighbouring pieces.


@lru_cache(maxsize=1)
def _samples(tar: Source) -> Mapping[str, Mapping[str, Sequence[Place]]]:
    return tar.samples() if isinstance(tar, RemoteTar) else index_tar(tar)


@lru_cache(maxsize=1)
def _pictures(path: Path) -> list[tuple[str, FileSlice] | BadRecord]:
    try:
        return list(pictures_of_coco(path, json_of(path), path.parent))
    except ValueError as error:
        raise ValueError(f"{error}; {OTHERS}") from error


def _of_line(where: str, line: str, folder: Path, modality: Modality) -> Item | BadRecord:
    try:
        fields = json_object(line)
        name = next((fields[field] for field in FIELDS[modality] if field in fields), None)
        if not isinstance(name, str) or not name:
            if is_script(fields):
                raise ValueError("a conversation or a document: in tars (`mmlm data convert`) its one medium is found")
            named = " or ".join(f'"{field}"' for field in FIELDS[modality])
            raise ValueError(f"no {WHAT[modality]}: {named} names no file")
        where = name
        return Item(name, name, existing_file(folder, name, WHAT[modality]), _questions(fields))
    except ValueError as error:
        return BadRecord(where, str(error))


def _of_sample(
    key: str, members: Mapping[str, Sequence[Place]], modality: Modality, suffixes: Sequence[str]
) -> Item | BadRecord:
    alike = [suffix for suffix in members if suffix.rpartition(".")[2] in suffixes]  # of conversations: "0.jpg"
    own = [suffix for suffix in alike if suffix in suffixes] or alike  # beside one of a pair, "depth.png" is none
    media = [(suffix, place) for suffix in own for place in members[suffix]]
    try:
        if len(media) != 1:
            raise ValueError(f"{len(media) or 'no'} {WHAT[modality]}{'s' * (len(media) > 1)} in {', '.join(members)}")
        asked = _questions(json_object(members["json"][0].read())) if "json" in members else ()
        ((suffix, place),) = media
        return Item(key, f"{key}.{suffix}", place, asked)
    except UnreachableError:  # no fault of the sample's, which would have it for ever
        raise
    except (OSError, ValueError) as error:
        return BadRecord(key, str(error))


def _questions(fields: dict[str, Any]) -> tuple[str, ...]:
    """The texts of "question" and of "qa", with or without answers. ValueError where they are of another form."""
    qa = fields.get("qa", [])
    if not isinstance(qa, list):
        raise ValueError('"qa" is not a list')
    asked = [
        pair.get("question") if isinstance(pair, dict) else pair[0] if isinstance(pair, list) else pair for pair in qa
    ]
    asked += [fields["question"]] if "question" in fields else []
    if not all(isinstance(question, str) and question.strip() for question in asked):
        raise ValueError("a question is missing, empty or no text")
    return tuple(map(str, asked))
