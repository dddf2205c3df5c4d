"""Adapters: what joins frozen encoders to a frozen language model learns from media with texts."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack, cast

import torch
from torch import Tensor
from torch.nn import Parameter

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data import BadRecordsError
from mmlm.data.records import RecordSet
from mmlm.data.sampling import ExampleStream
from mmlm.model.identity import identity_of
from mmlm.training.bad_log import BadLog
from mmlm.training.checks import check_output
from mmlm.training.config import TrainConfig, TrainSettings, with_settings
from mmlm.training.examples import Examples, prepare, split, usable_records, write_bad_records
from mmlm.training.objectives.base import Objective, Part
from mmlm.training.owner import owned
from mmlm.training.precision import computing
from mmlm.training.ranks import is_first, own, rank, summed, world
from mmlm.training.reporting import say
from mmlm.training.result import TrainResult
from mmlm.training.rows import Ready, batch_of, in_rows, positions, room_in
from mmlm.training.sharding import shard
from mmlm.training.streaming import StreamedExamples, open_stream
from mmlm.training.trainer import Trainer


def train(
    model: MultimodalLM,
    data: Any,
    *,
    output: str | os.PathLike,
    held_out: Any = None,
    images: str | os.PathLike | None = None,
    resume: bool = True,
    progress: bool = True,
    config: TrainConfig | None = None,
    **settings: Unpack[TrainSettings],
) -> TrainResult:
    """Train what was added to the frozen parts of `model`, in place, on pictures and recordings with texts about them.

    data, held_out: anything `mmlm.data.read_records` takes; images: its picture folder. With `stream=True`, data
    are tars, which may lie elsewhere, and are read while training goes on. The held-out loss, in nats per
    answer token, is measured before the first step and every `eval_every` steps.
    output: a folder that gets `model/` (for `mmlm.load`), `metrics.jsonl`, `loss.png`, `checkpoints/`, `features/` and,
    if there are any, `bad_records.jsonl`.
    resume: go on from the newest checkpoint in `output`, bit for bit on a CPU; False starts anew and removes them.
    settings: fields of TrainConfig, over those of `config`; TypeError for an unknown one.

    SIGTERM and Ctrl-C let the step finish, write a checkpoint, then end the program (SystemExit, KeyboardInterrupt).
    Errors: OSError while another run writes into `output`; ValueError for settings or data that cannot be used
    (BadRecordsError with a list, if more than `bad_limit` of the records are bad); NonFiniteLossError, with the last
    good weights saved, if training diverges.
    """
    config = with_settings(config or TrainConfig(), dict(settings))
    output = check_output(output)
    if config.cache is not None:
        check_output(config.cache, "cache")
    wrong = sorted({str(p.dtype) for _, p in model.added_parameters()} - {"torch.float32", "torch.float64"})
    if wrong:
        raise ValueError(f"the added weights are {', '.join(wrong)}: train a float32 model, with precision='bfloat16'")
    sources = [data] if held_out is None else [data, held_out]
    prepared = _streamed if config.stream else _encoded
    with owned(output, model.device), prepared(model, sources, images, output, progress, config) as examples:
        trainer = Trainer(AdaptersObjective(model, *examples.sets, config), config, output, progress=progress)
        result = trainer.fit(resume=resume)
        result = dataclasses.replace(result, bad_records=examples.bad())
    trainer.say(_summary(result))
    return result


@dataclass(frozen=True)
class _Prepared:
    """The training set and the held-out one of a run, and how many records are bad, as far as is known by then."""

    sets: tuple[Examples | StreamedExamples, Examples | None]
    bad: Callable[[], int]


@contextmanager
def _encoded(
    model: MultimodalLM, sources: Sequence[Any], images: Any, output: Path, progress: bool, config: TrainConfig
) -> Iterator[_Prepared]:
    """All media are encoded before the first step."""
    place = output / "bad_records.jsonl"
    try:
        # All that can be wrong with either set is found before the first medium is encoded.
        records = [usable_records(model, source, config, images) for source in sources]
        training, *others = [_prepare(model, usable, output, progress, config) for usable in records]
    except BadRecordsError as error:
        write_bad_records(place, error.bad)
        raise
    bad = [record for one in (training, *others) for record in one.records.bad]
    write_bad_records(place, bad)
    if bad and is_first():
        total = sum(one.records.total for one in (training, *others))
        say(f"{len(bad)} of {total} records are left out (see {place}); {bad[0].key}: {bad[0].reason}", progress)
    yield _Prepared((training, next(iter(others), None)), lambda: len(bad))


@contextmanager
def _streamed(
    model: MultimodalLM, sources: Sequence[Any], images: Any, output: Path, progress: bool, config: TrainConfig
) -> Iterator[_Prepared]:
    """What is trained on is read and encoded while training goes on; what is held out is encoded before."""
    data, *others = sources
    records = [usable_records(model, source, config, images) for source in others]
    stream = open_stream(data, output, config, progress)
    held = next((_prepare(model, usable, output, progress, config) for usable in records), None)
    name = "bad_records.jsonl" if is_first() else f"bad_records-{rank()}.jsonl"
    log = BadLog(output / name, config.bad_limit, len(stream))
    with closing(StreamedExamples(model, stream, log, cast(int, config.steps), rank(), world())) as training:
        yield _Prepared((training, held), lambda: int(summed(log.count)[0]))


def _prepare(model: MultimodalLM, records: RecordSet, output: Path, progress: bool, config: TrainConfig) -> Examples:
    return prepare(model, records, cache=config.cache or output / "features", config=config, progress=progress)


class AdaptersObjective(Objective):
    """Cross-entropy of answers, given media and prompts; the mean over answer tokens, in nats."""

    name = "adapters"
    spreads = True
    unit = "tokens"
    loss_unit = "loss (nats per answer token)"

    def __init__(
        self, model: MultimodalLM, training: Examples | StreamedExamples, held: Examples | None, config: TrainConfig
    ) -> None:
        self.module = self.model = model
        self.training, self.held, self.config = training, held, config
        self.room = room_in(model, config.row_length)
        self.examples, self.per_step = len(training), config.batch_size * config.accumulation
        self.stream = (
            None
            if isinstance(training, StreamedExamples)
            else ExampleStream(
                training.records,
                self.per_step,
                seed=config.seed,
                caption_share=config.caption_share,
                length=training.length,
                window=config.sort_window,
            )
        )
        # A share without pictures, or without recordings, does not use their resampler.
        self.partial = isinstance(training, StreamedExamples) or any(
            {modality for modality, _ in record.places} != set(model.encoders)
            or not all(text.hears for text in record.texts)
            for record in training.records
        )
        if config.shard:
            if self.per_step % world():
                raise ValueError(f"shard needs as many examples for each of {world()} processes, not {self.per_step}")
            shard(model.language_model)

    def parameters(self) -> dict[str, Parameter]:
        return dict(self.model.added_parameters())

    def state(self) -> dict:
        return {}

    def parts(self, step: int) -> list[Part]:
        training, parts = self.training, math.ceil(self.config.accumulation / world())
        if isinstance(training, StreamedExamples):
            return [self._part(ready) for ready in training.parts(step, parts)] or [Part(0, self._nothing)]
        assert self.stream is not None
        return [self._part(training.ready(chosen)) for chosen in split(own(self.stream.step(step)), parts)]

    def _nothing(self) -> Tensor:
        """The loss of a share of which no record can be used: other processes wait for its gradient."""
        return torch.stack([parameter.sum() * 0 for parameter in self.parameters().values()]).sum()

    def _part(self, ready: Sequence[Ready]) -> Part:
        batch, media = batch_of(self.model.processor, in_rows(self.model, ready, self.room))
        assert batch.labels is not None, "examples have answers"
        count = int((batch.labels[:, 1:] >= 0).sum())
        return Part(count, lambda: self.model(batch, media).loss, sum(positions(self.model, one) for one in ready))

    def evaluate(self) -> dict[str, float]:
        """Mean loss over a fixed choice of at most `held_out_examples` examples."""
        if (held := self.held) is None:
            return {}
        count = min(self.config.held_out_examples, len(held))
        chosen = ExampleStream(held.records, count, caption_share=self.config.caption_share).step(0)
        chosen.sort(key=lambda pair: held.length(*pair))
        total, tokens = 0.0, 0
        for start in range(0, count, self.config.batch_size):
            batch = chosen[start : start + self.config.batch_size]
            mine = own(batch)
            part = self._part(held.ready(mine or batch[:1]))  # a language model in parts is passed by all as often
            with computing(self.config.precision, self.model.device):
                loss = part.loss()
            if mine:
                total, tokens = total + float(loss.detach()) * part.count, tokens + part.count
        total, tokens = summed(total, tokens)
        return {"held_out_loss": total / tokens}

    def save(self, output: Path) -> Path:
        return self.model.save(output / "model")

    def identity(self) -> dict[str, Any]:
        model, training = self.model, self.training
        return {
            "objective": self.name,
            "data": training.fingerprint(),
            "frozen_types": [str(model.language_model.dtype), *map(str, training.feature_types())],
            **identity_of(model),
        }


def _summary(result: TrainResult) -> str:
    held = "" if result.held_out_loss is None else f", held out {result.held_out_loss:.3f}"
    counts = ((result.skipped, "steps skipped"), (result.bad_records, "bad records left out"))
    notes = [f"{count} {what}" for count, what in counts if count]
    first = f"trained {result.steps} steps: loss {result.loss:.3f}{held} nats per answer token"
    return "; ".join([first, *notes, f"model in {result.model}"])
