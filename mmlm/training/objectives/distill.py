"""Distillation: a student learns how likely a teacher finds each token of an answer."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.model.identity import identity_of
from mmlm.training.alignment.config import AlignConfig, DistillConfig
from mmlm.training.alignment.distances import jsd
from mmlm.training.alignment.lessons import Lesson, Lessons, joined, writer_of
from mmlm.training.alignment.reference import trained_parameters
from mmlm.training.alignment.scored import answer_logits
from mmlm.training.alignment.teacher import Target, distribution
from mmlm.training.objectives.base import Objective, Part
from mmlm.training.precision import computing
from mmlm.training.ranks import own, summed, world
from mmlm.training.resting import resting
from mmlm.training.shuffle import Shuffle, generator


class DistillObjective(Objective):
    """The distance of the student's distributions from the teacher's; the mean over tokens of answers, in nats.

    Answers of the data and of the teacher are spread one by one over processes; what the student writes at a step is
    written in whole batches, and is the same for any number of them.
    """

    name = "distill"
    spreads = True
    partial = True
    unit = "tokens"
    loss_unit = "distance (nats per answer token)"

    def __init__(
        self, model: MultimodalLM, lessons: Lessons, held: Lessons | None, objective: DistillConfig, config: AlignConfig
    ) -> None:
        self.module = self.model = model
        self.lessons, self.held, self.objective, self.config = lessons, held, objective, config
        self.examples, self.per_step = len(lessons), config.batch_size * config.accumulation
        self.order = Shuffle(self.examples, self.per_step, config.seed)
        self.writer = None
        if objective.on == "student":
            self.writer = writer_of(model, lessons.teacher.shared.student, objective, config)
        if self.writer is not None and config.accumulation < world():
            raise ValueError(
                f"distill on: student: {world()} processes take whole batches: set accumulation to {world()} or more"
            )

    def parameters(self) -> dict[str, Parameter]:
        return trained_parameters(self.model, self.config.tune, codes=False)

    def state(self) -> dict[str, Tensor]:
        return {}

    def steps_in(self, precision: str) -> AbstractContextManager[None]:
        return resting(self.model.language_model) if precision == "bfloat16" else nullcontext()

    def parts(self, step: int) -> list[Part]:
        chosen, size = self.order.batch(step).tolist(), self.config.batch_size
        if self.writes(step):
            numbers = own(range(self.config.accumulation))
            return [self._part(self._written(step, n, chosen[n * size :][:size]), 0.0) for n in numbers]
        mine = list(own(chosen))
        chunks = [mine[start : start + size] for start in range(0, len(mine), size)]
        return [self._part([self.lessons[index] for index in chunk], self.objective.sft) for chunk in chunks]

    def writes(self, step: int) -> bool:
        """Whether the student writes the answers of a step."""
        share = self.objective.share
        lot = generator(self.config.seed, 6, step)
        return self.writer is not None and (share == 1 or float(torch.rand((), generator=lot)) < share)

    @torch.no_grad()
    def _written(self, step: int, number: int, chunk: list[int]) -> list[Lesson]:
        """Lessons of what the student answers now."""
        assert self.writer is not None, "it writes"
        seed = generator(self.config.seed, 7, step, number).initial_seed()
        with computing(self.config.precision, self.model.device):
            rows = self.writer.write([self.lessons.prompt(index) for index in chunk], seed, 1)
        answers = [list(row[0].token_ids) for row in rows]
        return [self.lessons.answered(index, ids) for index, ids in zip(chunk, answers, strict=True)]

    def _part(self, batch: list[Lesson], sft: float) -> Part:
        count = sum(own >= 0 for lesson in batch for own in lesson.student.example.labels[1:])
        return Part(count, partial(self._loss, batch, sft), count)

    def _loss(self, batch: list[Lesson], sft: float) -> Tensor:
        far, plain, _ = self._compared(batch)
        return (far + sft * plain if sft else far).mean()

    def _compared(self, batch: list[Lesson]) -> tuple[Tensor, Tensor, Tensor]:
        """Of each token of answers `[N]`: its distance, its plain loss, and whether both find the same likeliest."""
        target = self._target(batch)
        logits, labels, _ = answer_logits(self.model, [lesson.student for lesson in batch])
        ids, temperature = self.lessons.teacher.shared.student, self.objective.temperature
        found = distribution(logits, ids, temperature)
        far = jsd(target.of(found), target.log_probs, self.objective.beta)
        return far, F.cross_entropy(logits, labels, reduction="none"), found.argmax(-1) == target.likeliest()

    def _target(self, batch: list[Lesson]) -> Target:
        known = [lesson.target for lesson in batch if lesson.target is not None]
        if len(known) == len(batch):
            return joined(known, self.model.device)
        found, _ = self.lessons.teacher.target([lesson.teacher for lesson in batch if lesson.teacher is not None])
        return joined([found], self.model.device)

    def evaluate(self) -> dict[str, float]:
        """Of the answers of held-out data, whatever is learned from: the distance, the plain loss in nats per token,
        and how often student and teacher find the same token the likeliest."""
        if (held := self.held) is None:
            return {}
        mine, size, total = list(own(range(len(held)))), self.config.batch_size, [0.0] * 4
        for start in range(0, len(mine), size):
            batch = [held[index] for index in mine[start : start + size]]
            with computing(self.config.precision, self.model.device):
                found = self._compared(batch)
            sums = (*(float(own.double().sum()) for own in found), len(found[0]))
            total = [one + two for one, two in zip(total, sums, strict=True)]
        *sums, count = summed(*total)
        names = ("held_out_loss", "held_out_nats", "held_out_agreement")
        return {name: value / count for name, value in zip(names, sums, strict=True)}

    def save(self, output: Path) -> Path:
        return self.model.save(output / "model")

    def identity(self) -> dict[str, Any]:
        return {
            "objective": self.objective.binding(),
            "teacher": self.lessons.teacher.identity,
            "data": self.lessons.digest,
            "frozen_types": [str(self.model.language_model.dtype)],
            **identity_of(self.model),
        }
