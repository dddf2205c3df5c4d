"""Batches made ahead: records are read, decoded and encoded while the steps before them are computed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from encoders.base import Features, FrozenEncoder
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.ahead import Ahead
from mmlm.data.prompts import example_of
from mmlm.data.records import BadRecord, Record
from mmlm.data.streams import RecordStream, Shard, check_weights, find_shards
from mmlm.model.features import ENCODER_BATCH
from mmlm.prompting.parts import modality_of
from mmlm.prompting.processor import Example
from mmlm.training.bad_log import BadLog
from mmlm.training.config import TrainConfig
from mmlm.training.reporting import Counter
from mmlm.training.rounding import form_of, rounded
from mmlm.training.rows import Ready, positions_of

DECODERS = 4  # threads that decode media, at most


@dataclass(frozen=True)
class Step:
    """The examples of a step that can be used, and the records that cannot."""

    ready: list[Ready]
    bad: list[BadRecord]


class Steps(Protocol):
    """The records of each step: a `RecordStream`, or `RecordsAtHand`. What `step` gives is told apart by them alone."""

    size: int

    def __len__(self) -> int: ...
    def fingerprint(self) -> str: ...
    def contents(self) -> dict[str, dict[str, Any]]: ...
    def step(self, index: int, rank: int = 0, world: int = 1) -> Sequence[Any]: ...
    def read(self, drawn: Any) -> Record: ...
    def name(self, drawn: Any) -> str: ...
    def text(self, drawn: Any, record: Record) -> int: ...


class StreamedExamples:
    """Training examples that are made when they are needed, in the place of `Examples`.

    rank, world: this process takes every `world`-th record of a step, from `rank` on. steps: of the whole run; no
    record behind them is read.
    """

    def __init__(
        self, model: MultimodalLM, stream: Steps, log: BadLog, steps: int, rank: int = 0, world: int = 1
    ) -> None:
        self.model, self.stream, self.log, self.rank, self.world = model, stream, log, rank, world
        self._decoders = ThreadPoolExecutor(min(DECODERS, os.cpu_count() or 1), thread_name_prefix="decode")
        self._ahead = Ahead(self.make, steps)
        self._next: int | None = None

    def __len__(self) -> int:
        return len(self.stream)

    def parts(self, step: int, parts: int) -> list[list[Ready]]:
        """The examples of at most `parts` parts of a step; those of one part are alike long.

        Records that cannot be used are left out, and written down. BadRecordsError where they are too many; OSError,
        one line, where a shard is gone.
        """
        if step != self._next:
            self.log.begin(step)
        self._next = step + 1
        found = self._ahead(step)
        self.log.add(step, found.bad, (step + 1) * len(range(self.rank, self.stream.size, self.world)))
        ready = sorted(found.ready, key=lambda one: positions_of(self.model, one))
        size = max(1, -(-len(ready) // parts))
        return [ready[start : start + size] for start in range(0, len(ready), size)]

    def fingerprint(self) -> str:
        """16 hex digits that change with what is in the shards and with the order of records."""
        return self.stream.fingerprint()

    def contents(self) -> dict[str, dict[str, Any]]:
        """What tells the content of each tar and table that media are read from."""
        return self.stream.contents()

    def feature_forms(self) -> list[str]:
        """`form_of` each encoder, in the order of their names."""
        return [form_of(self._encoder(modality)) for modality in sorted(self.model.encoders)]

    def close(self) -> None:
        """Ends all threads."""
        self._ahead.close()
        self._decoders.shutdown(cancel_futures=True)

    def make(self, step: int) -> Step:
        """The examples of a step, made now."""
        drawn = self.stream.step(step, self.rank, self.world)
        found = list(self._decoders.map(self._decoded, drawn))
        good = [one for one in found if not isinstance(one, BadRecord)]
        bad = [one for one in found if isinstance(one, BadRecord)]
        encoded = iter(self._encoded([(modality, item) for _, _, items in good for modality, item in items]))
        ready = []
        for name, example, items in good:
            one = Ready(example, [next(encoded) for _ in items])
            if wrong := self._wrong(one):
                bad.append(BadRecord(name, wrong))
            else:
                ready.append(one)
        return Step(ready, bad)

    def _wrong(self, one: Ready) -> str:
        """What is wrong with an example whose media are encoded, or nothing."""
        if not all(bool(own.tokens.isfinite().all()) for own in one.features):
            return "its media are encoded to values that are NaN or infinite"
        limit, length = self.model.language_model.max_length, positions_of(self.model, one)
        if limit is not None and length > limit:
            return f"text and media take {length} of the language model's {limit} positions"
        return ""

    def _decoded(self, drawn: Any) -> tuple[str, Example, list[tuple[str, Tensor]]] | BadRecord:
        """The name of a record, what is learned of it, and its media as their encoders get them."""
        name = self.stream.name(drawn)
        try:
            record = self.stream.read(drawn)
        except ValueError as error:  # an OSError is of the shard, and ends the run
            return BadRecord(name, str(error))
        if record.good is False:
            return BadRecord(name, "its answer is labelled bad: train on the good ones, or align with kto")
        try:
            text = record.texts[self.stream.text(drawn, record)]
            example = example_of(self.model.processor, self.model.template, record, text)
            items = [(modality_of(part), record.places[part.source][1]) for part in example.media]
            read = [(modality, place if isinstance(place, bytes) else place.read()) for modality, place in items]
            return name, example, [(modality, self._encoder(modality).preprocess(item)) for modality, item in read]
        except (OSError, ValueError) as error:
            return BadRecord(name, str(error))

    def _encoder(self, modality: str) -> FrozenEncoder:
        encoder = self.model.encoders.get(modality)
        if encoder is None:
            raise ValueError(f"the model has no {modality} encoder")
        return cast(FrozenEncoder, encoder)

    def _encoded(self, items: Sequence[tuple[str, Tensor]]) -> list[Features]:
        """Features of each item, rounded as in a cache. Items of one modality and one shape are encoded together."""
        alike: dict[Any, list[int]] = {}
        for number, (modality, item) in enumerate(items):
            alike.setdefault((modality, item.shape), []).append(number)
        found: dict[int, Features] = {}
        with torch.no_grad():
            for (modality, _), numbers in alike.items():
                for start in range(0, len(numbers), ENCODER_BATCH):
                    chunk = numbers[start : start + ENCODER_BATCH]
                    features = self._encoder(modality).encode_items([items[number][1] for number in chunk])
                    kept = [replace(own, tokens=rounded(own.tokens)) for own in features]
                    found |= dict(zip(chunk, kept, strict=True))
        return [found[number] for number in range(len(items))]


def shards_of(data: Any, mix: Sequence[float] | None = None) -> list[list[Shard]]:
    """The shards of each set that `data` names: one, or a list, of paths, patterns and addresses.

    FileNotFoundError where there are none; ValueError for data of another kind, and for a `mix` that does not fit them.
    """
    sources = data if isinstance(data, (list, tuple)) else [data]
    if not all(isinstance(source, (str, os.PathLike)) for source in sources):
        raise ValueError("a stream is read from paths, patterns or addresses of .tar files")
    if mix is not None:
        check_weights(mix, len(sources))
    return [find_shards(source) for source in sources]


def open_stream(data: Any, output: Path, config: TrainConfig, progress: bool = True) -> RecordStream:
    """The stream of a run. Indexes of shards lie in the cache of the config, or in the output folder."""
    sets = shards_of(data, config.mix)
    folder = Path(config.cache) if config.cache is not None else output / "index"
    with Counter(sum(map(len, sets)), "indexing shards", progress) as counter:
        return RecordStream(
            sets,
            config.batch_size * config.accumulation,
            folder=folder,
            seed=config.seed,
            weights=config.mix,
            window=config.shard_window,
            caption_share=config.caption_share,
            counted=counter.update,
        )
