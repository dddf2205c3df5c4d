"""From records to batches: a record and one of its texts become token ids, many of them become a step's parts."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from encoders.base import Features
from mmlm.data.readers import read_records
from mmlm.data.records import BadRecord, RecordSet
from mmlm.model import MultimodalLM
from mmlm.prompt import Batch, Example, Image, Processor, PromptTemplate

from .config import TrainConfig
from .features import cached_features

REMEMBERED = 200_000  # encoded texts kept in memory, some hundred bytes each


class Examples:
    """The texts of a RecordSet as training examples: `[picture, prompt] → answer`.

    Text t of a record is its caption t, or question t − len(captions). `features` are those of each record's picture.
    """

    def __init__(
        self,
        records: RecordSet,
        processor: Processor,
        template: PromptTemplate,
        features: Sequence[Features] = (),
    ):
        self.records, self.processor, self.template, self.features = records, processor, template, features
        self.encode = lru_cache(REMEMBERED)(self._encode)

    def _encode(self, record: int, text: int) -> Example:
        entry = self.records[record]
        image = Image(entry.key)  # stands for the picture, whose features are given beside the batch
        if text < len(entry.captions):
            return self.processor.encode(self.template.caption_prompt(image), entry.captions[text])
        question, answer = entry.qa[text - len(entry.captions)]
        return self.processor.encode(self.template.question_prompt(image, question), answer)

    def length(self, record: int, text: int) -> int:
        """Tokens of an example."""
        return len(self.encode(record, text).input_ids)

    def __len__(self) -> int:
        return len(self.records)

    def collate(self, chosen: Sequence[tuple[int, int]]) -> tuple[Batch, list[list[Features]]]:
        """A batch padded to its longest row, and each row's media."""
        batch = self.processor.collate([self.encode(*pair) for pair in chosen], padding_side="right")
        return batch, [[self.features[record]] for record, _ in chosen]

    def too_long(self) -> dict[int, str]:
        """Records with a text that the language model has no room for, and how long it is.

        A token is at least a byte, so only texts with many bytes need the tokenizer.
        """
        limit = self.processor.max_length
        if limit is None:
            return {}
        room = limit - 8 - len((self.template.caption + self.template.question).encode())
        found = {}
        for index, record in enumerate(self.records):
            texts = [*record.captions, *(question + answer for question, answer in record.qa)]
            for number, text in enumerate(texts):
                if len(text.encode()) > room:
                    try:
                        self.encode(index, number)
                    except ValueError as error:
                        found[index] = str(error)
        return found


def prepare(
    model: MultimodalLM,
    data: Any,
    *,
    cache: str | os.PathLike,
    config: TrainConfig,
    images: str | os.PathLike | None = None,
    progress: bool = True,
) -> Examples:
    """Reads records, drops (and counts) those that cannot be used, and has every picture encoded."""
    records = read_records(data, images=images, bad_limit=config.bad_limit)
    too_long = Examples(records, model.processor, model.template).too_long()
    records, features = cached_features(
        records.without(too_long).check(config.bad_limit),
        model.encoders["image"],
        cache,
        bad_limit=config.bad_limit,
        progress=progress,
    )
    return Examples(records, model.processor, model.template, features)


def write_bad_records(path: Path, bad: Sequence[BadRecord]) -> None:
    """Bad records as JSON lines, or no file where there are none."""
    if not bad:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(dataclasses.asdict(entry), ensure_ascii=False) + "\n" for entry in bad]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(lines), encoding="utf-8")
    os.replace(partial, path)


def split(examples: Sequence, parts: int) -> list[Sequence]:
    """The examples of a step in so many parts."""
    size = math.ceil(len(examples) / parts)
    return [examples[start : start + size] for start in range(0, len(examples), size)]
