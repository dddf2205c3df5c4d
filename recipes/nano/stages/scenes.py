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
    """What the pencil learns from: neat scenes, which it is to draw, and some loose ones, which it may be given."""
    side = recipe.pencil.size
    for folder, loose, count in (("neat", 0.0, recipe.scenes.neat), ("loose", 1.0, recipe.scenes.loose)):
        counts = {"train": count, "dev": recipe.scenes.dev}
        data.write_scenes(output / folder, counts, recipe.seed, settled=True, loose=loose, side=side)
    (output / "neat/done").touch()
