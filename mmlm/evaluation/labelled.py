"""Media with one label each, for probes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from mmlm.data.readers.fields import json_object
from mmlm.data.readers.paths import IMAGE_SUFFIXES, SOUND_SUFFIXES, expand
from mmlm.data.readers.tar import index_tar
from mmlm.data.records import FileSlice

Modality: TypeAlias = Literal["image", "audio"]
SUFFIXES: dict[Modality, tuple[str, ...]] = {"image": IMAGE_SUFFIXES, "audio": SOUND_SUFFIXES}


@dataclass(frozen=True)
class Labelled:
    """A picture or recording, and what it is."""

    key: str
    place: FileSlice
    label: str


def read_labelled(source: str, modality: Modality) -> list[Labelled]:
    """Pictures ("image") or recordings ("audio") with labels, in their order.

    source: tars with KEY.jpg (flac, …) and KEY.json that has a "label"; or a folder with a folder for each label; or a
    pattern of these. FileNotFoundError where no file matches; ValueError where there are no such media, or one has no
    label.
    """
    found = [one for path in expand(source) for one in _of_path(path, modality)]
    if not found:
        raise ValueError(f"{source} holds no labelled {'pictures' if modality == 'image' else 'recordings'}")
    return found


def modality_of(source: str) -> Modality:
    """Whether a source of labelled media holds pictures or recordings; ValueError where it holds neither."""
    for modality in SUFFIXES:
        if any(True for path in expand(source) for _ in _places(path, modality)):
            return modality
    raise ValueError(
        f"{source} holds no pictures and no recordings: give tars, or a folder with a folder for each label"
    )


def _of_path(path: Path, modality: Modality) -> Iterator[Labelled]:
    for key, place, described in _places(path, modality):
        if isinstance(described, str):
            label = described
        else:
            fields = {} if described is None else json_object(described.read())
            label = fields.get("label")
            if isinstance(label, bool) or not isinstance(label, int | str):
                raise ValueError(f'{path}: {key} has no "label" in its JSON, a text or a number')
        yield Labelled(key, place, str(label))


def _places(path: Path, modality: Modality) -> Iterator[tuple[str, FileSlice, FileSlice | str | None]]:
    """Key and place of each medium, with where its JSON lies or the label that its folder is."""
    if path.is_dir():
        for file in sorted(path.glob("*/*")):
            hidden = file.name.startswith(".") or file.parent.name.startswith(".")  # notes and small copies of systems
            if file.suffix[1:].lower() in SUFFIXES[modality] and not hidden:
                yield f"{file.parent.name}/{file.name}", FileSlice(file), file.parent.name
    elif path.suffix == ".tar":
        for key, members in index_tar(path).items():
            own = [places[0] for suffix, places in members.items() if suffix in SUFFIXES[modality]]
            if own:
                yield key, own[0], members["json"][0] if "json" in members else None
    else:
        raise ValueError(f"{path}: labelled media are in tars, or in a folder with a folder for each label")
