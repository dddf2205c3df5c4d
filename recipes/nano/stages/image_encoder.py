"""The image encoder: a CLIP trained on scenes."""

from __future__ import annotations

from pathlib import Path

from recipes.nano import data
from recipes.nano.settings import Recipe


def train_image_encoder(recipe: Recipe, output: Path) -> None:
    from recipes.pretrain.clip import ClipTrainConfig, train_clip

    part = recipe.image_encoder
    config = ClipTrainConfig(
        steps=part.steps,
        batch_size=part.batch_size,
        learning_rate=part.learning_rate,
        vision_width=part.width,
        vision_layers=part.layers,
        seed=recipe.seed,
        device=recipe.device,
    )
    pairs = data.contrastive_set(recipe.scenes.contrastive, data.sets_folder(), recipe.seed)
    train_clip(config, pairs.pictures, pairs.captions, output / "tokenizer", output / "image_encoder", pairs.regions)
