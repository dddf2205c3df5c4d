"""The stage of the nano recipe that teaches its language model to write the codes of pictures and of sound."""

from __future__ import annotations

from pathlib import Path

from recipes.nano import data
from recipes.nano.settings import Recipe


def train_writing(recipe: Recipe, output: Path) -> None:
    """Rows and LoRA beside all that the model has, for what follows from the text alone: neat pictures, one voice.

    In any others most of what the codes hold is chance: where in its cell a thing stands and which shade it has, who
    speaks and how fast; each code has to agree with the last in all of that.
    """
    import mmlm
    from mmlm.assembly import Codecs, extended
    from mmlm.model.config import LoraConfig
    from mmlm.training import WritingTrainConfig, train_writing

    part = recipe.writing
    model = extended(
        mmlm.load(output / "ears_more/model", device=recipe.device),
        Codecs(output / "image_codec_more/codec", output / "audio_codec_more/codec"),
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
