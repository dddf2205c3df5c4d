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
from collections.abc import Sequence
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
from recipes.nano.conversations import Exercise, write_made
from recipes.nano.exercises import exercise, write_exercises
from recipes.nano.marks import exercise_parts
from recipes.nano.settings import Recipe
from recipes.nano.stages.adapters import picture_data
from recipes.nano.stages.package import newest
from recipes.nano.stages.thoughts_text import grown

HURRIED = 20  # one thought in so many is cut, as a budget cuts it
SELDOM = ("json", "pictures", "json", "zoom")  # kinds of which the first exercises have few
LAST = ("notes", "json", "notes", "notes")  # kinds that are not right often enough after them
LAST_PASSES = 3  # of these exercises, while every picture comes once


def make_exercises(recipe: Recipe, output: Path) -> None:
    part = recipe.thoughts
    write_exercises(output / "exercises", {"train": part.exercises, "dev": part.dev_exercises}, recipe.seed)
    if (sets := data.sets_folder()) is not None:
        write_boxes(output / "boxes", {"train": part.boxes, "dev": part.dev_boxes}, sets, recipe.seed)
    (output / "exercises/done").touch()


def make_more_exercises(recipe: Recipe, output: Path) -> None:
    """Exercises of the kinds that come seldom."""
    write_kinds(output / "exercises_more", SELDOM, recipe.thoughts.more_exercises, recipe.seed + 2)


def make_last_exercises(recipe: Recipe, output: Path) -> None:
    """Exercises of the kinds that are learned last."""
    write_kinds(output / "exercises_last", LAST, recipe.thoughts.last_exercises, recipe.seed + 3)


def write_kinds(folder: Path, kinds: Sequence[str], count: int, seed: int) -> None:
    """`count` training exercises of some kinds in turn, as tars in `folder`."""

    def made(split: str, index: int) -> Exercise:
        return exercise(split, index, seed, kinds[index % len(kinds)])

    write_made(folder, {"train": count}, made)
    (folder / "done").touch()


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
        return save_rounded(self.model, output)


def save_rounded(model: mmlm.MultimodalLM, output: Path) -> Path:
    """A model in a folder, with its language model beside it, rounded to the float16 in which it ships."""
    host, folder = model.language_model, output / "language_model"
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
    return model.save(output / "model")


def train_thoughts(recipe: Recipe, output: Path) -> None:
    """From the language model that thinks in words, and the adapters of the one that did not."""
    text = output / "thoughts_text"
    start = text if (text / "tokenizer.json").exists() else grown(recipe, output)
    model = thinker(recipe, output, start, output / "ears_more/model")
    fit(recipe, output, "thoughts", model, thoughts_data(recipe, output), recipe.thoughts.steps)


def train_thoughts_more(recipe: Recipe, output: Path) -> None:
    """Further, mostly on what is answered at once, which comes late: see docs/nano.md."""
    before = output / "thoughts"
    model = thinker(recipe, output, before / "language_model", before / "model")
    fit(recipe, output, "thoughts_more", model, more_data(recipe, output), recipe.thoughts.more_steps)


def fit(recipe: Recipe, output: Path, name: str, model: mmlm.MultimodalLM, sources: list[str], steps: int) -> None:
    config = thoughts_config(recipe, steps, recipe.thoughts.learning_rate, seed=4)
    training, held = thoughts_sets(model, output, sources, config)
    Trainer(ThoughtsObjective(model, training, held, config), config, output / name).fit()


def thoughts_config(recipe: Recipe, steps: int, learning_rate: float, seed: int) -> TrainConfig:
    """The settings of a stage; `seed` is added to the recipe's."""
    return TrainConfig(
        steps=steps,
        batch_size=recipe.thoughts.batch_size,
        optimizer="muon",
        learning_rate=learning_rate,
        gate_learning_rate_scale=recipe.adapters.gate_learning_rate_scale,
        caption_share=recipe.adapters.caption_share,
        precision="auto",
        eval_every=500,
        save_every=250,
        keep_best=False,
        extend=True,  # of a stage whose model is removed, with more steps
        seed=recipe.seed + seed,
    )


def thoughts_sets(
    model: mmlm.MultimodalLM, output: Path, sources: Sequence[str], config: TrainConfig
) -> tuple[Exercises, Exercises]:
    """What a stage learns from, and held-out exercises."""
    read = (
        prepare(model, read_records(own), cache=output / "features", config=config)
        for own in (list(sources), f"{output}/exercises/dev-*.tar")
    )
    training, held = (
        Exercises(own.records, own.processor, own.template, own.features, own.keys, own.taken) for own in read
    )
    return training, held


def thoughts_data(recipe: Recipe, output: Path) -> list[str]:
    """Exercises, and what nano learned before: pictures with captions and questions, and recordings."""
    part = recipe.thoughts
    boxes = [f"{output}/boxes/train-*.tar"] if (output / "boxes").exists() else []
    return [*[f"{output}/exercises/train-*.tar"] * part.exercise_passes, *boxes, *learned_before(recipe, output)]


def more_data(recipe: Recipe, output: Path) -> list[str]:
    """The same with fewer exercises and more pictures that are asked about without a thought; no boxes."""
    pictures = picture_data(output, "settled")[0] * recipe.thoughts.more_picture_passes
    exercises = [f"{output}/{folder}/train-*.tar" for folder in ("exercises", "exercises_more")]
    return [*exercises, *pictures, *learned_before(recipe, output)]


def last_data(recipe: Recipe, output: Path) -> list[str]:
    """Exercises of all kinds, most of those that are learned last, and what nano learned before."""
    exercises = [f"{output}/exercises/train-*.tar", *[f"{output}/exercises_last/train-*.tar"] * LAST_PASSES]
    return [*exercises, *learned_before(recipe, output)]


def learned_before(recipe: Recipe, output: Path) -> list[str]:
    hearing = data.hearing_sources(output / "speech", output / "spoken", data.sets_folder())
    return picture_data(output, "settled")[0] + (hearing if recipe.thoughts.hearing else [])


def thinker(recipe: Recipe, output: Path, language_model: Path, adapters: Path) -> mmlm.MultimodalLM:
    """A model without codecs, whose language model learns: of its rows and weights, and the adapters of another."""
    earlier = mmlm.load(adapters)
    model = mmlm.assemble(
        language_model,
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
