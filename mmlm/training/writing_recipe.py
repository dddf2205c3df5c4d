"""Recipes that train a model to write codes.

    model:
      load: nano                                  # whatever it has stays as it is
      image_codec: runs/codec/codec               # and audio_codec, image_decoder, audio_decoder; none: what it has
      audio_codec: {source: facebook/encodec_24khz, num_codebooks: 4}   # or what `load_pretrained` takes
      lora: {rank: 16, alpha: 32}
    write: {tune: lora, steps: 4000}              # any field of WritingTrainConfig
    data: pairs.jsonl                             # pictures with captions, recordings with transcripts
    held_out: dev.jsonl
    output: runs/writing
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from mmlm.model.config import LoraConfig
from mmlm.training.recipe import Trained, load_recipe
from mmlm.training.writing import WritingTrainConfig, train_writing


@dataclass(frozen=True)
class WritingModelRecipe:
    """The model to train: `load` one, and give it codecs that it has not, by name or by `load_pretrained`'s options."""

    load: str = MISSING
    image_codec: Any = None
    audio_codec: Any = None
    image_decoder: str | None = None
    audio_decoder: str | None = None
    lora: LoraConfig | None = None
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class WritingRecipe:
    """A run that trains a model to write codes."""

    model: WritingModelRecipe = field(default_factory=WritingModelRecipe)
    write: WritingTrainConfig = field(default_factory=WritingTrainConfig)
    data: Any = MISSING
    held_out: Any = None
    output: str = MISSING


def train_writing_from_recipe(
    path: str | os.PathLike, overrides: Sequence[str] = (), *, progress: bool = True
) -> Trained:
    """Runs such a recipe. It goes on where a run in the same `output` stopped."""
    recipe: WritingRecipe = load_recipe(path, overrides, WritingRecipe)
    import mmlm
    from mmlm.assembly import Codecs, extended

    part = recipe.model
    model = mmlm.load(part.load, device=part.device)
    names = ("image_codec", "audio_codec", "image_decoder", "audio_decoder")
    given = {name: _codec_of(value) for name in names if (value := getattr(part, name)) is not None}
    if given or part.lora is not None:
        codecs = Codecs(*(given.get(name) for name in names))
        model = extended(model, codecs, lora=part.lora, seed=part.seed)
    folder = train_writing(model, recipe.data, Path(recipe.output), recipe.held_out, recipe.write, progress)
    return Trained(folder, recipe.write.steps)


def _codec_of(value: Any) -> Any:
    """A published codec where its options are given; a name as it is. ValueError for an unknown option."""
    if not isinstance(value, dict):
        return value
    from decoders.codecs.pretrained import load_pretrained

    options = {**value}
    try:
        return load_pretrained(options.pop("source"), **options)
    except (KeyError, TypeError) as error:
        raise ValueError(f"a codec is a name, or a source with options of load_pretrained, not {value}") from error
