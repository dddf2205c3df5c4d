"""The stage of the nano recipe that teaches its language model to think, to use tools, to read notes, to write JSON.

The language model and the adapters train together, on everything that nano learned before and on exercises. With the
language model frozen the held-out loss of exercises after 100 steps of 32 was 1.73 nats a token, with both training
0.60; after 500 it was 0.18. A step of 48 takes 1.2 to 1.6 s of one core with bfloat16 multiplication. What writes codes
was trained beside the language model as it was, and is trained further afterwards (`writing_more`): the loss of neat
pictures went from 0.12 nats a code to 0.71 by those 500 steps, and was at 0.27 after 50 steps of repair.
"""

from __future__ import annotations

import itertools
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

import mmlm
from decoders.files import apply_umask
from encoders.guarded import from_pretrained
from mmlm.data import read_records
from mmlm.data.prompts import example_of
from mmlm.prompting.processor import IGNORE_INDEX, Example
from mmlm.training import LossObjective, TrainConfig, Trainer, TrainerConfig
from mmlm.training.examples import Examples, prepare
from mmlm.training.identity import digest
from mmlm.training.objectives.adapters import AdaptersObjective
from mmlm.training.shuffle import Shuffle
from recipes.nano import data
from recipes.nano.box_exercises import judged, read_nlvr, write_boxes
from recipes.nano.conversations import Exercise, in_words
from recipes.nano.drills import Drill, drill, repeated
from recipes.nano.exercises import exercise, write_exercises
from recipes.nano.marks import exercise_parts, grow
from recipes.nano.settings import Recipe
from recipes.nano.stages.adapters import picture_data
from recipes.nano.stages.package import newest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HURRIED = 20  # one thought in so many is cut, as a budget cuts it


def make_exercises(recipe: Recipe, output: Path) -> None:
    part = recipe.thoughts
    write_exercises(output / "exercises", {"train": part.exercises, "dev": part.dev_exercises}, recipe.seed)
    if (sets := data.sets_folder()) is not None:
        write_boxes(output / "boxes", {"train": part.boxes, "dev": part.dev_boxes}, sets, recipe.seed)
    (output / "exercises/done").touch()


def read_thoughts(recipe: Recipe, output: Path) -> None:
    """The language model alone learns to conclude: drills, then thoughts about pictures told in words, notes, boxes.

    What is given is not learned: half of its tokens are chance, and hide the rest.
    """
    from transformers import AutoTokenizer, LlamaForCausalLM

    part, advice = recipe.thoughts, "take one that is files alone"
    start, folder = grown(recipe, output), output / "thoughts_text"
    tokenizer = from_pretrained(AutoTokenizer, start, advice)
    model = from_pretrained(LlamaForCausalLM, start, advice, dtype=torch.float32).to(recipe.device)
    rows = [_row(tokenizer, *in_words(made)) for made in told_exercises(recipe)]
    rows.sort(key=lambda row: len(row[0]))  # rows of about one length make a batch
    size = part.text_batch_size
    batches = [rows[at : at + size] for at in range(0, len(rows), size)]
    order = Shuffle(len(batches), 1, recipe.seed)
    used = Counter(token for ids, _ in rows[:: max(1, len(rows) // 3000)] for token in ids)
    words = [token for token, _ in used.most_common(part.drill_words) if token not in tokenizer.all_special_ids]
    (between,) = tokenizer.encode(";", add_special_tokens=False)

    def loss_of(drawn: Sequence[tuple[list[int], list[int]]]) -> Tensor:
        given, said = zip(*drawn, strict=True)
        ids = _padded(given, 0).to(recipe.device)
        labels = _padded(said, IGNORE_INDEX).to(recipe.device)[:, 1:]
        learned = labels != IGNORE_INDEX
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1][learned]
        return cross_entropy(model.lm_head(hidden).float(), labels[learned])

    def drills(rng: random.Random, make: Callable[[random.Random], Drill]) -> Tensor:
        made = (make(rng) for _ in range(size))
        return loss_of(
            [(ids, [i if k else IGNORE_INDEX for i, k in zip(ids, known, strict=True)]) for ids, known in made]
        )

    def drilled(step: int) -> Tensor:
        return drills(random.Random(f"{recipe.seed} drill {step}"), lambda rng: repeated(rng, words))

    def concluded(step: int) -> Tensor:
        rng = random.Random(f"{recipe.seed} text {step}")
        if rng.random() < (part.drill_share if step < part.text_steps // 2 else part.drill_share / 2):
            return drills(rng, lambda rng: drill(rng, words, between))
        return loss_of(batches[int(order.batch(step))])

    def save(to: Path) -> Path:
        model.eval().save_pretrained(str(to))
        tokenizer.save_pretrained(str(to))
        apply_umask(to)
        return to

    identity = {"settings": asdict(part), "data": digest(rows)}
    for name, loss_at, steps, rate, last, to in (
        ("drills", drilled, part.drill_steps, part.drill_learning_rate, 1.0, output / "thoughts_drills"),
        ("thoughts in words", concluded, part.text_steps, part.text_learning_rate, 0.05, folder),
    ):
        settings = TrainerConfig(
            steps=steps, learning_rate=rate, final_learning_rate_scale=last, optimizer="muon", precision="auto",
            seed=recipe.seed,
        )  # fmt: skip
        Trainer(LossObjective(name, model, loss_at, save, identity), settings, to).fit()


def told_exercises(recipe: Recipe) -> Iterator[Exercise]:
    """Exercises of those kinds in which something is concluded."""
    kinds = (*["thinking"] * 4, "arithmetic", *["notes"] * 2, *["boxes"] * 2)
    sets = data.sets_folder()
    drawn = read_nlvr(sets, "train") if sets is not None else []
    for index in range(recipe.thoughts.texts):
        kind = kinds[index % len(kinds)]
        if kind != "boxes":
            yield exercise("train", index, recipe.seed + 1, kind, think=True)
        elif drawn:
            rng = random.Random(f"{recipe.seed} told boxes {index}")
            yield judged(rng, rng.choice(drawn), drawn, think=True)


def _row(tokenizer: PreTrainedTokenizerBase, given: str, said: str) -> tuple[list[int], list[int]]:
    """The ids of what is given and of what is said, with the end of text, and labels of what is said alone."""
    first, then = tokenizer([given, said], add_special_tokens=False)["input_ids"]
    then = [*then, tokenizer.eos_token_id]
    return first + then, [IGNORE_INDEX] * len(first) + then


def _padded(rows: Sequence[list[int]], value: int) -> Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def grown(recipe: Recipe, output: Path) -> Path:
    """The language model with rows for the marks."""
    folder = output / "thoughts_start/language_model"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        grow(output / "frozen/language_model", folder, recipe.seed)
    return folder


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
