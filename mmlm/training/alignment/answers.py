"""Judged answers, ready to be scored: texts about media, or pictures and sounds as codes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from decoders.codecs.base import MediaCodec
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.judged import worse
from mmlm.data.readers import read_records
from mmlm.data.records import Record, RecordSet
from mmlm.prompting.parts import Codes
from mmlm.training.alignment.config import AlignConfig
from mmlm.training.alignment.scored import last_answer
from mmlm.training.config import TrainConfig
from mmlm.training.examples import prepare, usable_records
from mmlm.training.identity import digest
from mmlm.training.pairs import codes_of, texts_of
from mmlm.training.rows import Ready

BETTER, WORSE = " (better)", " (worse)"  # behind the keys of the records that a pair is made into


@dataclass(frozen=True)
class Judged(Sequence[Ready]):
    """Answers to prompts, and whether each is good. digest: of texts and media, for the identity of a run.

    paired: the answers 2i and 2i + 1 are to the same prompt, and the first is better. codes: they are codes.
    """

    ready: Callable[[int], Ready]
    good: tuple[bool, ...]
    paired: bool
    codes: bool
    digest: str

    def __len__(self) -> int:
        return len(self.good)

    def __getitem__(self, index):  # noqa: ANN001, ANN204 - as Sequence has it
        return self.ready(index)

    @property
    def pairs(self) -> int:
        """How many pairs there are."""
        return len(self.good) // 2


def read_judged(
    model: MultimodalLM, data: Any, output: Path, config: AlignConfig, paired: bool, progress: bool, images: Any = None
) -> Judged:
    """The judged answers of records; their media are encoded once.

    paired: whether pairs are needed. ValueError where records are not judged, or not in that way; BadRecordsError where
    too many are bad.
    """
    records = read_records(data, images=images, bad_limit=config.bad_limit)
    pairs = check_judged(records, paired)
    cache = Path(config.cache or output)
    if pairs and any(not isinstance(record.rejected, str) for record in records):
        return _codes(model, records, cache / "codes", config, progress)
    return _texts(model, records, cache / "features", config, progress, pairs)


def check_judged(records: RecordSet, paired: bool) -> bool:
    """Whether records are pairs, rather than single answers. ValueError where one is neither, or pairs are needed."""
    pairs = all(record.rejected is not None for record in records)
    if not pairs and (paired or not all(record.good is not None for record in records)):
        wrong = next(r for r in records if r.rejected is None and (paired or r.good is None))
        needed = '"chosen" and "rejected"' if paired else '"chosen" and "rejected" in all, or "completion" and "label"'
        raise ValueError(f"record {wrong.key!r} has no preference: records need {needed}, see docs/data.md")
    return pairs


def _texts(
    model: MultimodalLM, records: RecordSet, cache: Path, config: AlignConfig, progress: bool, pairs: bool
) -> Judged:
    if pairs:
        both = ((dataclasses.replace(own, rejected=None), worse(own)) for own in records)
        named = [
            dataclasses.replace(own, key=f"{own.key} #{number}{mark}")
            for number, pair in enumerate(both)
            for own, mark in zip(pair, (BETTER, WORSE), strict=True)
        ]
        records = RecordSet(tuple(named), records.bad)
    settings = TrainConfig(bad_limit=config.bad_limit)
    usable = usable_records(model, records, settings, judged=True)
    examples = prepare(model, usable, cache=cache, config=settings, progress=progress)
    order = list(range(len(examples)))
    if pairs:  # one of which may have been too long
        places = {record.key: index for index, record in enumerate(examples.records)}
        whole = [key.removesuffix(BETTER) for key in places if key.endswith(BETTER)]
        whole = [name for name in whole if name + WORSE in places]
        order = [places[name + mark] for name in whole for mark in (BETTER, WORSE)]
    good = tuple(index % 2 == 0 if pairs else bool(examples.records[at].good) for index, at in enumerate(order))

    def ready(index: int) -> Ready:
        return last_answer(examples.ready([(order[index], 0)])[0])

    return Judged(ready, good, pairs, False, digest(examples.fingerprint(), good))


def _codes(model: MultimodalLM, records: RecordSet, cache: Path, config: AlignConfig, progress: bool) -> Judged:
    """Pairs of pictures, or of recordings, that are drawn or spoken for a text."""
    found: list[Ready] = []
    digests: list[str] = []
    modality_of = {"image": [r for r in records if r.sound is None], "audio": [r for r in records if r.sound]}
    for modality, own in modality_of.items():
        if not own:
            continue
        if modality not in model.codecs:
            raise ValueError(f"the data hold {modality} pairs, but the model has no {modality} codec")
        codec = cast(MediaCodec, model.codecs[modality])
        both = [one for record in own for one in (dataclasses.replace(record, rejected=None), worse(record))]
        codes, bad, keys = codes_of(both, codec, cache, config.max_seconds, progress)
        RecordSet(tuple(both)).without(bad).check(config.bad_limit)
        for place in range(0, len(both), 2):
            pair = codes[place : place + 2]
            if all(one.shape[-1] for one in pair):
                found += [_written(model, modality, both[place], one, codec) for one in pair]
        digests.append(digest(keys, [texts_of(record, modality) for record in both]))
    if not found:
        raise ValueError("no pair of the data can be drawn or spoken")
    return Judged(found.__getitem__, tuple(i % 2 == 0 for i in range(len(found))), True, True, digest(digests))


def _written(model: MultimodalLM, modality: str, record: Record, codes: Any, codec: MediaCodec) -> Ready:
    (text,) = texts_of(record, modality)
    whole = codes.unflatten(1, codec.grid) if codec.grid else codes
    prompt = model.template.writing_prompt(modality, text)
    return Ready(model.processor.encode(prompt, Codes(modality, whole)), [])
