"""What a run takes, tried out: its model is loaded, steps on a few records are taken, and nothing is kept."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from decoders.codecs.base import MediaCodec
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.media import find_media
from mmlm.data.records import RecordSet
from mmlm.training.align import Alignment, objective_of
from mmlm.training.alignment.config import AlignConfig
from mmlm.training.at_hand import RecordsAtHand
from mmlm.training.bad_log import BadLog
from mmlm.training.checkpoint import optimizer_tensors
from mmlm.training.config import CodecTrainConfig, TrainConfig, WritingTrainConfig
from mmlm.training.examples import Examples, prepare, usable_records
from mmlm.training.features import film_of
from mmlm.training.gradient import Gradient
from mmlm.training.media import MediaSource, TrainingMedia
from mmlm.training.memory import forget_peak, peak
from mmlm.training.objectives.adapters import AdaptersObjective, check_added
from mmlm.training.objectives.codes import check_writes, writing_trainer
from mmlm.training.pairs import read_pairs, texts_of
from mmlm.training.streaming import StreamedExamples, open_stream, shards_of
from mmlm.training.trainer import Trainer
from mmlm.training.unfrozen import unfrozen
from mmlm.training.ways import Ways, measured, sample_of

STEPS = 2  # that are taken, the first of which warms up


@dataclass(frozen=True)
class Rehearsal:
    """Steps that were taken: forward, backward and the optimizer.

    loss: the mean of all; None where none was finite. a_step: seconds of the last. held: bytes, at most, of the GPU or
    else of this process; None where the system does not tell. checkpoint: bytes of one. records: that they took.
    """

    records: int
    steps: int
    loss: float | None
    loss_unit: str
    a_step: float
    held: int | None
    checkpoint: int

    def __str__(self) -> str:
        loss = f"{self.loss_unit} {self.loss:.3f}" if self.loss is not None else "the loss is NOT FINITE"
        return (
            f"{self.steps} steps on {self.records:,} records: {loss}, {self.a_step:.3g} s for the second, "
            f"{_gigabytes(self.held)} held at most"
        )


@dataclass(frozen=True)
class Trial:
    """What `Rehearsal` and `Ways` tell of a whole run; the rest is arithmetic.

    cached, ahead: steps with features that lie ready, and with such that are made meanwhile; None where there is one
    way. features: what the recipe says. steps, keep: of the run, and how many checkpoints stay.
    """

    steps: int
    keep: int
    cached: Rehearsal
    ahead: Rehearsal | None = None
    ways: Ways | None = None
    features: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | ({} if self.ways is None else {"chosen": self.ways.chosen})

    def __str__(self) -> str:
        lines = {"one batch": str(self.cached)}
        if self.ways is None or self.ahead is None:
            lines["time"] = f"about {_duration(self.cached.a_step * self.steps)} for {self.steps:,} steps"
        else:
            lines |= _of_ways(self.ways, self.cached, self.ahead, self.steps)
            auto = f"; auto would take {self.ways.chosen}" if self.features != "auto" else f", {self.ways.chosen} here"
            lines["features"] = f"{self.features}{auto}"
        one = self.cached.checkpoint
        lines["checkpoints"] = f"{_gigabytes(one)} each, {self.keep} are kept and one more while it is written"
        lines["not counted"] = "held-out data, previews, and the writing of checkpoints"
        return "\n".join(f"{name + ':':<23}{value}" for name, value in lines.items())


def _of_ways(ways: Ways, cached: Rehearsal, ahead: Rehearsal, steps: int) -> dict[str, str]:
    """A line for each way, with what was measured on how many items, and what is the sum of that over all."""
    missing = ways.media - ways.stored
    known = f", {ways.stored:,} are there already" if ways.stored else ""
    in_all = [_duration(way.seconds(steps) + cached.a_step * steps) for way in (ways.cached, ways.ahead)]
    return {
        "features cached": (
            f"{in_all[0]} in all: {_duration(ways.cached.before)} for {missing:,} of {ways.media:,} media{known}, by "
            f"{ways.alone} that were encoded alone, and the steps; {_gigabytes(ways.cached.disk)} on the disk, which "
            f"has room for {_gigabytes(ways.free)}; memory as of the batch above"
        ),
        "features ahead": (
            f"{in_all[1]} in all if nothing overlaps: {ways.ahead.a_step:.3g} s more for each step, by {ways.batch} "
            f"records that were encoded together; nothing on the disk; {_gigabytes(ahead.held)} held at most"
        ),
    }


def rehearse(trainer: Trainer, records: int) -> Rehearsal:
    """Takes the first steps of a trainer. The weights are changed, nothing is written.

    records: how many the objective has, for the report.
    """
    objective, device = trainer.objective, trainer.device
    forget_peak(device)
    seconds = 0.0
    with unfrozen(objective.module, trainer.trained):
        objective.train(True)
        objective.begin()
        config = trainer.config
        gradient = Gradient(trainer.trained, config.precision, device, config.max_grad_norm, objective.partial)
        with objective.steps_in(config.precision):
            for _ in range(STEPS):
                start = time.perf_counter()
                trainer.step(gradient)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds = time.perf_counter() - start
    done, held = trainer.done, peak(device)
    loss = done.loss_sum / done.count if done.count else math.nan
    tensors = {**trainer.parameters, **objective.state(), **optimizer_tensors(trainer.optimizers, trainer.names)}
    size = sum(tensor.nbytes for tensor in tensors.values())
    return Rehearsal(records, STEPS, loss if math.isfinite(loss) else None, objective.loss_unit, seconds, held, size)


def trial_of_writing(model: MultimodalLM, data: RecordSet, config: WritingTrainConfig) -> Trial:
    """Tries out `train_writing` on twice as many records as a step takes: some recordings may be too long."""
    check_writes(model, config)
    written = tuple(record for record in data if any(texts_of(record, modality) for modality in model.codecs))
    sample = sample_of(
        RecordSet(written), 2 * config.batch_size * config.accumulation * config.pairs_per_row, config.seed
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pairs = read_pairs(model, sample, folder, config.max_seconds, progress=False, bad_limit=1.0)
        found = rehearse(writing_trainer(model, pairs, None, folder, config, progress=False), len(pairs))
    return Trial(config.steps_over(len(data)), config.keep, found)


def trial_of_alignment(model: MultimodalLM, data: RecordSet, objective: Alignment, config: AlignConfig) -> Trial:
    """Tries out `align` on as many records as a step takes; errors are those of `align` on these."""
    check_added(model)
    per_step = config.batch_size * config.accumulation
    sample = sample_of(data, per_step, config.seed)
    lenient = replace(config, bad_limit=1.0, cache=None)
    with tempfile.TemporaryDirectory() as temporary:
        made = objective_of(model, sample, objective, Path(temporary), None, lenient)
        found = rehearse(Trainer(made, config, temporary, progress=False), len(sample))
    return Trial(config.steps_over(len(data)), config.keep, found)


def trial_of_media(
    codec: MediaCodec, data: MediaSource, config: CodecTrainConfig, trainer: Callable[..., Trainer]
) -> Trial:
    """Tries out `train_codec` or `train_decoder` on as many media as a step takes.

    trainer: takes these, a folder and the config.
    """
    places = find_media(data, "image" if codec.modality == "image" else "audio")
    chosen = np.random.default_rng(config.seed).permutation(len(places))[: config.batch_size * config.accumulation]
    media = TrainingMedia.read(codec, [places[index] for index in chosen], None, config, bad_limit=1.0)
    with tempfile.TemporaryDirectory() as temporary:
        found = rehearse(trainer(media, Path(temporary), config, progress=False), len(media))
    return Trial(config.steps_over(len(places)), config.keep, found)


def trial_of_adapters(model: MultimodalLM, data: Any, images: str | None, output: Path, config: TrainConfig) -> Trial:
    """Tries out `mmlm.train` on as many records as a step takes; what is bad among them is left out.

    Errors are those of `train`, as far as these records and their media are concerned.
    """
    check_added(model)
    if config.stream:
        return _trial_of_stream(model, data, config)
    records = usable_records(model, data, config, images)
    sample = sample_of(records, config.batch_size * config.accumulation, config.seed)
    films = any(film_of(record) is not None for record in records)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lenient = TrainConfig(**{**vars(config), "bad_limit": 1.0, "shard": False})
        ways = None if films else measured(model, records, output, config)
        examples = prepare(model, sample, cache=folder, config=lenient, progress=False)
        cached = _rehearsal(model, examples, lenient, folder)
        ahead = None
        if ways is not None:
            log = BadLog(folder / "bad", 1.0, len(sample))
            with closing(StreamedExamples(model, RecordsAtHand(model, sample, config), log, STEPS)) as streamed:
                ahead = _rehearsal(model, streamed, lenient, folder)
    steps = config.steps_over(len(records))
    return Trial(steps, config.keep, cached, ahead, ways, config.features)


def _trial_of_stream(model: MultimodalLM, data: Any, config: TrainConfig) -> Trial:
    """On the largest tar of each set, of which alone the index is made: others may be empty."""
    largest = [max(shards, key=lambda shard: shard.size).url for shards in shards_of(data)]
    with tempfile.TemporaryDirectory() as temporary:
        lenient = TrainConfig(**{**vars(config), "bad_limit": 1.0, "cache": None})
        stream = open_stream(largest, Path(temporary), lenient, progress=False)
        log = BadLog(Path(temporary) / "bad", 1.0, len(stream))
        with closing(StreamedExamples(model, stream, log, STEPS)) as streamed:
            found = _rehearsal(model, streamed, lenient, Path(temporary))
    assert config.steps is not None, "a stream has steps"
    return Trial(config.steps, config.keep, found)


def _rehearsal(
    model: MultimodalLM, examples: Examples | StreamedExamples, config: TrainConfig, folder: Path
) -> Rehearsal:
    trainer = Trainer(AdaptersObjective(model, examples, None, config), config, folder, progress=False)
    return rehearse(trainer, min(len(examples), config.batch_size * config.accumulation))


def _gigabytes(count: int | None) -> str:
    return "an unknown amount of memory" if count is None else f"{count / 1e9:.3g} GB"


def _duration(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else str(timedelta(seconds=round(seconds)))
