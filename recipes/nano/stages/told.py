"""The stage of the nano recipe that teaches it to think before it writes a scene as JSON: first a list, then the JSON.

The list of a thought was right in 6 of 9 scenes whose JSON, written at once, was wrong. Low-rank adapters of the whole
language model learn it beside exercises of all kinds and what nano learned before; what they add goes into its weights,
and is taken from those that write codes (`added_in`), so that drawings and words stay what they were.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

import mmlm
from mmlm.assembly import extended
from mmlm.training import Trainer
from mmlm.training.objectives.adapters import AdaptersObjective
from recipes.nano.rewards import LORA
from recipes.nano.settings import Recipe
from recipes.nano.stages.adapters import picture_data
from recipes.nano.stages.package import newest
from recipes.nano.stages.rewarded import added_in
from recipes.nano.stages.thoughts import save_rounded, thoughts_config, thoughts_sets, write_kinds


class LowRankObjective(AdaptersObjective):
    """Cross-entropy of answers, in which the low-rank adapters of the language model learn alone."""

    name = "low-rank adapters"

    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: weight for name, weight in super().parameters().items() if ".lora." in name}


def make_scenes_to_tell(recipe: Recipe, output: Path) -> None:
    """Scenes to be told as JSON, most of them after a thought."""
    write_kinds(output / "exercises_told", ("json",), recipe.thoughts.told_exercises, recipe.seed + 7)


def train_told(recipe: Recipe, output: Path) -> None:
    """From the model that thinks, answers and draws."""
    part = recipe.thoughts
    before = mmlm.load(newest(output, "model", "writing_last", "rewarded", "writing"), device=recipe.device)
    taught = extended(before, lora=LORA, seed=recipe.seed)
    config = thoughts_config(recipe, part.told_steps, part.told_learning_rate, seed=6)
    folders = ("exercises", "exercises_told")
    sources = [*[f"{output}/{name}/train-*.tar" for name in folders], *picture_data(output, "settled")[0]]
    training, held = thoughts_sets(taught, output, sources, config)
    Trainer(LowRankObjective(taught, training, held, config), config, output / "told/lora").fit()
    save_rounded(added_in(before, taught), output / "told")
