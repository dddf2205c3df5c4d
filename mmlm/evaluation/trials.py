"""Records to try a model on: with media of their own, with those of other records, and with none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from encoders.media.sound import load_audio
from encoders.media.video import load_video
from mmlm.data.prompts import prompt_of
from mmlm.data.records import Record, Text
from mmlm.prompting.parts import Image, Media, Part, Sound
from mmlm.tasks.rows import results_of
from mmlm.training.features import film_of
from mmlm.training.reporting import counted

if TYPE_CHECKING:
    from encoders.base import Features
    from mmlm.assembly.multimodal_lm import MultimodalLM

MEDIUM = {"image": "picture", "audio": "recording"}
PART = {"image": Image, "audio": Sound}

Encoded = Mapping[str, Sequence["Features | None"]]
"""By modality, each record's features, `[1, S, D]`; None where a record has no such medium."""


@dataclass(frozen=True)
class Asked:
    """One of the texts of record `number`."""

    number: int
    text: Text


@dataclass(frozen=True)
class Trials:
    """A model and records with one medium or more, of which that of `modality`, "image" or "audio", is exchanged.

    features: of the media of all records. seed: of the wrong media.
    TypeError for what are no records; ValueError where fewer than two records have the medium.
    """

    model: MultimodalLM
    records: Sequence[Record]
    features: Encoded
    modality: str
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        check_enough(self.records, self.modality)

    @cached_property
    def numbers(self) -> list[int]:
        """The records that have the medium and a text about it."""
        return [number for number, record in enumerate(self.records) if texts_about(record, self.modality)]

    @cached_property
    def own(self) -> dict[int, int | None]:
        """Each record beside itself."""
        return {number: number for number in self.numbers}

    @cached_property
    def wrong(self) -> dict[int, int | None]:
        """Each record beside another one, whose medium it gets."""
        return {self.numbers[a]: self.numbers[b] for a, b in enumerate(derangement(len(self.numbers), self.seed))}

    @cached_property
    def none(self) -> dict[int, int | None]:
        """Each record beside no other, for no medium."""
        return dict.fromkeys(self.numbers)

    def asked(self, *kinds: str) -> list[Asked]:
        """The texts about the medium of these kinds, or of all."""
        found = [(number, text) for number in self.numbers for text in texts_about(self.records[number], self.modality)]
        return [Asked(number, text) for number, text in found if not kinds or text.kind in kinds]

    def prompt(self, one: Asked, giver: Mapping[int, int | None]) -> list[Part]:
        """The prompt of a text, with the medium of the record that `giver` names in the place of its own."""
        media: list[Media] = []
        for name in self.records[one.number].media:
            source = giver[one.number] if name == self.modality else one.number
            if source is not None:
                media.append(PART[name](self.features[name][source]))
        return prompt_of(self.model.template, self.records[one.number], one.text, media)

    def written(self, asked: Sequence[Asked], giver: Mapping[int, int | None], options: dict[str, Any]) -> list[str]:
        """What the model writes to the prompts of these texts. options: by the names of `GenerationOptions`."""
        prompts = [self.prompt(one, giver) for one in asked]
        results = results_of(self.model.generate(prompts, batch_size=self.batch_size, **options))
        return [result.answer.strip() for result in results]


def texts_about(record: Record, modality: str) -> list[Text]:
    """The texts of a record for which a medium is needed, each once: without the words of a recording in the prompt.

    Captions are of the picture where there is one, and of the recording elsewhere.
    """
    if modality not in record.media:
        return []
    foreign = "transcript" if modality == "image" else "caption" if "image" in record.media else None
    return [text for text in record.texts if not text.reads and text.kind != foreign]


def modalities_of(records: Sequence[Record]) -> list[str]:
    """Those of "image" and "audio" that the records have texts about."""
    return [name for name in MEDIUM if any(texts_about(record, name) for record in records)]


def media_of(records: Sequence[Record]) -> list[str]:
    """Those of "image" and "audio" that the records hold."""
    return [name for name in MEDIUM if any(name in record.media for record in records)]


def check_enough(records: Sequence[Record], modality: str) -> None:
    """ValueError where fewer than two records have a text about the medium; TypeError for what are no records."""
    if not all(isinstance(record, Record) for record in records):
        raise TypeError("records are what mmlm.data.read_records gives")
    count = sum(bool(texts_about(record, modality)) for record in records)
    if count < 2:
        medium = MEDIUM[modality]
        raise ValueError(f"a wrong {medium} needs at least two records with a {medium}, got {count}")


def encoded(model: MultimodalLM, records: Sequence[Record], batch_size: int = 32) -> tuple[Encoded, dict[int, str]]:
    """Frozen features of the media of all records, and why media, by the number of their record, cannot be decoded."""
    features: dict[str, list[Features | None]] = {}
    bad: dict[int, str] = {}
    for name in media_of(records):
        own = features[name] = [None] * len(records)
        places = [number for number, record in enumerate(records) if name in record.media]
        for start in counted(range(0, len(places), batch_size), f"encoding {MEDIUM[name]}s, in batches"):
            parts: dict[int, Media] = {}
            for number in places[start : start + batch_size]:
                try:
                    parts[number] = decoded(records[number], name)
                except ValueError as error:
                    bad[number] = str(error)
            for number, found in zip(parts, model.encode_media(list(parts.values())), strict=True):
                own[number] = found
    return features, bad


def decoded(record: Record, modality: str) -> Media:
    """A medium of a record. ValueError, with the record's key, where it cannot be read or decoded."""
    film = film_of(record)
    if modality == "image" and film is None:
        return Image(record.decode())
    try:
        return Sound(load_audio(record.audio)) if modality == "audio" else Image(load_video(film))
    except (OSError, ValueError) as error:
        raise ValueError(f"the {MEDIUM[modality]} of record {record.key!r} cannot be used: {error}") from error


def derangement(count: int, seed: int) -> list[int]:
    """A permutation of `range(count)` without a fixed point: one random cycle through all of it."""
    order = np.random.default_rng(seed).permutation(count)
    wrong = np.empty(count, dtype=int)
    wrong[order] = np.roll(order, -1)
    return wrong.tolist()
