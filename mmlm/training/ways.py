"""The two ways to have the features of frozen encoders, measured: all before the first step, or ahead of each."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from encoders.base import FrozenEncoder
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.cache import TensorCache, count_stored
from mmlm.data.records import FileSlice, RecordSet
from mmlm.training.at_hand import RecordsAtHand
from mmlm.training.bad_log import BadLog
from mmlm.training.checkpoint import latest_checkpoint
from mmlm.training.config import TrainConfig
from mmlm.training.features import Room, encode_medium, film_of, folder_of, read_medium
from mmlm.training.ranks import by_first, world
from mmlm.training.streaming import StreamedExamples

SAMPLED = 9  # media of each modality that are encoded alone, the first of which warms up


@dataclass(frozen=True)
class Way:
    """What a way takes. before: seconds before the first step; a_step: seconds more for each; disk: bytes."""

    before: float
    a_step: float
    disk: int

    def seconds(self, steps: int) -> float:
        """What it adds to the steps of a run."""
        return self.before + self.a_step * steps


@dataclass(frozen=True)
class Ways:
    """Both ways to have the features of the training set, from what a few of its records take.

    media: of the training set, each once. stored: how many the cache has already. alone: how many were encoded alone,
    as the cache has them, and batch: of how many examples one step was encoded, as they are ahead. free: bytes of the
    disk. steps: of the run.
    """

    cached: Way
    ahead: Way
    media: int
    stored: int
    alone: int
    batch: int
    free: int
    steps: int

    @property
    def chosen(self) -> str:
        """What "auto" takes: the cache where the disk has room for it and it takes no longer."""
        sooner = self.cached.seconds(self.steps) <= self.ahead.seconds(self.steps)
        return "cached" if self.cached.disk < self.free and sooner else "ahead"


def way_of(model: MultimodalLM, records: RecordSet, output: Path, config: TrainConfig, resume: bool) -> str:
    """ "cached" or "ahead": as the config says or, for "auto", as the run began that is resumed, or as is measured."""
    if config.features != "auto":
        return config.features
    checkpoint = latest_checkpoint(output / "checkpoints") if resume else None
    if checkpoint is not None:
        return checkpoint.state["identity"].get("features", "cached")
    if any(film_of(record) is not None for record in records):
        return "cached"
    return by_first(lambda: measured(model, records, output, config).chosen)


def measured(model: MultimodalLM, records: RecordSet, output: Path, config: TrainConfig) -> Ways:
    """Encodes a few records in both ways. Nothing is written into the output folder or the cache."""
    places: dict[str, dict[FileSlice | bytes, None]] = {modality: {} for modality in model.encoders}
    for record in records:
        for modality, place in record.places:
            places[modality][place] = None
    cache = Path(config.cache or output / "features")
    sample = sample_of(records, config.batch_size * config.accumulation, config.seed)
    before, disk, alone, stored = 0.0, 0.0, 0, Counter[str]()
    with tempfile.TemporaryDirectory() as temporary:
        a_step = _ahead(model, sample, Path(temporary), config)
        for modality, encoder in model.encoders.items():
            own = list(places[modality])
            if not own:
                continue
            stored[modality] = min(len(own), count_stored(folder_of(cast(FrozenEncoder, encoder), cache)))
            chosen = np.random.default_rng(config.seed).permutation(len(own))[:SAMPLED]
            kept = TensorCache(Path(temporary) / modality)
            seconds, size, count = _alone(cast(FrozenEncoder, encoder), [own[index] for index in chosen], kept)
            missing = len(own) - stored[modality]
            before, disk, alone = before + seconds * missing / world(), disk + size * missing, alone + count
    media = sum(map(len, places.values()))
    steps = config.steps_over(len(records))
    ways = Way(before, 0.0, round(disk)), Way(0.0, a_step, 0)
    return Ways(*ways, media, stored.total(), alone, len(sample), _free(cache), steps)


def sample_of(records: RecordSet, count: int, seed: int) -> RecordSet:
    """At most `count` of the records, drawn by the seed."""
    chosen = np.random.default_rng(seed).permutation(len(records))[:count]
    return RecordSet(tuple(records[index] for index in chosen))


def _ahead(model: MultimodalLM, sample: RecordSet, folder: Path, config: TrainConfig) -> float:
    """Seconds in which this process has its examples of a step ready, the second time."""
    log = BadLog(folder / "bad", 1.0, len(sample))
    with closing(StreamedExamples(model, RecordsAtHand(model, sample, config), log, 0, 0, world())) as examples:
        examples.make(0)
        start = time.perf_counter()
        examples.make(1)
        return time.perf_counter() - start


def _alone(encoder: FrozenEncoder, places: list[FileSlice | bytes], cache: TensorCache) -> tuple[float, float, int]:
    """Mean seconds and bytes of a medium, and of how many; those that cannot be read take time and no bytes."""
    taken = []
    for place in places:
        start = time.perf_counter()
        try:
            source, key = read_medium(place, encoder)
            encode_medium(cache, Room(cache.folder, 0), encoder, key, source)
        except (OSError, ValueError):
            pass  # the run says what is wrong with it
        taken.append(time.perf_counter() - start)
    start = time.perf_counter()
    cache.flush()
    written = (time.perf_counter() - start) / len(places)
    warm = taken[1:] or taken
    sizes = sum(file.stat().st_size for file in cache.folder.glob("*.safetensors"))
    return math.fsum(warm) / len(warm) + written, sizes / len(places), len(places)


def _free(folder: Path) -> int:
    """Bytes that the disk has room for where the folder is, or will be."""
    return shutil.disk_usage(next(place for place in (folder, *folder.resolve().parents) if place.exists())).free
