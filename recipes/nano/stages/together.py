"""The last stage of the nano recipe: thoughts, answers and the writing of codes, learned in the same steps.

One after the other, each costs what the other had learned: thoughts took drawing from 0.12 nats a code to 0.71, and
5,000 steps of answers at once took notes from 28 of 30 to 67 of 100 (docs/nano.md). A step here has examples of both,
and the language model's own weights learn from both. What is saved lies half-way between the weights before and after
(WiSE-FT, Wortsman et al. 2022): it keeps what the steps gained, and loses less of what they do not practise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

import mmlm
from mmlm.data import read_records
from mmlm.training import TrainConfig, Trainer, WritingTrainConfig
from mmlm.training.objectives.base import Part
from mmlm.training.objectives.codes import CodesObjective
from mmlm.training.pairs import Pairs, read_pairs
from recipes.nano.settings import Recipe
from recipes.nano.stages.package import newest
from recipes.nano.stages.thoughts import Exercises, ThoughtsObjective, last_data, thoughts_config, thoughts_sets
from recipes.nano.stages.writing import writing_data

AFTER = 0.5  # the share of the weights after the steps in what is saved


class TogetherObjective(ThoughtsObjective):
    """Cross-entropy of answers and of codes, the mean over both, in nats."""

    name = "together"

    def __init__(
        self,
        model: mmlm.MultimodalLM,
        training: Exercises,
        held: Exercises,
        config: TrainConfig,
        codes: CodesObjective,
        after: float = AFTER,
    ) -> None:
        super().__init__(model, training, held, config)
        self.codes, self.after = codes, after
        self.before = {name: weight.detach().clone() for name, weight in self.parameters().items()}
        self.partial = True  # codes are written with no media before them

    def parts(self, step: int) -> list[Part]:
        return [*super().parts(step), *self.codes.parts(step)]

    def evaluate(self) -> dict[str, float]:
        return {**super().evaluate(), **self.codes.evaluate()}

    def save(self, output: Path) -> Path:
        """The model on its way back to what it was, whose weights it then has."""
        with torch.no_grad():
            for name, weight in self.parameters().items():
                weight.copy_(self.before[name].lerp(weight, self.after))
        return super().save(output)

    def identity(self) -> dict[str, object]:
        return {**super().identity(), "codes": self.codes.pairs.digest}


def train_together(recipe: Recipe, output: Path) -> None:
    """From the model that thinks and writes."""
    part = recipe.thoughts
    model = mmlm.load(newest(output, "model", "writing_more", "writing"), device=recipe.device)
    config = thoughts_config(recipe, part.last_steps, part.last_learning_rate, seed=5)
    training, held = thoughts_sets(model, output, last_data(recipe, output), config)
    writing = WritingTrainConfig(batch_size=recipe.writing.batch_size, seed=recipe.seed + 5, tune="full")
    pairs, drawn = (pairs_of(model, own, output, writing) for own in writing_data(recipe, output))
    objective = TogetherObjective(model, training, held, config, CodesObjective(model, pairs, drawn, writing))
    Trainer(objective, config, output / "together").fit()


def pairs_of(model: mmlm.MultimodalLM, sources: Sequence[str], output: Path, config: WritingTrainConfig) -> Pairs:
    """Texts with the codes of their pictures and words."""
    return read_pairs(model, read_records(list(sources)), output / "codes", config.max_seconds)
