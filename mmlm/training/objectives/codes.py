"""Codes: a language model learns to write the codes of pictures and of speech for a text."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter

from decoders.codecs.checkpoint import codec_fingerprint
from decoders.files import apply_umask
from encoders.base import fingerprint
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.readers import read_records
from mmlm.prompting.parts import END_OF_CHUNK, Codes
from mmlm.prompting.processor import Batch, Example
from mmlm.training.checks import check_output
from mmlm.training.config import WritingTrainConfig
from mmlm.training.objectives.base import Objective, Part
from mmlm.training.owner import owned
from mmlm.training.pairs import Pair, Pairs, read_pairs
from mmlm.training.ranks import own, summed
from mmlm.training.resting import resting
from mmlm.training.result import TrainResult
from mmlm.training.shuffle import Shuffle, generator
from mmlm.training.trainer import Trainer

T = TypeVar("T")

HELD_OUT_BATCHES = 8  # of each medium, at most


def train_writing(
    model: MultimodalLM,
    data: Any,
    output: str | os.PathLike,
    held_out: Any = None,
    config: WritingTrainConfig | None = None,
    *,
    resume: bool = True,
    progress: bool = True,
) -> TrainResult:
    """Train the rows of codes, and what `tune` adds, in place; writes and returns `output/model`, for `mmlm.load`.

    data, held_out: anything `mmlm.data.read_records` takes. A picture with captions is drawn for one of them, a
    recording with a transcript is spoken for it, wherever the model has such a codec; ValueError where there is
    neither. Recordings longer than `max_seconds` are left out, and counted in a warning.
    `output/metrics.jsonl` gets the loss in nats per code, of training and, by medium, of what is held out.
    """
    config, output = config or WritingTrainConfig(), check_output(output)
    check_writes(model, config)
    records = [read_records(source) for source in (data, *([] if held_out is None else [held_out]))]
    with owned(output, model.device):
        read = (output / "codes", config.max_seconds, progress)
        pairs, *others = [read_pairs(model, own, *read) for own in records]
        return writing_trainer(model, pairs, next(iter(others), None), output, config, progress).fit(resume=resume)


def writing_trainer(
    model: MultimodalLM,
    pairs: Pairs,
    held: Pairs | None,
    output: Path,
    config: WritingTrainConfig,
    progress: bool = True,
) -> Trainer:
    """What `train_writing` runs, once there are codes."""
    return Trainer(CodesObjective(model, pairs, held, config), config, output, progress=progress)


def check_writes(model: MultimodalLM, config: WritingTrainConfig) -> None:
    """ValueError for a model that has nothing of what `config.tune` trains."""
    host = model.language_model
    if host.codes is None:
        raise ValueError("the model has no codecs: assemble it with codecs=mmlm.Codecs(image=..., audio=...)")
    if config.tune == "lora" and host.lora is None:
        raise ValueError("the model has no LoRA: assemble it with a lora rank above 0, or tune rows, or full")
    if config.tune == "lora" and host.lora_config.reads:
        raise ValueError("the model's LoRA acts in reading too, which writing would change: tune rows, or full")


class CodesObjective(Objective):
    """Cross-entropy of codes and their marks, given a text; the mean over them, in nats."""

    name = "writing"
    spreads = True
    unit = "codes"
    loss_unit = "loss (nats per code)"

    def __init__(self, model: MultimodalLM, pairs: Pairs, held: Pairs | None, config: WritingTrainConfig) -> None:
        self.module = self.model = model
        self.pairs, self.held, self.config = pairs, held, config
        self.examples = len(pairs)
        self.per_step = config.batch_size * config.pairs_per_row * config.accumulation
        self.order = Shuffle(self.examples, self.per_step, config.seed)

    def parameters(self) -> dict[str, Parameter]:
        host, tune = self.model.language_model, self.config.tune
        assert host.codes is not None, "train_writing checks it"
        found = {f"codes.{name}": parameter for name, parameter in host.codes.named_parameters()}
        if tune != "rows" and host.lora is not None:
            found |= {f"lora.{name}": parameter for name, parameter in host.lora.named_parameters()}
        if tune == "full":
            found |= {f"language_model.{name}": parameter for name, parameter in host.model.named_parameters()}
        return found

    def steps_in(self, precision: str) -> AbstractContextManager[None]:
        rests = precision == "bfloat16" and self.config.tune != "full"
        return resting(self.model.language_model) if rests else nullcontext()

    def state(self) -> dict[str, Tensor]:
        return {}

    def train(self, mode: bool) -> None:
        """Nothing: the language model stays in evaluation mode, without dropout, and what was added has none."""

    def parts(self, step: int) -> list[Part]:
        draw = generator(self.config.seed, 1, step)
        pairs = [self.pairs[index] for index in self.order.batch(step).tolist()]
        per_row, dropped = self.config.pairs_per_row, self.config.text_dropped
        # Each process draws for all, so that a row is the same however many there are.
        rows = [(row, self._row(row, draw, dropped)) for row in _split(pairs, per_row)]
        return [self._part(part, per_row) for part in _split(own(rows), self.config.batch_size)]

    def _part(self, written: Sequence[tuple[Sequence[Pair], Example]], per_row: int) -> Part:
        """Rows with pictures, which are long, and those without are padded apart: padding costs as much as codes."""
        rows: dict[bool, list[Example]] = {True: [], False: []}
        for row, example in written:
            rows[any(pair.modality == "image" for pair in row)].append(example)
        batches = [self._collate(group, per_row) for group in filter(None, rows.values())]
        counts = [_count(batch) for batch in batches]
        total = sum(counts)

        def loss() -> Tensor:
            losses = [
                self.model(batch, [[] for _ in batch.input_ids], codes=True, logits=False).loss for batch in batches
            ]
            return torch.stack([own * count for own, count in zip(losses, counts, strict=True)]).sum() / total

        return Part(total, loss, total)

    def _row(self, pairs: Sequence[Pair], draw: torch.Generator, text_dropped: float) -> Example:
        """Texts and their media in turn; the last medium is the answer."""
        parts: list[Any] = []
        for pair in pairs:
            if parts:
                parts += [END_OF_CHUNK]
            text = pair.texts[int(torch.randint(len(pair.texts), (1,), generator=draw))]
            dropped = text_dropped > 0 and float(torch.rand(1, generator=draw)) < text_dropped
            parts += self.model.template.writing_prompt(pair.modality, "" if dropped else text)
            parts += [Codes(pair.modality, pair.codes)]
        return self.model.processor.encode(parts[:-1], parts[-1])

    def _collate(self, rows: list[Example], per_row: int) -> Batch:
        """A batch in which every medium of a row is learned, not the last alone."""
        batch = self.model.processor.collate(rows)
        if per_row > 1:
            assert batch.labels is not None, "rows have answers"
            own = batch.input_ids >= self.model.language_model.vocabulary.code_offset
            batch.labels[own] = batch.input_ids[own]
        return batch

    def evaluate(self) -> dict[str, float]:
        """The held-out loss of each medium, over its first pairs."""
        found: dict[str, float] = {}
        size = self.config.batch_size
        for modality in sorted({pair.modality for pair in self.held or ()}):
            pairs = [pair for pair in self.held or () if pair.modality == modality]
            draw = generator(self.config.seed, 2)
            rows = [((pair,), self._row((pair,), draw, 0.0)) for pair in pairs[: HELD_OUT_BATCHES * size]]
            parts = [self._part(part, 1) for part in own(list(_split(rows, size)))]
            total, count = summed(sum(float(part.loss()) for part in parts), len(parts))
            found[f"held_out_loss_{modality}"] = total / count
        return found

    def save(self, output: Path) -> Path:
        if self.config.tune == "full":
            host, folder = self.model.language_model, output / "language_model"
            language_model: Any = host.model
            language_model.save_pretrained(folder)
            host.tokenizer.save_pretrained(folder)
            apply_umask(folder)
            host.name = str(folder.resolve())
        return self.model.save(output / "model")

    def identity(self) -> dict[str, Any]:
        host, trained = self.model.language_model, set(self.parameters().values())
        frozen = {} if self.config.tune == "full" else {"language_model": host.fingerprint()}
        added = {name: weight for name, weight in self.model.added_parameters() if weight not in trained}
        return {
            "objective": self.name,
            "data": self.pairs.digest,
            **{f"{modality}_codec": codec_fingerprint(codec) for modality, codec in self.model.codecs.items()},
            **frozen,
            "frozen_adapters": fingerprint(added),
            "layouts": repr(host.vocabulary.layouts),
            "lora": host.lora_config and dataclasses.asdict(host.lora_config),
            "template": dataclasses.asdict(self.model.template),
            "frozen_types": [str(host.dtype)],
        }


def _count(batch: Batch) -> int:
    """Positions whose next token is learned."""
    assert batch.labels is not None, "rows have answers"
    return int((batch.labels[:, 1:] >= 0).sum())


def _split(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
