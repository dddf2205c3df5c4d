"""What a source of paired data holds, and what of it cannot be used and why."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from encoders.media.image import load_image
from encoders.media.sound import open_audio
from encoders.media.video import is_video, load_video
from mmlm.data.judged import unasking
from mmlm.data.readers import read_records
from mmlm.data.readers.paths import expand
from mmlm.data.records import BadRecord, BadRecordsError, FileSlice, Record, RecordSet, RecordSource

SHOWN = 20  # bad records in the text of a report


@dataclass(frozen=True)
class DataReport:
    """Counts of a source.

    texts: how many of each kind. preferences: how many records judge an answer. characters: of a text that is learned,
    the median, the 95th percentile and the most.
    bad: the records that cannot be used; with their media decoded, those whose media cannot be as well.
    damaged: what is wrong with files that cannot be read to their end, of which nothing else is counted.
    """

    records: int
    pictures: int
    films: int
    recordings: int
    texts: dict[str, int]
    characters: tuple[int, int, int]
    bad: tuple[BadRecord, ...]
    damaged: tuple[str, ...] = ()
    preferences: int = 0

    def within(self, bad_limit: float) -> bool:
        """Whether all files are whole, there are records, and at most this share of them is bad."""
        return not self.damaged and self.records > 0 and len(self.bad) <= bad_limit * (self.records + len(self.bad))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        media = {"pictures": self.pictures, "films": self.films, "recordings": self.recordings}
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.texts.items()))
        median, most, longest = self.characters
        lines = [
            f"records:    {self.records:,} can be used, {len(self.bad):,} cannot",
            "media:      " + (", ".join(f"{count:,} {name}" for name, count in media.items() if count) or "none"),
            f"texts:      {kinds or 'none'}",
            *[f"preferences: {self.preferences:,} answers are judged"] * bool(self.preferences),
            f"characters: {median:,} of a text in the middle, {most:,} at 95%, {longest:,} of the longest",
            *(f"damaged:    {reason}" for reason in self.damaged),
            *(f"bad:        {one.key}: {one.reason}" for one in self.bad[:SHOWN]),
        ]
        return "\n".join([*lines, *[f"… and {len(self.bad) - SHOWN:,} more"] * (len(self.bad) > SHOWN)])


def check_data(
    source: RecordSource,
    *,
    images: str | Path | None = None,
    media: bool = False,
    prompts: bool = False,
    told: Callable[[int, int], object] = lambda done, total: None,
) -> DataReport:
    """Reads a source, as `read_records` does, and counts. Nothing is too bad to be counted.

    media: also decode every picture, film and recording. told: is called with the number of records that are decoded,
        and that of all. prompts: also count those as bad that cannot be prompts for rewards.
    ValueError, FileNotFoundError where none of the files can be read to its end, or one is not there.
    """
    records, damaged = _read(source, images)
    bad = _undecodable(records, told) if media else {}
    bad |= {index: why for index, own in enumerate(records) if prompts and (why := unasking(own)) is not None}
    records = records.without(bad)
    kinds = Counter(
        "film" if film_at(place) is not None else modality for record in records for modality, place in record.places
    )
    texts = [text for record in records for text in record.texts]
    return DataReport(
        len(records), kinds["image"], kinds["film"], kinds["audio"], dict(Counter(text.kind for text in texts)),
        _spread([len(text.answer) for text in texts]), records.bad, damaged,
        sum(record.rejected is not None or record.good is not None for record in records),
    )  # fmt: skip


def film_at(place: FileSlice | bytes) -> Path | None:
    """The file of a film in the place of a picture, by its suffix."""
    return place.path if isinstance(place, FileSlice) and place.whole and is_video(place.path) else None


def decode(modality: str, place: FileSlice | bytes) -> None:
    """Decodes a medium to its end. OSError or ValueError where that cannot be."""
    if modality == "image" and (film := film_at(place)) is not None:
        load_video(film)
        return
    data = place if isinstance(place, bytes) else place.read()
    if modality == "image":
        load_image(data)
        return
    with open_audio(data) as sound:
        for _ in sound.blocks:
            pass


def _read(source: RecordSource, images: str | Path | None) -> tuple[RecordSet, tuple[str, ...]]:
    """The records of a source, file by file, and why files among them cannot be read to their end."""
    good: list[Record] = []
    bad: list[BadRecord] = []
    errors: list[Exception] = []
    parts = list(_parts(source))
    for part in parts:
        try:
            found = read_records(part, images=images, bad_limit=1.0)
            good += found.records
            bad += found.bad
        except BadRecordsError as error:
            bad += error.bad
        except (ValueError, OSError) as error:
            errors.append(error)
    if errors and len(errors) == len(parts):
        raise errors[0]
    return RecordSet(tuple(good), tuple(bad)), tuple(map(str, errors))


def _parts(source: RecordSource) -> Iterator[RecordSource]:
    """The files and sets that a source stands for. FileNotFoundError where there are none."""
    if isinstance(source, str | os.PathLike):
        yield from expand(os.fspath(source))
    elif isinstance(source, list | tuple):
        for part in source:
            yield from _parts(part)
    else:
        yield source


def _undecodable(records: RecordSet, told: Callable[[int, int], object]) -> dict[int, str]:
    bad = {}
    for index, record in enumerate(records):
        told(index, len(records))
        try:
            for modality, place in record.places:
                decode(modality, place)
        except (OSError, ValueError) as error:
            bad[index] = str(error)
    return bad


def _spread(counts: Sequence[int]) -> tuple[int, int, int]:
    if not counts:
        return 0, 0, 0
    median, most = np.percentile(counts, [50, 95], method="lower")
    return int(median), int(most), max(counts)
