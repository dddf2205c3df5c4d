"""The language model and its tokenizer."""

from __future__ import annotations

from pathlib import Path

from recipes.nano import data
from recipes.nano.settings import Recipe


def train_tokenizer(recipe: Recipe, output: Path) -> None:
    from recipes.pretrain.tokenizer import train_tokenizer

    documents = data.documents(data.sets_folder(), recipe.scenes.text, recipe.seed)
    texts = (text for document in documents for text in document)
    train_tokenizer(texts, recipe.language_model.vocabulary, output / "tokenizer")


def train_language_model(recipe: Recipe, output: Path) -> None:
    from recipes.pretrain.lm import LanguageModelTrainConfig, train_language_model

    part = recipe.language_model
    config = LanguageModelTrainConfig(
        hidden_size=part.hidden_size,
        intermediate_size=part.hidden_size * 8 // 3,
        num_layers=part.layers,
        num_heads=part.heads,
        sequence_length=160,  # a picture's document has about so many
        batch_size=24,
        steps=part.steps,
        optimizer="muon",
        seed=recipe.seed,
        device=recipe.device,
    )
    documents = data.documents(data.sets_folder(), recipe.scenes.text, recipe.seed)
    train_language_model(config, documents, output / "tokenizer", output / "language_model")
