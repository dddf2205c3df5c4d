"""Scenes: the pictures that nano learns from."""

from __future__ import annotations

from pathlib import Path

from recipes.nano import data
from recipes.nano.settings import Recipe


def draw_scenes(recipe: Recipe, output: Path) -> None:
    counts = {split: getattr(recipe.scenes, split) for split in data.SPLITS}
    data.write_scenes(output / "scenes", counts, recipe.seed)
    counts = {"train": recipe.scenes.train, "dev": recipe.scenes.dev}
    data.write_scenes(output / "settled", counts, recipe.seed, settled=True)
    (output / "scenes/done").touch()


def draw_neatly(recipe: Recipe, output: Path) -> None:
    counts = {"train": recipe.scenes.neat, "dev": recipe.scenes.dev}
    data.write_scenes(output / "neat", counts, recipe.seed, settled=True, loose=0)
    (output / "neat/done").touch()
