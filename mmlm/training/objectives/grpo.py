"""GRPO: a model writes several answers to a prompt, and those that earn more than their group grow likelier."""

from __future__ import annotations

import math
import time
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
from mmlm.training.alignment.config import AlignConfig, GrpoConfig
from mmlm.training.alignment.policy import aggregated, clipped, group_advantages, k3
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
class Rolled:
    """What was written to the prompts of a batch, `[P · G]` rows: ids, log-probabilities, advantages, and whether a row
    is learned from. figures: sums over rows of each of `FIGURES`."""

    ids: list[list[int]]
    old: Tensor
    reference: Tensor
    advantages: Tensor
    kept: list[bool]
    figures: list[float]


class GrpoObjective(Objective):
    """The clipped policy gradient of rewards; by the config, the mean over tokens or over answers.

    Batches of a step are written and scored one after the other; rewards are computed in another thread while the next
    batch is written. What was written is the same for any number of processes, each of which takes whole batches.
    """

    name = "grpo"
    spreads = True
    partial = True
    unit = "prompts"
    loss_unit = "policy loss"

    def __init__(
        self,
        model: MultimodalLM,
        prompts: Prompts,
        held: Prompts | None,
        reward: Reward,
        objective: GrpoConfig,
        config: AlignConfig,
    ) -> None:
        self.module = self.model = model
        self.prompts, self.held, self.reward = prompts, held, reward
        self.objective, self.config = objective, config
        self.writer = Writer(model, objective, config.max_seconds)
        self.examples, self.per_step = len(prompts), config.batch_size * config.accumulation
        if config.accumulation < world():
            raise ValueError(f"grpo: {world()} processes take whole batches: set accumulation to {world()} or more")
        self.order = Shuffle(self.examples, self.per_step, config.seed)
        self.reference = Reference(self.parameters(), self.changing) if objective.beta else None
        rows, width = self.per_step * objective.generations, self.writer.longest
        self.kept = {
            "rollouts.step": torch.tensor(-1),
            "rollouts.ids": torch.full((rows, width), -1),
            "rollouts.old": torch.zeros(rows, width),
            "rollouts.reference": torch.zeros(rows, width),
            "rollouts.advantages": torch.zeros(rows),
            "rollouts.kept": torch.zeros(rows, dtype=torch.bool),
        }
        self.sums = torch.zeros(1 + len(FIGURES), dtype=torch.float64)
        self.rolled, self.seconds = 0, 0.0

    def parameters(self) -> dict[str, Parameter]:
        return trained_parameters(self.model, self.config.tune, self.writer.codes)

    def state(self) -> dict[str, Tensor]:
        again = self.kept if self.objective.iterations > 1 else {}
        return {"figures": self.sums, **again, **(self.reference.state() if self.reference else {})}

    def begin(self) -> None:
        if self.reference is not None:
            self.reference.begin()

    def parts(self, step: int) -> list[Part]:
        turn = step // self.objective.iterations
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
                rows = self.writer.write(batch, seed, self.objective.generations)
                flat = [result for row in rows for result in row]
                shown = self.writer.shown(flat, seed)
                asked = [prompt for prompt in batch for _ in range(self.objective.generations)]
                written = [Written(p.record, p.text, result) for p, result in zip(asked, shown, strict=True)]
                judged[number] = flat, judges.submit(self.reward, written)
            for number, (flat, rewards) in judged.items():
                found[number] = self._rolled(mine[number], flat, rewards.result())
        rows = self.config.batch_size * self.objective.generations
        self.kept["rollouts.ids"].fill_(-1)
        for number, one in merged(found).items():
            place = slice(number * rows, (number + 1) * rows)
            for row, ids in zip(self.kept["rollouts.ids"][place], one.ids, strict=True):
                row[: len(ids)] = torch.tensor(ids)
            for name in ("old", "reference", "advantages"):
                self.kept[f"rollouts.{name}"][place] = getattr(one, name)
            self.kept["rollouts.kept"][place] = torch.tensor(one.kept)
            self.sums += torch.tensor([float(len(one.ids)), *one.figures], dtype=torch.float64)
        self.kept["rollouts.step"].fill_(turn)
        self.rolled += int((self.kept["rollouts.ids"] >= 0).sum())
        self.seconds += time.perf_counter() - start

    def _rolled(self, batch: list[Prompt], flat: list[GenerationResult], rewards: Sequence[float | None]) -> Rolled:
        group = self.objective.generations
        values = torch.tensor([value or 0.0 for value in rewards], dtype=torch.float64)
        if len(values) != len(flat) or not bool(values.isfinite().all()):
            raise ValueError(f"a reward is one finite number for each of {len(flat)} answers, not {list(rewards)[:8]}")
        values = values.view(-1, group)
        spread = values.std(1).repeat_interleave(group)
        asked = [prompt for prompt in batch for _ in range(group)]
        ids = [list(result.token_ids) for result in flat]
        cut = [result.finish_reason == "length" for result in flat]
        old = reference = torch.zeros(len(ids), self.writer.longest)
        if self.reference is not None or self.objective.iterations > 1:
            old = self.writer.log_probs(asked, ids).cpu()
        if self.reference is not None:
            with self.reference.acting():
                reference = self.writer.log_probs(asked, ids).cpu()
        lengths = torch.tensor([len(own) for own in ids], dtype=torch.float64)
        surprise = [-sum(result.log_probs) / len(result.log_probs) for result in flat]
        apart = k3(old, reference).double().sum(1) / lengths
        figures = [values.flatten(), spread, (spread == 0).double(), torch.tensor(surprise), lengths, torch.tensor(cut)]
        kept = [self.objective.keep_cut or not own for own in cut]
        advantages = group_advantages(values, self.objective.scale).flatten().float()
        return Rolled(ids, old, reference, advantages, kept, [float(own.double().sum()) for own in (*figures, apart)])

    def _part(self, number: int, batch: list[Prompt]) -> Part:
        group, rows = self.objective.generations, self.config.batch_size * self.objective.generations
        place = slice(number * rows, (number + 1) * rows)
        kept = {name.removeprefix("rollouts."): own[place] for name, own in self.kept.items() if own.ndim}
        mask = (kept["ids"] >= 0) & kept["kept"].unsqueeze(1)
        answers = [row[row >= 0].tolist() for row in kept["ids"]]
        asked = [prompt for prompt in batch for _ in range(group)]
        count = int(mask.sum()) if self.objective.aggregation == "tokens" else len(answers)
        return Part(count, partial(self._loss, asked, answers, kept, mask), len(batch))

    def _loss(self, asked: list[Prompt], answers: list[list[int]], kept: dict[str, Tensor], mask: Tensor) -> Tensor:
        own = self.objective
        found = self.writer.log_probs(asked, answers)
        kept = {name: value.to(found.device) for name, value in kept.items()}
        old = kept["old"] if own.iterations > 1 else found.detach()
        losses = clipped(found, old, kept["advantages"].unsqueeze(1), own.clip_low, own.clip_high)
        if own.beta:
            losses = losses + own.beta * k3(found, kept["reference"])
        return aggregated(losses, mask.to(found.device), own.aggregation, self.writer.longest)[0]

    def figures(self) -> dict[str, float]:
        """Means over what was written: reward, its spread in a group, how many groups have none, minus the mean
        log-probability of a token (what is left of the entropy), tokens of an answer, how many were cut off, and the
        distance from the reference, where there is one."""
        count, *sums = self.sums.tolist()
        found = {name: value / max(1.0, count) for name, value in zip(FIGURES, sums, strict=True)} if count else {}
        if self.reference is None:
            found.pop("kl", None)
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
            "objective": self.objective.binding(),
            "data": self.prompts.digest,
            "frozen_types": [str(self.model.language_model.dtype)],
            **identity_of(self.model),
        }
