"""The stage of the nano recipe that teaches it to judge what people say of the boxes of NLVR, each box told first.

The adapters learn to tell boxes, also such as are drawn anew from the items of many; the language model learns to read
a sentence into what it claims, and to decide that from boxes in words (`recipes.nano.claims`). All that nano learned
before, the writing of codes too, is in the same steps, as in `together`.
"""

from __future__ import annotations

from pathlib import Path

import mmlm
from mmlm.training import Trainer, WritingTrainConfig
from mmlm.training.objectives.codes import CodesObjective
from recipes.nano import data
from recipes.nano.box_exercises import write_boxes
from recipes.nano.settings import Recipe
from recipes.nano.stages.package import newest
from recipes.nano.stages.thoughts import learned_before, thoughts_config, thoughts_sets
from recipes.nano.stages.together import TogetherObjective, pairs_of
from recipes.nano.stages.writing import writing_data

AFTER = 1.0  # the share of the weights after the steps in what is saved
BEFORE = ("looking_more", "looking", "writing_last", "rewarded", "together", "writing_more", "writing")
EXERCISES = ("exercises", "exercises_last", "exercises_json", *["exercises_boxes"] * 3)


def make_boxes(recipe: Recipe, output: Path) -> None:
    """Boxes to tell and sentences to judge; they need the set of NLVR."""
    if (sets := data.sets_folder()) is None:
        raise FileNotFoundError("the boxes of NLVR are not here: set MMLM_DATA to the folder that holds nlvr/")
    write_boxes(output / "exercises_boxes", {"train": recipe.judging.exercises}, sets, recipe.seed + 9)
    (output / "exercises_boxes/done").touch()


def train_judging(recipe: Recipe, output: Path) -> None:
    """From the newest model."""
    part = recipe.judging
    model = mmlm.load(newest(output, "model", *BEFORE), device=recipe.device)
    config = thoughts_config(recipe, part.steps, part.learning_rate, seed=9)
    sources = [f"{output}/{folder}/train-*.tar" for folder in EXERCISES]
    training, held = thoughts_sets(model, output, [*sources, *learned_before(recipe, output)], config)
    writing = WritingTrainConfig(batch_size=part.drawings, seed=recipe.seed + 9, tune="full")
    pairs, drawn = (pairs_of(model, own, output, writing) for own in writing_data(recipe, output))
    objective = TogetherObjective(model, training, held, config, CodesObjective(model, pairs, drawn, writing), AFTER)
    Trainer(objective, config, output / "judging").fit()
