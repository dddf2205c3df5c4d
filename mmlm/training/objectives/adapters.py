"""Adapters: what joins frozen encoders to a frozen language model learns from media with texts."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.nn import Parameter

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.sampling import ExampleStream
from mmlm.model.identity import identity_of
from mmlm.prompting.processor import Batch
from mmlm.training.checks import check_output
from mmlm.training.config import TrainConfig, TrainSettings, with_settings
from mmlm.training.examples import Examples, split
from mmlm.training.objectives.base import Objective, Part
from mmlm.training.owner import owned
from mmlm.training.precision import computing
from mmlm.training.ranks import own, summed, world
from mmlm.training.resting import resting
from mmlm.training.result import TrainResult
from mmlm.training.rows import Ready, batch_of, in_rows, positions_of, room_in
from mmlm.training.sets import prepared
from mmlm.training.sharding import gathered, shard
from mmlm.training.streaming import StreamedExamples
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
    if there are any, `bad_records.jsonl`; with media encoded ahead, what is found to be bad later is in
    `bad_media.jsonl`.
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
    check_added(model)
    sources = [data] if held_out is None else [data, held_out]
    given: dict[str, Any] = dict(resume=resume, progress=progress)
    with owned(output, model.device), prepared(model, sources, images, output, config, **given) as sets:
        objective = AdaptersObjective(model, sets.training, sets.held, config)
        trainer = Trainer(objective, config, output, progress=progress)
        result = dataclasses.replace(trainer.fit(resume=resume), bad_records=sets.bad())
    trainer.say(_summary(result))
    return result


def check_added(model: MultimodalLM) -> None:
    """ValueError where what trains is of 16 bits."""
    wrong = sorted({str(p.dtype) for _, p in model.added_parameters()} - {"torch.float32", "torch.float64"})
    if wrong:
        raise ValueError(f"the added weights are {', '.join(wrong)}: train a float32 model, with precision='bfloat16'")


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
        self.sharded = config.shard
        if config.shard:
            shard(model)

    def parameters(self) -> dict[str, Parameter]:
        return dict(self.model.added_parameters())

    def steps_in(self, precision: str) -> AbstractContextManager[None]:
        rests = precision == "bfloat16"
        return resting(self.model.language_model) if rests else nullcontext()

    def state(self) -> dict:
        return {}

    def parts(self, step: int) -> list[Part]:
        training, parts = self.training, math.ceil(self.config.accumulation / world())
        if isinstance(training, StreamedExamples):
            found = [self._part(ready) for ready in training.parts(step, parts)]
        else:
            assert self.stream is not None
            found = [self._part(training.ready(chosen)) for chosen in split(own(self.stream.step(step)), parts)]
        least = parts if self.sharded else 1  # a model in parts is passed by all processes as often
        return found + [Part(0, self._nothing)] * (least - len(found))

    def _nothing(self) -> Tensor:
        """The loss of a share of which nothing is learned: other processes wait for its gradient."""
        if self.sharded:
            ids = torch.zeros(1, 2, dtype=torch.long)
            return self._loss(Batch(ids, torch.ones_like(ids), ids), [[]]) * 0
        return torch.stack([parameter.sum() * 0 for parameter in self.parameters().values()]).sum()

    def _loss(self, batch: Batch, media: Sequence[Sequence[Any]]) -> Tensor:
        loss = self.model(batch, media, logits=False).loss
        assert loss is not None, "examples have answers"
        return loss

    def _part(self, ready: Sequence[Ready]) -> Part:
        batch, media = batch_of(self.model.processor, in_rows(self.model, ready, self.room))
        assert batch.labels is not None, "examples have answers"
        count = int((batch.labels[:, 1:] >= 0).sum())
        if not count:  # documents of one token, which nothing stands before
            return Part(0, self._nothing)
        places = sum(positions_of(self.model, one) for one in ready)
        return Part(count, lambda: self._loss(batch, media), places)

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

    def saving(self) -> AbstractContextManager[None]:
        return gathered(self.model) if self.sharded else nullcontext()

    def save(self, output: Path) -> Path:
        return self.model.save(output / "model")

    def identity(self) -> dict[str, Any]:
        model, training = self.model, self.training
        streamed = isinstance(training, StreamedExamples)
        return {
            "objective": self.name,
            "data": training.fingerprint(),
            **({"files": training.contents()} if streamed else {}),
            **({"features": "ahead"} if streamed and not self.config.stream else {}),
            "frozen_types": [str(model.language_model.dtype), *training.feature_forms()],
            **identity_of(model),
        }


def _summary(result: TrainResult) -> str:
    held = "" if result.held_out_loss is None else f", held out {result.held_out_loss:.3f}"
    counts = ((result.skipped, "steps skipped"), (result.bad_records, "bad records left out"))
    notes = [f"{count} {what}" for count, what in counts if count]
    first = f"trained {result.steps} steps: loss {result.loss:.3f}{held} nats per answer token"
    return "; ".join([first, *notes, f"model in {result.model}"])
