"""What a verb is given to read: files, folders, patterns, data sources, addresses, standard input; as a list of inputs.

Also where the output of each goes, so that none overwrites another's.
"""

from __future__ import annotations

import argparse
import glob
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal

from mmlm.cli.batch import Batch
from mmlm.cli.messages import complain

if TYPE_CHECKING:
    from mmlm.data.records import FileSlice
    from mmlm.jobs.remote import RemoteSlice

Kind = Literal["image", "audio"]
WHAT = {"image": "pictures", "audio": "recordings"}


@dataclass(frozen=True)
class Input:
    """One medium. name: what it is called in the output. place: where it lies, if it is a file or part of one.

    stem: the path of its output files without their suffix.
    """

    name: str
    stem: PurePath
    place: FileSlice | RemoteSlice | None = None

    def source(self) -> Any:
        """What the readers of media take: a path, bytes, an address, or standard input."""
        if self.name == "-":
            return sys.stdin.buffer
        if self.place is None:
            return self.name if "://" in self.name else Path(self.name)
        from mmlm.data.records import FileSlice

        return self.place.path if isinstance(self.place, FileSlice) and self.place.whole else self.place.read()


def check_given(names: Sequence[str], data: str | None, metavar: str) -> None:
    """ValueError unless either media are named, or a data source is."""
    if bool(names) == (data is not None):
        raise ValueError(f"give either {metavar}, one or more, or --data")


def inputs_of(
    args: argparse.Namespace, batch: Batch, names: Sequence[str], kind: Kind, data: str | None = None
) -> list[Input]:
    """The media that are named: each file, all of a folder or a pattern, and what a `data` source lists.

    What is not there is named at once, as one that could not be used.
    """
    found: list[Input] = []
    for name in names:
        found += batch.attempt(name, lambda name=name: _named(args, name, kind)) or []
    if data is not None:
        from mmlm.data.readers.paths import without_secrets

        found += batch.attempt(without_secrets(data), lambda: _listed(batch, data, kind)) or []
    return found


def labelled(names: Sequence[str], inputs: Sequence[Input]) -> bool:
    """Whether lines need the input's name before them: unless one file was given by its name."""
    return len(names) != 1 or [one.name for one in inputs] != [os.path.expanduser(name) for name in names]


def output_stems(inputs: Sequence[Input], folder: str) -> list[Path]:
    """Where each input's files go, without their suffix; ValueError where two would be the same.

    That is the file's name, or its path within the folder or pattern that was given. Files of one name that were given
    one by one keep their paths from the folder that they have in common.
    """
    stems = [one.stem for one in inputs]
    for stem, count in Counter(stems).items():
        same = [number for number, own in enumerate(stems) if own == stem]
        if count > 1 and all(inputs[number].name != "-" and "://" not in inputs[number].name for number in same):
            paths = [Path(inputs[number].name).resolve() for number in same]
            common = os.path.commonpath([path.parent for path in paths])
            for number, path in zip(same, paths, strict=True):
                stems[number] = path.relative_to(common).with_suffix("")
    first: dict[PurePath, str] = {}
    for one, stem in zip(inputs, stems, strict=True):
        if stem in first:
            raise ValueError(
                f"{first[stem]} and {one.name} would both become {Path(folder) / stem}: give each its own --output"
            )
        first[stem] = one.name
    return [Path(folder) / stem for stem in stems]


def _named(args: argparse.Namespace, name: str, kind: Kind) -> list[Input]:
    path = Path(os.path.expanduser(name))
    if name == "-":
        return [Input("-", PurePath("stdin"))]
    if "://" in name:
        return [Input(name, PurePath(PurePath(name.partition("?")[0]).stem or "address"))]
    if path.is_dir():
        return _of_folder(args, path, kind)
    if path.exists():
        return [Input(str(path), PurePath(path.stem))]
    from mmlm.data.readers.paths import expand, expand_braces

    if not glob.has_magic(name) and expand_braces(name) == [name]:
        raise FileNotFoundError(f"{path}: no such file")
    matches = [match for match in expand(name) if match.is_file()]
    if not matches:
        raise FileNotFoundError(f"{name}: only folders match; name their files, or one folder")
    fixed = _fixed_folder(path)
    return [Input(str(match), match.relative_to(fixed).with_suffix("")) for match in matches]


def _fixed_folder(pattern: Path) -> Path:
    """The folder of a pattern before its first wildcard."""
    parts = pattern.parts[:-1]
    count = next((n for n, part in enumerate(parts) if glob.has_magic(part) or "{" in part), len(parts))
    return Path(*parts[:count])


def _of_folder(args: argparse.Namespace, folder: Path, kind: Kind) -> list[Input]:
    from mmlm.data.find import files_in

    files, others = files_in(folder, suffixes_of(kind))
    rest = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
    if not files:
        raise FileNotFoundError(f"{folder}: no {WHAT[kind]} in this folder" + (f" ({rest})" if rest else ""))
    if others:
        complain(args, f"{folder}: {len(files)} {WHAT[kind]}; left out: {rest}")
    return [Input(str(file), file.relative_to(folder).with_suffix("")) for file in files]


def _listed(batch: Batch, data: str, kind: Kind) -> list[Input]:
    from mmlm.data.find import media_in
    from mmlm.data.records import BadRecord

    found = []
    for item in media_in(data, kind, suffixes_of(kind)):
        if isinstance(item, BadRecord):
            batch.fail(item.key, item.reason)
        else:
            name, place = item
            stem = PurePath(place.path.stem)
            if not place.whole:  # a member of a tar, whose name may lead anywhere: output stays below its folder
                parts = PurePath(name.removeprefix(f"{place.path}/")).with_suffix("").parts
                stem = PurePath(*(part for part in parts if part not in ("..", "/")))
            found.append(Input(name, stem, place))
    return found


def suffixes_of(kind: Kind) -> tuple[str, ...]:
    """The suffixes of files that hold such media; videos hold both."""
    from encoders.media.video import SUFFIXES
    from mmlm.data.readers.paths import IMAGE_SUFFIXES, SOUND_SUFFIXES

    return (*(IMAGE_SUFFIXES if kind == "image" else SOUND_SUFFIXES), *SUFFIXES)
