"""What a run of adapters is trained on and measured on: encoded before the first step, or while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data import BadRecordsError
from mmlm.data.records import RecordSet
from mmlm.training.at_hand import RecordsAtHand
from mmlm.training.bad_log import BadLog
from mmlm.training.config import TrainConfig
from mmlm.training.examples import Examples, prepare, usable_records, write_bad_records
from mmlm.training.ranks import is_first, rank, summed, world
from mmlm.training.reporting import say
from mmlm.training.streaming import Steps, StreamedExamples, open_stream
from mmlm.training.ways import way_of


@dataclass(frozen=True)
class Sets:
    """The training set and the held-out one of a run, and how many records are bad, as far as is known by then."""

    training: Examples | StreamedExamples
    held: Examples | None
    bad: Callable[[], int]


@contextmanager
def prepared(
    model: MultimodalLM,
    sources: Sequence[Any],
    images: Any,
    output: Path,
    config: TrainConfig,
    *,
    resume: bool,
    progress: bool,
) -> Iterator[Sets]:
    """The sets of a run. sources: of what is trained on and, if there is any, of what is held out.

    resume: whether the run that `output` holds is gone on with; "auto" is then what it was.
    """
    with (_streamed if config.stream else _at_hand)(model, sources, images, output, config, resume, progress) as sets:
        yield sets


@contextmanager
def _streamed(
    model: MultimodalLM,
    sources: Sequence[Any],
    images: Any,
    output: Path,
    config: TrainConfig,
    resume: bool,
    progress: bool,
) -> Iterator[Sets]:
    data, *others = sources
    records = [usable_records(model, source, config, images) for source in others]
    stream = open_stream(data, output, config, progress)
    held = next((_cached(model, usable, output, config, progress) for usable in records), None)
    with _ahead(model, stream, output / "bad_records", config) as training:
        yield Sets(training, held, lambda: int(summed(training.log.count)[0]))


@contextmanager
def _at_hand(
    model: MultimodalLM,
    sources: Sequence[Any],
    images: Any,
    output: Path,
    config: TrainConfig,
    resume: bool,
    progress: bool,
) -> Iterator[Sets]:
    place = output / "bad_records.jsonl"
    try:
        # All that can be wrong with either set is found before the first medium is encoded.
        records = [usable_records(model, source, config, images) for source in sources]
        ahead = way_of(model, records[0], output, config, resume) == "ahead"
        encoded = [_cached(model, usable, output, config, progress) for usable in records[ahead:]]
    except BadRecordsError as error:
        write_bad_records(place, error.bad)
        raise
    found = [*records[:ahead], *(one.records for one in encoded)]
    bad = [record for own in found for record in own.bad]
    write_bad_records(place, bad)
    if bad and is_first():
        total = sum(own.total for own in found)
        say(f"{len(bad)} of {total} records are left out (see {place}); {bad[0].key}: {bad[0].reason}", progress)
    held = encoded[-1] if len(sources) > 1 else None
    if not ahead:
        yield Sets(encoded[0], held, lambda: len(bad))
        return
    steps = RecordsAtHand(model, records[0], config)
    with _ahead(model, steps, output / "bad_media", config) as training:
        yield Sets(training, held, lambda: len(bad) + int(summed(training.log.count)[0]))


def _cached(model: MultimodalLM, records: RecordSet, output: Path, config: TrainConfig, progress: bool) -> Examples:
    return prepare(model, records, cache=config.cache or output / "features", config=config, progress=progress)


@contextmanager
def _ahead(model: MultimodalLM, steps: Steps, log: Path, config: TrainConfig) -> Iterator[StreamedExamples]:
    """Examples that are made while training goes on. log: where this process writes bad records, but for the suffix."""
    path = log.with_name(f"{log.name}{'' if is_first() else f'-{rank()}'}.jsonl")
    count = config.steps_over(len(steps))
    with closing(
        StreamedExamples(model, steps, BadLog(path, config.bad_limit, len(steps)), count, rank(), world())
    ) as found:
        yield found
