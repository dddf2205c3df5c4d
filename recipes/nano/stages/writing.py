"""The stage of the nano recipe that teaches its language model to write the codes of pictures and of sound."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recipes.nano import data
from recipes.nano.settings import Recipe

if TYPE_CHECKING:
    from mmlm import MultimodalLM


def train_writing(recipe: Recipe, output: Path) -> None:
    """Rows and LoRA beside all that the model has, for what follows from the text alone: neat pictures, one voice.

    In any others most of what the codes hold is chance: where in its cell a thing stands and which shade it has, who
    speaks and how fast; each code has to agree with the last in all of that.
    """
    part = recipe.writing
    write(recipe, output, writer(recipe, output, "ears_more"), "writing", part.steps, part.learning_rate)


def train_writing_more(recipe: Recipe, output: Path) -> None:
    """The same rows and LoRA, beside the language model that has learned to think: it has changed beneath them."""
    import torch

    import mmlm

    part = recipe.writing
    model = writer(recipe, output, "thoughts_more")
    before = dict(mmlm.load(output / "writing/model").added_parameters())
    with torch.no_grad():
        for name, tensor in model.added_parameters():
            if name.startswith(("language_model.codes.", "language_model.lora.")):
                tensor.copy_(before[name])
    write(recipe, output, model, "writing_more", part.more_steps, part.more_learning_rate)


def train_writing_last(recipe: Recipe, output: Path) -> None:
    """The same once more, beside the language model as it ships; with new rows, if the image codec is another one."""
    import mmlm
    from mmlm.assembly import Codecs, extended
    from recipes.nano.stages.package import newest

    part = recipe.writing
    before = mmlm.load(newest(output, "model", "rewarded", "together", "writing_more", "writing"), device=recipe.device)
    model = extended(before, Codecs(image=output / "image_codec/codec"), seed=recipe.seed)
    write(recipe, output, model, "writing_last", part.last_steps, part.last_learning_rate)


def writer(recipe: Recipe, output: Path, folder: str) -> MultimodalLM:
    """The model of a stage with both codecs, and new rows and LoRA for their codes."""
    import mmlm
    from mmlm.assembly import Codecs, extended
    from mmlm.model.config import LoraConfig

    rank = recipe.writing.lora_rank
    return extended(
        mmlm.load(output / folder / "model", device=recipe.device),
        Codecs(output / "image_codec/codec", output / "audio_codec_more/codec"),
        lora=LoraConfig(rank, 2.0 * rank),
        seed=recipe.seed,
    )


def write(recipe: Recipe, output: Path, model: MultimodalLM, folder: str, steps: int, learning_rate: float) -> None:
    """Train the writing of codes into `output/folder`."""
    from mmlm.training import WritingTrainConfig, train_writing

    part = recipe.writing
    config = WritingTrainConfig(
        steps=steps, batch_size=part.batch_size, learning_rate=learning_rate, optimizer="muon", seed=recipe.seed
    )
    training, held_out = writing_data(recipe, output)
    train_writing(model, training, output / folder, held_out, config)


def writing_data(recipe: Recipe, output: Path) -> tuple[list[str], list[str]]:
    """Tars of neat pictures and of words in one voice, training and held out."""
    part = recipe.writing
    pictures, held_out = data.drawing_sources(output / "neat", data.sets_folder(), part.emoji_passes)
    words = [f"{output}/own_words/train-0*.tar"] * part.word_passes
    if (output / "own_words/train-digits.tar").exists():
        words += [f"{output}/own_words/train-digits.tar"] * part.digit_passes
    return [*pictures, *words], [held_out, f"{output}/own_words/dev-*.tar"]
