"""The stage of the nano recipe that teaches its language model to think, to use tools, to read notes, to write JSON.

The language model and the adapters train together, on everything that nano learned before and on exercises. With the
language model frozen the held-out loss of exercises after 100 steps of 32 was 1.73 nats a token, with both training
0.60; after 500 it was 0.18. A step of 48 takes 1.2 to 1.6 s of one core with bfloat16 multiplication. What writes codes
was trained beside the language model as it was, and is trained further afterwards (`writing_more`): the loss of neat
pictures went from 0.12 nats a code to 0.71 by those 500 steps, and was at 0.27 after 50 steps of repair.
"""

from __future__ import annotations

import itertools
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

import mmlm
from decoders.files import apply_umask
from mmlm.data import read_records
from mmlm.data.prompts import example_of
from mmlm.prompting.processor import Example
from mmlm.training import TrainConfig, Trainer
from mmlm.training.examples import Examples, prepare
from mmlm.training.objectives.adapters import AdaptersObjective
from recipes.nano import data
from recipes.nano.box_exercises import write_boxes
from recipes.nano.exercises import write_exercises
from recipes.nano.marks import exercise_parts
from recipes.nano.settings import Recipe
from recipes.nano.stages.adapters import picture_data
from recipes.nano.stages.package import newest
from recipes.nano.stages.thoughts_text import grown

HURRIED = 20  # one thought in so many is cut, as a budget cuts it


def make_exercises(recipe: Recipe, output: Path) -> None:
    part = recipe.thoughts
    write_exercises(output / "exercises", {"train": part.exercises, "dev": part.dev_exercises}, recipe.seed)
    if (sets := data.sets_folder()) is not None:
        write_boxes(output / "boxes", {"train": part.boxes, "dev": part.dev_boxes}, sets, recipe.seed)
    (output / "exercises/done").touch()


class Exercises(Examples):
    """Examples of which conversations are exercises, with marks in what the assistant says."""

    def _encode(self, record: int, text: int) -> Example:
        entry = self.records[record]
        if not entry.messages:
            return example_of(self.processor, self.template, entry, entry.texts[text])
        number = itertools.count()
        turns = [
            type(turn)(turn.role, tuple(p if isinstance(p, str) else type(p)(next(number)) for p in turn.content))
            for turn in entry.messages
        ]
        kept = record % 7 / 7 if record % HURRIED == 0 else 1.0
        parts = exercise_parts(self.template, turns, ended=record % 4 < 2, chat=record % 4 == 3, kept=kept)
        return self.processor.encode(parts)


class ThoughtsObjective(AdaptersObjective):
    """Cross-entropy of answers, in which the language model's own weights learn as well."""

    name = "thoughts"

    def parameters(self) -> dict[str, nn.Parameter]:
        own = {f"language_model.{name}": weight for name, weight in self.model.language_model.model.named_parameters()}
        return {**super().parameters(), **own}

    def steps_in(self, precision: str) -> AbstractContextManager[None]:
        return nullcontext()  # weights that train do not lie in bfloat16

    def save(self, output: Path) -> Path:
        """The model with its language model beside it, rounded to the float16 in which it ships."""
        host, folder = self.model.language_model, output / "language_model"
        language_model: Any = host.model
        shutil.rmtree(folder, ignore_errors=True)
        with torch.no_grad():
            for weight in language_model.parameters():
                weight.copy_(weight.half())
        language_model.half().save_pretrained(folder)
        language_model.float()
        host.tokenizer.save_pretrained(folder)
        apply_umask(folder)
        host.name = str(folder.resolve())
        return self.model.save(output / "model")


def train_thoughts(recipe: Recipe, output: Path) -> None:
    part = recipe.thoughts
    model = thinker(recipe, output)
    config = TrainConfig(
        steps=part.steps,
        batch_size=part.batch_size,
        optimizer="muon",
        learning_rate=part.learning_rate,
        gate_learning_rate_scale=recipe.adapters.gate_learning_rate_scale,
        caption_share=recipe.adapters.caption_share,
        precision="auto",
        eval_every=500,
        save_every=250,
        keep_best=False,
        seed=recipe.seed + 4,
    )
    cache = output / "features"
    training, held = (
        prepare(model, read_records(sources), cache=cache, config=config) for sources in thoughts_data(recipe, output)
    )
    training, held = (
        Exercises(own.records, own.processor, own.template, own.features, own.keys, own.taken)
        for own in (training, held)
    )
    Trainer(ThoughtsObjective(model, training, held, config), config, output / "thoughts").fit()


def thoughts_data(recipe: Recipe, output: Path) -> tuple[list[str], str]:
    """Exercises, and what nano learned before: pictures with captions and questions, and recordings."""
    part = recipe.thoughts
    sources = [f"{output}/exercises/train-*.tar"] * part.exercise_passes
    sources += [f"{output}/boxes/train-*.tar"] if (output / "boxes").exists() else []
    sources += picture_data(output, "settled")[0]
    if part.hearing:
        sources += data.hearing_sources(output / "speech", output / "spoken", data.sets_folder())
    return sources, f"{output}/exercises/dev-*.tar"


def thinker(recipe: Recipe, output: Path) -> mmlm.MultimodalLM:
    """The model so far without its codecs, its language model with rows for the marks."""
    text = output / "thoughts_text"
    start = text if (text / "tokenizer.json").exists() else grown(recipe, output)
    earlier = mmlm.load(output / "ears_more/model")
    model = mmlm.assemble(
        start,
        output / "frozen/image_encoder",
        audio_encoder=newest(output, "whisper.pt", "audio_digits", "audio_encoder_more"),
        resampler=earlier.resampler_config,
        audio_resampler=earlier.audio_resampler_config,
        fusion=earlier.fusion_config,
        device=recipe.device,
        seed=recipe.seed,
    )
    before = dict(earlier.added_parameters())
    with torch.no_grad():
        for name, tensor in model.added_parameters():
            tensor.copy_(before[name])
    return model
