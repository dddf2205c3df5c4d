"""The audio encoder: recordings by espeak-ng, and a Whisper trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.nano import data
from recipes.nano.settings import Recipe
from recipes.nano.stages.package import newest

DIGIT_PASSES = 20  # of fsdd


def make_speech(recipe: Recipe, output: Path) -> None:
    from recipes.nano.speech import Phrases, write_speech, write_spoken_questions

    part, phrases = recipe.speech, Phrases.of(data.sets_folder())
    write_speech(output / "speech", {"dev": part.dev, "train": part.train}, recipe.seed, phrases)
    counts = {"dev": part.dev_questions, "train": part.questions}
    write_spoken_questions(output / "spoken", counts, recipe.seed, phrases)
    (output / "spoken/done").touch()


def train_audio_encoder(recipe: Recipe, output: Path) -> None:
    part = recipe.audio_encoder
    listen(recipe, output, "audio_encoder", steps=part.steps, learning_rate=part.learning_rate)


def train_audio_encoder_more(recipe: Recipe, output: Path) -> None:
    part = recipe.audio_encoder
    listen(
        recipe,
        output,
        "audio_encoder_more",
        start=output / "audio_encoder/whisper.pt",
        steps=part.more_steps,
        learning_rate=part.more_learning_rate,
        window_every=3,
        settling=0.5,
        seed=recipe.seed + 1,
    )


def train_digits(recipe: Recipe, output: Path) -> None:
    """Whisper further, on strings of the digits that people said; the adapters learn its features with the thoughts."""
    part = recipe.audio_encoder
    listen(
        recipe,
        output,
        "audio_digits",
        start=output / "audio_encoder_more/whisper.pt",
        strings=part.digit_strings,
        steps=part.digit_steps,
        learning_rate=part.digit_learning_rate,
        window_every=3,
        settling=0.3,
        seed=recipe.seed + 2,
    )


def train_digits_more(recipe: Recipe, output: Path) -> None:
    """Whisper's decoder alone, which the adapters do not hear: more digits, half of the steps in whole windows."""
    part = recipe.audio_encoder
    listen(
        recipe,
        output,
        "audio_digits_more",
        start=newest(output, "whisper.pt", "audio_digits", "audio_encoder_more"),
        strings=part.digit_strings // 2,
        digits=DIGIT_PASSES,
        steps=part.digit_more_steps,
        learning_rate=part.digit_learning_rate,
        window_every=2,
        window_batch=8,
        settling=0.3,
        decoder_only=True,
        seed=recipe.seed + 3,
    )


def listen(
    recipe: Recipe,
    output: Path,
    folder: str,
    start: Path | None = None,
    strings: int = 0,
    digits: int = 6,
    **settings: Any,
) -> None:
    """Train Whisper into `output/folder`, from `start` on if it is given.

    strings: of digits, beside all else. digits: how often each digit that people said comes alone.
    """
    from recipes.nano.speech import digit_strings, utterances
    from recipes.pretrain.whisper import WhisperTrainConfig, train_whisper

    part = recipe.audio_encoder
    sizes = {"width": part.width, "audio_layers": part.audio_layers, "text_layers": part.text_layers}
    own = {"batch_size": part.batch_size, "seed": recipe.seed, "device": recipe.device}
    config = WhisperTrainConfig(**{**sizes, **own, **settings})
    heard = utterances(output / "speech", output / "spoken", sets := data.sets_folder(), digits)
    if sets is not None:
        heard += digit_strings(sets, strings, recipe.seed)
    train_whisper(config, heard, output / folder, start)
