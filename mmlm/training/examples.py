"""From records to batches: a record and one of its texts become token ids, and many of them the parts of a step."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from encoders.base import FrozenEncoder
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.prompts import example_of, markup_bytes
from mmlm.data.readers import read_records
from mmlm.data.records import BadRecord, RecordSet
from mmlm.prompting.parts import modality_of
from mmlm.prompting.processor import Example, Processor
from mmlm.prompting.templates import PromptTemplate
from mmlm.training.config import TrainConfig
from mmlm.training.features import StoredFeatures, cached_features, key_of, renumbered
from mmlm.training.identity import digest
from mmlm.training.ranks import by_first
from mmlm.training.rounding import form_of
from mmlm.training.rows import Ready

REMEMBERED = 200_000  # encoded texts kept in memory, some hundred bytes each


class Examples:
    """The texts of a RecordSet as training examples: `[picture, sound, prompt] → answer`.

    Text t of a record is its `texts[t]`. `features[modality]`, `keys[modality]` and `taken[modality]` are, by the key
    of each medium (`key_of`), its features, the hash of its bytes, and how many positions of a text it takes; 1 where
    that is not given.
    """

    def __init__(
        self,
        records: RecordSet,
        processor: Processor,
        template: PromptTemplate,
        features: Mapping[str, StoredFeatures] = MappingProxyType({}),
        keys: Mapping[str, Mapping[int, str]] = MappingProxyType({}),
        taken: Mapping[str, Mapping[int, int]] = MappingProxyType({}),
    ) -> None:
        self.records, self.processor, self.template = records, processor, template
        self.features, self.keys, self.taken = features, keys, taken
        self.encode = lru_cache(REMEMBERED)(self._encode)

    def _encode(self, record: int, text: int) -> Example:
        entry = self.records[record]
        return example_of(self.processor, self.template, entry, entry.texts[text])

    def length(self, record: int, text: int) -> int:
        """Positions of an example, those of its media included."""
        example = self.encode(record, text)
        more = self._more(record)
        return len(example.input_ids) + sum(more[part.source] for part in example.media)

    def _more(self, record: int) -> list[int]:
        """How many positions each medium of a record takes beside that of its token."""
        entry = self.records[record]
        keys = [(modality, key_of(entry, record, number)) for number, (modality, _) in enumerate(entry.places)]
        return [self.taken.get(modality, {}).get(key, 1) - 1 for modality, key in keys]

    def __len__(self) -> int:
        return len(self.records)

    def ready(self, chosen: Sequence[tuple[int, int]]) -> list[Ready]:
        """Examples (record, text) with their features."""
        found = []
        for record, text in chosen:
            example, entry = self.encode(record, text), self.records[record]
            media = example.media
            own = [self.features[modality_of(part)][key_of(entry, record, part.source)] for part in media]
            found.append(Ready(example, own))
        return found

    def fingerprint(self) -> str:
        """16 hex digits that change with a text, the bytes of a medium, the form of features, and with the order."""
        keys = [(name, sorted(own.items())) for name, own in sorted(self.keys.items())]
        return digest([record.identity() for record in self.records], keys, *self.feature_forms())

    def feature_forms(self) -> list[str]:
        """`form_of` the encoder of each modality that the records have, in the order of their names."""
        return [form_of(own.encoder) for _, own in sorted(self.features.items()) if own]

    def too_long(self) -> dict[int, str]:
        """Records with a text that is too long for the language model, and its length.

        A token is at least a byte, so only texts with many bytes need the tokenizer.
        """
        limit = self.processor.max_length
        if limit is None:
            return {}
        room = limit - 8 - len("".join(dataclasses.astuple(self.template)).encode())
        talks = any(record.messages for record in self.records)
        around = markup_bytes(self.processor.tokenizer, self.template) if talks else 0
        found = {}
        for index, record in enumerate(self.records):
            others = len(record.places) + sum(self._more(index)) + around * len(record.messages)
            for number, text in enumerate(record.texts):
                words = (text.answer, text.question or "", record.transcript or "")
                if len("".join(words).encode()) + others > room:
                    try:
                        if (length := self.length(index, number)) > limit:
                            raise ValueError(f"text and media take {length} of the language model's {limit} positions")
                    except ValueError as error:
                        found[index] = str(error)
        return found


def usable_records(
    model: MultimodalLM,
    data: Any,
    config: TrainConfig,
    images: str | os.PathLike | None = None,
    *,
    judged: bool = False,
) -> RecordSet:
    """Records that the model can be trained on, as far as this is known before media are encoded.

    judged: bad answers are wanted as well. ValueError where there are such, or records hold media that the model has no
    encoder for; BadRecordsError where too many are bad.
    """
    records = read_records(data, images=images, bad_limit=config.bad_limit)
    for name, sources in (("image", "pictures"), ("audio", "recordings")):
        used = any(own == name for record in records for own, _ in record.places)
        if used and name not in model.encoders:
            raise ValueError(f"the data hold {sources}, but the model has no {name} encoder: assemble it with one")
    if not judged and (bad := next((record for record in records if record.good is False), None)) is not None:
        raise ValueError(f"the answer of record {bad.key!r} is labelled bad: train on the good ones, or align with kto")
    too_long = Examples(records, model.processor, model.template).too_long()
    return records.without(too_long).check(config.bad_limit)


def prepare(
    model: MultimodalLM,
    records: RecordSet,
    *,
    cache: str | os.PathLike,
    config: TrainConfig,
    progress: bool = True,
) -> Examples:
    """Has every picture and recording encoded, and drops (and counts) records whose media cannot be decoded."""
    encoded = {
        name: cached_features(
            records, cast(FrozenEncoder, encoder), Path(cache), bad_limit=config.bad_limit, progress=progress
        )
        for name, encoder in model.encoders.items()
    }
    bad = {index: reason for own in encoded.values() for index, reason in own.bad.items()}
    taken = {
        name: {index: model.media_positions(name, own.features.tokens(index)) for index in own.features}
        for name, own in encoded.items()
    }
    bad |= Examples(records, model.processor, model.template, taken=taken).too_long()
    kept = [index for index in range(len(records)) if index not in bad]
    features = {name: own.features.renumbered(kept) for name, own in encoded.items()}
    keys = {name: renumbered(own.keys, kept) for name, own in encoded.items()}
    taken = {name: renumbered(own, kept) for name, own in taken.items()}
    records = records.without(dict(sorted(bad.items()))).check(config.bad_limit)
    return Examples(records, model.processor, model.template, features, keys, taken)


def write_bad_records(path: Path, bad: Sequence[BadRecord]) -> None:
    """Bad records as JSON lines, or no file where there are none; the first process writes them."""
    by_first(lambda: _write_bad_records(path, bad))


def _write_bad_records(path: Path, bad: Sequence[BadRecord]) -> None:
    if not bad:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(dataclasses.asdict(entry), ensure_ascii=False) + "\n" for entry in bad]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")  # a name may be no Unicode
    os.replace(partial, path)


def split(examples: Sequence, parts: int) -> list[Sequence]:
    """The examples of a step in `parts` parts, of about one size."""
    size = math.ceil(len(examples) / parts)
    return [examples[start : start + size] for start in range(0, len(examples), size)]
