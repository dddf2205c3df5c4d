"""Where media lie, with their names: in folders, tars and manifests, whether they have texts or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from encoders.files import check_regular
from mmlm.data.readers.jsonl import media_of_jsonl
from mmlm.data.readers.paths import expand
from mmlm.data.readers.read import read_path
from mmlm.data.readers.tar import index_tar
from mmlm.data.records import BadRecord, FileSlice


def files_in(folder: Path, suffixes: Sequence[str]) -> tuple[list[Path], Counter[str]]:
    """The files below a folder that end in one of the suffixes ("png"), sorted, and how many of each other kind.

    Hidden files are of another kind: systems keep notes and small copies in them.
    """
    found, others = [], Counter[str]()
    for path in sorted(path for path in folder.rglob("*") if not path.is_dir()):
        if not path.is_file():  # a link that leads nowhere, a pipe
            others["no file"] += 1
        elif any(part.startswith(".") for part in path.relative_to(folder).parts):
            others["hidden"] += 1
        elif path.suffix[1:].lower() in suffixes:
            found.append(path)
        else:
            others[path.suffix.lower() or path.name] += 1
    return found, others


def media_in(
    source: str, modality: Literal["image", "audio"], suffixes: Sequence[str]
) -> Iterator[tuple[str, FileSlice] | BadRecord]:
    """(name, place) of each picture or recording of a data source, and what of it cannot be used.

    source: what `read_records` reads, or a pattern of it. suffixes: of the members of tars that are taken.
    In JSONL and tars no texts are needed.
    FileNotFoundError where no file matches; ValueError where a file is damaged or of another format.
    """
    for path in sources_in(source):
        if path.suffix == ".tar":
            for key, members in index_tar(path).items():
                for suffix, places in members.items():
                    if suffix.rpartition(".")[2] in suffixes:
                        yield from ((f"{path}/{key}.{suffix}", place) for place in places)
        elif path.suffix == ".jsonl":
            yield from _of_manifest(path, modality)
        else:
            yield from _of_records(path, modality)


def sources_in(source: str) -> Iterator[Path]:
    """The files that a data source stands for, in its order; of a folder, its metadata.jsonl.

    FileNotFoundError where no file matches; ValueError for a folder without one, and for a pipe or device.
    """
    for path in expand(source):
        if path.is_dir():
            path /= "metadata.jsonl"
            if not path.is_file():
                raise ValueError(f"{path.parent} holds no {path.name}: give the folder itself, not as data")
        check_regular(path)
        yield path


def _of_manifest(path: Path, modality: str) -> Iterator[tuple[str, FileSlice] | BadRecord]:
    for found in media_of_jsonl(path):
        if isinstance(found, BadRecord):
            yield found
        elif found[0] == modality and isinstance(found[1], FileSlice):
            yield str(found[1].path), found[1]


def _of_records(path: Path, modality: str) -> Iterator[tuple[str, FileSlice] | BadRecord]:
    for record in read_path(path):
        if isinstance(record, BadRecord):
            yield record
            continue
        for own, place in record.places:
            if own == modality and isinstance(place, FileSlice):
                yield (str(place.path) if place.whole else f"{path}/{record.key}"), place
