"""What a model writes to prompts, judged by rewards and learned from: all that GRPO and PPO have in common."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.generation.result import GenerationResult
from mmlm.model.identity import identity_of
from mmlm.training.alignment.config import AlignConfig, RolloutConfig
from mmlm.training.alignment.policy import k3
from mmlm.training.alignment.prompts import Prompts
from mmlm.training.alignment.reference import Reference, trained_parameters
from mmlm.training.alignment.rewards import Reward, Written
from mmlm.training.alignment.rollouts import Prompt, Writer
from mmlm.training.objectives.base import Objective, Part
from mmlm.training.precision import computing
from mmlm.training.ranks import merged, own, summed, world
from mmlm.training.shuffle import Shuffle, generator

FIGURES = ("reward", "reward_spread", "flat_groups", "entropy", "length", "cut", "kl")


@dataclass(frozen=True)
class Answers:
    """What was written to the prompts of a batch, in `P · G` rows: the prompt of each, its ids, and all rewards
    `[P, G]`. old, reference: log-probabilities `[P · G, longest]` by the policy that wrote, where an objective needs
    them, and by the reference, where there is one. states: the hidden states behind `old`, `[P · G, longest, D]`, where
    an objective has values."""

    asked: list[Prompt]
    ids: list[list[int]]
    rewards: Tensor
    old: Tensor
    reference: Tensor
    states: Tensor | None = None


@dataclass(frozen=True)
class Rolled:
    """Answers ready to be learned from. tokens: of each token what the objective needs, `[P · G, longest]`, by name.

    kept: whether a row is learned from. figures: sums over rows of each of `FIGURES`.
    """

    ids: list[list[int]]
    kept: list[bool]
    tokens: dict[str, Tensor]
    figures: list[float]


class RolloutObjective(Objective):
    """Batches of a step are written and scored one after the other; rewards are computed in another thread while the
    next batch is written. What was written is the same for any number of processes, each of which takes whole batches.

    tokens: the names of what `judged` finds for each token, which is kept as long as it is learned from.
    """

    spreads = True
    partial = True
    unit = "prompts"
    loss_unit = "policy loss"
    tokens: tuple[str, ...]

    def __init__(
        self,
        model: MultimodalLM,
        prompts: Prompts,
        held: Prompts | None,
        reward: Reward,
        objective: RolloutConfig,
        config: AlignConfig,
    ) -> None:
        self.module = self.model = model
        self.prompts, self.held, self.reward = prompts, held, reward
        self.rollout, self.config = objective, config
        self.writer = Writer(model, objective, config.max_seconds)
        self.examples, self.per_step = len(prompts), config.batch_size * config.accumulation
        if config.accumulation < world():
            raise ValueError(
                f"{self.name}: {world()} processes take whole batches: set accumulation to {world()} or more"
            )
        self.order = Shuffle(self.examples, self.per_step, config.seed)
        self.reference = Reference(self.policy(), self.changing) if objective.beta else None
        rows, width = self.per_step * objective.generations, self.writer.longest
        self.kept = {
            "rollouts.step": torch.tensor(-1),
            "rollouts.ids": torch.full((rows, width), -1),
            "rollouts.kept": torch.zeros(rows, dtype=torch.bool),
            **{f"rollouts.{name}": torch.zeros(rows, width) for name in self.tokens},
        }
        self.sums = torch.zeros(1 + len(FIGURES), dtype=torch.float64)
        self.rolled, self.seconds = 0, 0.0

    @abstractmethod
    def judged(self, answers: Answers) -> dict[str, Tensor]:
        """Of each token `[P · G, longest]` what the loss needs, by the names of `tokens`."""

    @abstractmethod
    def loss(self, asked: list[Prompt], answers: list[list[int]], tokens: dict[str, Tensor], mask: Tensor) -> Tensor:
        """The loss of rows, given what `judged` found for them and which of their tokens count."""

    def gathered(self, mask: Tensor) -> None:  # noqa: B027 - GRPO needs nothing
        """Called when all of a step has been judged; what is kept is of all processes. mask: which tokens count."""

    def policy(self) -> dict[str, Parameter]:
        """What trains of the model."""
        return trained_parameters(self.model, self.config.tune, self.writer.codes)

    def parameters(self) -> dict[str, Parameter]:
        return self.policy()

    def state(self) -> dict[str, Tensor]:
        again = self.kept if self.rollout.iterations > 1 else {}
        return {"figures": self.sums, **again, **(self.reference.state() if self.reference else {})}

    def begin(self) -> None:
        if self.reference is not None:
            self.reference.begin()

    def parts(self, step: int) -> list[Part]:
        turn = step // self.rollout.iterations
        chosen, size = self.order.batch(turn).tolist(), self.config.batch_size
        prompts = {number: chosen[number * size :][:size] for number in range(self.config.accumulation)}
        mine = {number: [self.prompts[index] for index in prompts[number]] for number in own(list(prompts))}
        if int(self.kept["rollouts.step"]) != turn:
            self._roll(turn, mine)
        return [self._part(number, batch) for number, batch in mine.items()]

    def _roll(self, turn: int, mine: dict[int, list[Prompt]]) -> None:
        """Has the prompts of a step answered and judged, by all processes together."""
        start, found = time.perf_counter(), {}
        judged: dict[int, tuple[list[GenerationResult], Future]] = {}
        with torch.no_grad(), computing(self.config.precision, self.model.device), ThreadPoolExecutor(1) as judges:
            for number, batch in mine.items():
                seed = generator(self.config.seed, 3, turn, number).initial_seed()
                rows = self.writer.write(batch, seed, self.rollout.generations)
                flat = [result for row in rows for result in row]
                shown = self.writer.shown(flat, seed)
                asked = [prompt for prompt in batch for _ in range(self.rollout.generations)]
                written = [Written(p.record, p.text, result) for p, result in zip(asked, shown, strict=True)]
                judged[number] = flat, judges.submit(self.reward, written)
            for number, (flat, rewards) in judged.items():
                found[number] = self._rolled(mine[number], flat, rewards.result())
        rows = self.config.batch_size * self.rollout.generations
        self.kept["rollouts.ids"].fill_(-1)
        for number, one in merged(found).items():
            place = slice(number * rows, (number + 1) * rows)
            for row, ids in zip(self.kept["rollouts.ids"][place], one.ids, strict=True):
                row[: len(ids)] = torch.tensor(ids)
            for name, values in one.tokens.items():
                self.kept[f"rollouts.{name}"][place] = values
            self.kept["rollouts.kept"][place] = torch.tensor(one.kept)
            self.sums += torch.tensor([float(len(one.ids)), *one.figures], dtype=torch.float64)
        self.gathered(self._mask(slice(None)))
        self.kept["rollouts.step"].fill_(turn)
        self.rolled += int((self.kept["rollouts.ids"] >= 0).sum())
        self.seconds += time.perf_counter() - start

    def _rolled(self, batch: list[Prompt], flat: list[GenerationResult], rewards: Sequence[float | None]) -> Rolled:
        group = self.rollout.generations
        values = torch.tensor([value or 0.0 for value in rewards], dtype=torch.float64)
        if len(values) != len(flat) or not bool(values.isfinite().all()):
            raise ValueError(f"a reward is one finite number for each of {len(flat)} answers, not {list(rewards)[:8]}")
        values = values.view(-1, group)
        spread = values.std(1, correction=min(1, group - 1)).repeat_interleave(group)
        asked = [prompt for prompt in batch for _ in range(group)]
        ids = [list(result.token_ids) for result in flat]
        cut = [result.finish_reason == "length" for result in flat]
        old = reference = torch.zeros(len(ids), self.writer.longest)
        states = None
        if "values" in self.tokens:
            old, states = self.writer.read(asked, ids)
        elif self.reference is not None or "old" in self.tokens:
            old = self.writer.log_probs(asked, ids)
        old = old.cpu()
        if self.reference is not None:
            with self.reference.acting():
                reference = self.writer.log_probs(asked, ids).cpu()
        lengths = torch.tensor([len(own) for own in ids], dtype=torch.float64)
        surprise = [-sum(result.log_probs) / len(result.log_probs) for result in flat]
        apart = k3(old, reference).double().sum(1) / lengths
        figures = [values.flatten(), spread, (spread == 0).double(), torch.tensor(surprise), lengths, torch.tensor(cut)]
        kept = [self.rollout.keep_cut or not own for own in cut]
        tokens = self.judged(Answers(asked, ids, values, old, reference, states))
        return Rolled(ids, kept, tokens, [float(own.double().sum()) for own in (*figures, apart)])

    def _mask(self, place: slice) -> Tensor:
        """Which tokens of rows are learned from `[rows, longest]`."""
        return (self.kept["rollouts.ids"][place] >= 0) & self.kept["rollouts.kept"][place].unsqueeze(1)

    def _part(self, number: int, batch: list[Prompt]) -> Part:
        group, rows = self.rollout.generations, self.config.batch_size * self.rollout.generations
        place = slice(number * rows, (number + 1) * rows)
        mask, tokens = self._mask(place), {name: self.kept[f"rollouts.{name}"][place] for name in self.tokens}
        answers = [row[row >= 0].tolist() for row in self.kept["rollouts.ids"][place]]
        asked = [prompt for prompt in batch for _ in range(group)]
        count = int(mask.sum()) if self.rollout.aggregation == "tokens" else len(answers)
        return Part(count, partial(self._loss, asked, answers, tokens, mask), len(batch))

    def _loss(self, asked: list[Prompt], answers: list[list[int]], tokens: dict[str, Tensor], mask: Tensor) -> Tensor:
        device = self.model.device
        return self.loss(asked, answers, {name: own.to(device) for name, own in tokens.items()}, mask.to(device))

    def figures(self) -> dict[str, float]:
        """Means over what was written: reward, its spread in a group, how many groups have none, minus the mean
        log-probability of a token (what is left of the entropy), tokens of an answer, how many were cut off, and the
        distance from the reference, where there is one."""
        count, *sums = self.sums.tolist()
        found = {name: value / max(1.0, count) for name, value in zip(FIGURES, sums, strict=True)} if count else {}
        left_out = (["kl"] if self.reference is None else []) + (
            ["reward_spread", "flat_groups"] if self.rollout.generations == 1 else []
        )
        found = {name: value for name, value in found.items() if name not in left_out}
        if self.seconds:
            found["rollout_tokens_per_second"] = self.rolled / self.seconds
        self.sums.zero_()
        self.rolled, self.seconds = 0, 0.0
        return found

    def evaluate(self) -> dict[str, float]:
        """The mean reward of held-out prompts: of the likeliest texts, or of one drawing or sound each."""
        if (held := self.held) is None:
            return {}
        count, size = min(self.config.held_out_examples, len(held)), self.config.batch_size
        total = 0.0
        for number in own(range(math.ceil(count / size))):
            batch = [held[index] for index in range(number * size, min(count, (number + 1) * size))]
            seed = generator(self.config.seed, 4, number).initial_seed()
            with computing(self.config.precision, self.model.device):
                rows = self.writer.write(batch, seed, 1, greedy=not self.writer.codes)
            shown = self.writer.shown([row[0] for row in rows], seed)
            written = [Written(p.record, p.text, result) for p, result in zip(batch, shown, strict=True)]
            total += sum(value or 0.0 for value in self.reward(written))
        return {"held_out_reward": summed(total)[0] / count}

    def save(self, output: Path) -> Path:
        return self.model.save(output / "model")

    def identity(self) -> dict[str, Any]:
        return {
            "objective": self.rollout.binding(),
            "data": self.prompts.digest,
            "frozen_types": [str(self.model.language_model.dtype)],
            **identity_of(self.model),
        }
