"""The stage of the nano recipe in which the adapters alone learn, last: the language model and what writes codes rest.

What is read, thought, written and drawn without a picture or a recording therefore stays what it was, to the last bit.
"""

from __future__ import annotations

from pathlib import Path

from torch.nn import Parameter

import mmlm
from mmlm.training import Trainer
from mmlm.training.objectives.adapters import AdaptersObjective
from recipes.nano import data
from recipes.nano.settings import Recipe
from recipes.nano.stages.package import newest
from recipes.nano.stages.thoughts import learned_before, thoughts_config, thoughts_sets, write_kinds

KINDS = ("json", "thinking", "json", "zoom", "json", "pictures")  # every one of them lists things
ADAPTERS = ("resamplers.", "fusion.")
DIGIT_PASSES = 20  # of fsdd, beside the three of other stages: a small set, and people say a digit in many ways


class LookingObjective(AdaptersObjective):
    """Cross-entropy of answers, of which the resamplers and the gated blocks alone learn."""

    name = "looking"

    def parameters(self) -> dict[str, Parameter]:
        return {name: weight for name, weight in super().parameters().items() if name.startswith(ADAPTERS)}


def make_looking(recipe: Recipe, output: Path) -> None:
    """Exercises in which things are listed."""
    write_kinds(output / "exercises_looking", KINDS, recipe.looking.exercises, recipe.seed + 4)


def train_looking(recipe: Recipe, output: Path) -> None:
    """From the newest model."""
    part = recipe.looking
    stages = ("writing_last", "rewarded", "together", "writing_more", "writing")
    model = mmlm.load(newest(output, "model", *stages), device=recipe.device)
    config = thoughts_config(recipe, part.steps, part.learning_rate, seed=6)
    training, held = thoughts_sets(model, output, looking_data(recipe, output), config)
    Trainer(LookingObjective(model, training, held, config), config, output / "looking").fit()


def looking_data(recipe: Recipe, output: Path) -> list[str]:
    """These exercises, those of all kinds, and what nano learned before, with more of the digits that people said."""
    exercises = [f"{output}/{folder}/train-*.tar" for folder in ("exercises_looking", "exercises")]
    sets = data.sets_folder()
    digits = [] if sets is None else [f"{sets}/fsdd/train-*.tar"] * DIGIT_PASSES
    return [*exercises, *digits, *learned_before(recipe, output)]
