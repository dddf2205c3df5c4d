"""The stages of the nano recipe in which the adapters alone learn, last: the language model and what writes codes rest.

Of what they learned the attention to media is saved. The feed-forward layers of gated blocks act on texts without media
too, and are put back; so what is read, thought, written and drawn without a picture or a recording stays what it was,
to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
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
BEFORE = ("writing_last", "rewarded", "together", "writing_more", "writing")
DIGIT_PASSES = 20  # of fsdd, beside the three of other stages: a small set, and people say a digit in many ways
# By parts of names, the share of the weights after both stages in what is saved, as in `together`. The last two were
# chosen by the dev splits of real recordings: with more, nano heard digits no better, and other sounds worse.
AFTER = {".ff": 0.0, "resamplers.audio.": 0.3, "": 0.65}


class LookingObjective(AdaptersObjective):
    """Cross-entropy of answers, of which the resamplers and the gated blocks alone learn."""

    name = "looking"

    def parameters(self) -> dict[str, Parameter]:
        return {name: weight for name, weight in super().parameters().items() if name.startswith(ADAPTERS)}


def make_looking(recipe: Recipe, output: Path) -> None:
    """Exercises in which things are listed, and as many scenes as JSON."""
    part = recipe.looking
    write_kinds(output / "exercises_json", ("json",), part.exercises, recipe.seed + 77)
    write_kinds(output / "exercises_looking", KINDS, part.exercises, recipe.seed + 4)


def train_looking(recipe: Recipe, output: Path) -> None:
    """From the newest model: all that nano learned before, with more digits and more lists of things."""
    part = recipe.looking
    model = mmlm.load(newest(output, "model", *BEFORE), device=recipe.device)
    sources = [*exercises(output), *digits(DIGIT_PASSES), *learned_before(recipe, output)]
    fit(recipe, output, "looking", model, sources, part.steps, part.learning_rate, seed=6)


def train_looking_more(recipe: Recipe, output: Path) -> None:
    """Further, half of the examples scenes as JSON; what is saved goes part of the way back."""
    part = recipe.looking
    model = mmlm.load(output / "looking/model", device=recipe.device)
    scenes = [f"{output}/exercises_json/train-*.tar"] * 2
    sources = [*scenes, *exercises(output), *digits(DIGIT_PASSES // 2), f"{output}/settled/train-*.tar"]
    fit(recipe, output, "looking_more/steps", model, sources, part.more_steps, part.more_learning_rate, seed=8)
    go_back(model, mmlm.load(newest(output, "model", *BEFORE), device=recipe.device))
    model.save(output / "looking_more/model")


@torch.no_grad()
def go_back(model: mmlm.MultimodalLM, before: mmlm.MultimodalLM) -> None:
    """Brings a model part of the way back to the one that it went on from."""
    earlier = dict(before.added_parameters())
    for name, weight in model.added_parameters():
        weight.copy_(earlier[name].lerp(weight, next(share for part, share in AFTER.items() if part in name)))


def fit(
    recipe: Recipe,
    output: Path,
    folder: str,
    model: mmlm.MultimodalLM,
    sources: Sequence[str],
    steps: int,
    learning_rate: float,
    seed: int,
) -> None:
    config = thoughts_config(recipe, steps, learning_rate, seed)
    training, held = thoughts_sets(model, output, sources, config)
    Trainer(LookingObjective(model, training, held, config), config, output / folder).fit()


def exercises(output: Path) -> list[str]:
    return [f"{output}/{folder}/train-*.tar" for folder in ("exercises_looking", "exercises")]


def digits(passes: int) -> list[str]:
    sets = data.sets_folder()
    return [] if sets is None else [f"{sets}/fsdd/train-*.tar"] * passes
