"""A reward model learns to tell the better of two answers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from mmlm.model.identity import identity_of
from mmlm.training.alignment.answers import Judged
from mmlm.training.alignment.config import AlignConfig, RewardConfig
from mmlm.training.alignment.preferences import bradley_terry
from mmlm.training.alignment.reference import trained_parameters
from mmlm.training.alignment.reward_model import RewardModel
from mmlm.training.objectives.base import Objective, Part
from mmlm.training.precision import computing
from mmlm.training.ranks import own, summed
from mmlm.training.shuffle import Shuffle


class RewardObjective(Objective):
    """The Bradley–Terry loss of pairs; the mean over them, log 2 at the start."""

    name = "reward"
    spreads = True
    partial = True
    unit = "pairs"
    loss_unit = "reward loss"

    def __init__(
        self, judge: RewardModel, judged: Judged, held: Judged | None, objective: RewardConfig, config: AlignConfig
    ) -> None:
        self.module = self.judge = judge
        self.judged, self.held, self.objective, self.config = judged, held, objective, config
        self.examples, self.per_step = judged.pairs, config.batch_size * config.accumulation
        self.order = Shuffle(self.examples, self.per_step, config.seed)

    def parameters(self) -> dict[str, Parameter]:
        trained = trained_parameters(self.judge.model, self.config.tune, self.judged.codes)
        return trained | {f"reward.{name}": parameter for name, parameter in self.judge.head.named_parameters()}

    def state(self) -> dict[str, Tensor]:
        return {}

    def changing(self) -> AbstractContextManager[None]:
        return self.judge.model.changes.changing("trained")

    def parts(self, step: int) -> list[Part]:
        mine = list(own(self.order.batch(step).tolist()))
        return [Part(len(chunk), partial(self._loss, chunk), len(chunk)) for chunk in self._chunks(mine)]

    def _chunks(self, pairs: list[int]) -> list[list[int]]:
        size = self.config.batch_size
        return [pairs[start : start + size] for start in range(0, len(pairs), size)]

    def _loss(self, chunk: list[int]) -> Tensor:
        return bradley_terry(*self._rewards(self.judged, chunk), self.objective.centre).mean()

    def _rewards(self, judged: Judged, chunk: list[int]) -> tuple[Tensor, Tensor]:
        places = [2 * pair for pair in chunk] + [2 * pair + 1 for pair in chunk]
        chosen, rejected = self.judge.rewards([judged.ready(place) for place in places], judged.codes).chunk(2)
        return chosen, rejected

    def evaluate(self) -> dict[str, float]:
        """Of held-out pairs: the loss, and how often and by how much the better answer has the higher reward."""
        if (held := self.held) is None:
            return {}
        count, total = min(self.config.held_out_examples, held.pairs), [0.0] * 3
        for chunk in self._chunks(list(own(range(count)))):
            with computing(self.config.precision, self.judge.model.device):
                chosen, rejected = (rewards.double() for rewards in self._rewards(held, chunk))
            ahead = chosen - rejected
            won = (ahead > 0).double() + (ahead == 0).double() / 2  # a new head finds all answers alike
            sums = (bradley_terry(chosen, rejected, self.objective.centre), won, ahead)
            total = [one + float(two.sum()) for one, two in zip(total, sums, strict=True)]
        names = ("held_out_loss", "held_out_accuracy", "held_out_margin")
        return {name: value / count for name, value in zip(names, summed(*total), strict=True)}

    def save(self, output: Path) -> Path:
        return self.judge.save(output / "model")

    def identity(self) -> dict[str, Any]:
        return {
            "objective": self.objective.binding(),
            "data": self.judged.digest,
            "frozen_types": [str(self.judge.model.language_model.dtype)],
            **identity_of(self.judge.model),
        }
