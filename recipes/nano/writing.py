"""The stage of the nano recipe that teaches its language model to write the codes of pictures and of sound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.nano import data

if TYPE_CHECKING:
    from recipes.nano.run import Recipe


@dataclass
class Writing:
    """What the language model gets to write codes with: their rows, and LoRA."""

    words: int = 440  # in the voice that it is to have
    dev_words: int = 88
    word_passes: int = 20  # how often it sees each of them while it sees a scene once
    digit_passes: int = 60  # and each digit, which people say less alike than espeak-ng its words
    steps: int = 6000
    batch_size: int = 16
    learning_rate: float = 3e-3  # Muon's, for LoRA
    lora_rank: int = 32


def train_writing(recipe: Recipe, output: Path) -> None:
    """Rows and LoRA beside all that the model has, for what follows from the text alone: neat pictures, one voice.

    In any others most of what the codes hold is chance: where in its cell a thing stands and which shade it has, who
    speaks and how fast; each code has to agree with the last in all of that.
    """
    import mmlm
    from mmlm.assembly.extend import extended
    from mmlm.model.config import LoraConfig
    from mmlm.training import WritingTrainConfig, train_writing

    part = recipe.writing
    model = extended(
        mmlm.load(output / "ears_more/model", device=recipe.device),
        image_codec=output / "image_codec_more/codec",
        audio_codec=output / "audio_codec_more/codec",
        lora=LoraConfig(part.lora_rank, 2.0 * part.lora_rank),
        seed=recipe.seed,
    )
    config = WritingTrainConfig(
        steps=part.steps, batch_size=part.batch_size, learning_rate=part.learning_rate, optimizer="muon",
        seed=recipe.seed,
    )  # fmt: skip
    pictures, held_out = data.drawing_sources(output / "neat", data.sets_folder())
    words = [f"{output}/own_words/train-0*.tar"] * part.word_passes
    if (output / "own_words/train-digits.tar").exists():
        words += [f"{output}/own_words/train-digits.tar"] * part.digit_passes
    train_writing(model, [*pictures, *words], output / "writing", [held_out, f"{output}/own_words/dev-*.tar"], config)
