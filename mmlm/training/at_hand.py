"""Records at hand as the steps of a stream, so that their media are encoded while training goes on."""

from __future__ import annotations

from typing import Any

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.records import FileSlice, Record, RecordSet
from mmlm.data.sampling import ExampleStream
from mmlm.data.streams.versions import contents_within
from mmlm.training.config import TrainConfig
from mmlm.training.examples import Examples
from mmlm.training.features import film_of
from mmlm.training.identity import digest

Drawn = tuple[int, int]
"""The index of a record, and that of one of its texts."""


class RecordsAtHand:
    """The same examples in the same steps as with cached features.

    ValueError for records with films, which take too long to be decoded in passing.
    """

    def __init__(self, model: MultimodalLM, records: RecordSet, config: TrainConfig) -> None:
        if (film := next((record for record in records if film_of(record) is not None), None)) is not None:
            raise ValueError(f"{film.key} is a film: films are encoded before the first step, with features='cached'")
        self.records, self.size = records, config.batch_size * config.accumulation
        self.order = ExampleStream(
            records,
            self.size,
            seed=config.seed,
            caption_share=config.caption_share,
            length=Examples(records, model.processor, model.template).length,
            window=config.sort_window,
        )

    def __len__(self) -> int:
        """The number of records."""
        return len(self.records)

    def fingerprint(self) -> str:
        """16 hex digits that change with a text, the size of a medium, and with the order. Media are not read."""
        sizes = [[_size(place) for _, place in record.places] for record in self.records]
        return digest([record.identity() for record in self.records], sizes)

    def contents(self) -> dict[str, dict[str, Any]]:
        """What tells the content of each tar and table in which media lie; see `contents_within`."""
        return contents_within(self.records)

    def step(self, index: int, rank: int = 0, world: int = 1) -> list[Drawn]:
        """What this rank of the world takes of step `index`, counted from 0."""
        return self.order.step(index)[rank::world]

    def read(self, drawn: Drawn) -> Record:
        """The record; its media lie where they lie."""
        return self.records[drawn[0]]

    def name(self, drawn: Drawn) -> str:
        """For messages."""
        return self.records[drawn[0]].key

    def text(self, drawn: Drawn, record: Record) -> int:
        """Which of the record's texts is learned at this place."""
        return drawn[1]


def _size(place: FileSlice | bytes) -> int:
    if isinstance(place, bytes):
        return len(place)
    if place.size is not None:
        return place.size
    try:
        return place.path.stat().st_size
    except OSError:  # it is a bad record when its turn comes
        return -1
