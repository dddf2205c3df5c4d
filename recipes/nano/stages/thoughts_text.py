"""The stage of the nano recipe in which the language model alone learns to look back, and to conclude.

First drills, then thoughts about pictures that are told in words, notes, and the boxes of NLVR. What is given is not
learned: much of it is chance, and teaches nothing of what follows from it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from decoders.files import apply_umask
from encoders.guarded import from_pretrained
from mmlm.prompting.processor import IGNORE_INDEX
from mmlm.training import LossObjective, Trainer, TrainerConfig
from mmlm.training.identity import digest
from mmlm.training.shuffle import Shuffle
from recipes.nano import data
from recipes.nano.box_exercises import judged, read_nlvr
from recipes.nano.conversations import Exercise, in_words
from recipes.nano.drills import Drill, drill, repeated
from recipes.nano.exercises import exercise
from recipes.nano.marks import grow
from recipes.nano.settings import Recipe

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

SAMPLED = 3000  # exercises, of which the commonest tokens are those of the drills
Row = tuple[list[int], list[int]]
"""The ids of a text, and its labels: IGNORE_INDEX where nothing is learned."""


def read_thoughts(recipe: Recipe, output: Path) -> None:
    """Trains the language model in words, into `output/thoughts_text`."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    part, advice, start = recipe.thoughts, "take one that is files alone", grown(recipe, output)
    tokenizer = from_pretrained(AutoTokenizer, start, advice)
    model = from_pretrained(LlamaForCausalLM, start, advice, dtype=torch.float32).to(recipe.device)
    rows = sorted((_row(tokenizer, *in_words(made)) for made in told_exercises(recipe)), key=lambda row: len(row[0]))
    size = part.text_batch_size
    batches = [rows[at : at + size] for at in range(0, len(rows), size)]  # rows of about one length
    order = Shuffle(len(batches), 1, recipe.seed)
    used = Counter(token for ids, _ in rows[:: max(1, len(rows) // SAMPLED)] for token in ids)
    words = [token for token, _ in used.most_common(part.drill_words) if token not in tokenizer.all_special_ids]
    (between,) = tokenizer.encode(";", add_special_tokens=False)

    def drilled(step: int) -> Tensor:
        rng = random.Random(f"{recipe.seed} drill {step}")
        return loss_of(model, [_learned(repeated(rng, words)) for _ in range(size)])

    def concluded(step: int) -> Tensor:
        rng = random.Random(f"{recipe.seed} text {step}")
        if rng.random() < (part.drill_share if step < part.text_steps // 2 else part.drill_share / 2):
            return loss_of(model, [_learned(drill(rng, words, between)) for _ in range(size)])
        return loss_of(model, batches[int(order.batch(step))])

    def save(to: Path) -> Path:
        model.eval().save_pretrained(str(to))
        tokenizer.save_pretrained(str(to))
        apply_umask(to)
        return to

    identity = {"rows": digest(rows), "words": words, "batch_size": size, "drill_share": part.drill_share}
    for name, loss_at, steps, rate, last in (
        ("thoughts_drills", drilled, part.drill_steps, part.drill_learning_rate, 1.0),
        ("thoughts_text", concluded, part.text_steps, part.text_learning_rate, 0.05),
    ):
        settings = TrainerConfig(
            steps=steps, learning_rate=rate, final_learning_rate_scale=last, optimizer="muon", precision="auto",
            seed=recipe.seed,
        )  # fmt: skip
        Trainer(LossObjective(name, model, loss_at, save, identity), settings, output / name).fit()


def loss_of(model: LlamaForCausalLM, rows: Sequence[Row]) -> Tensor:
    """Cross-entropy of the next tokens, in nats a token, where they are learned."""
    ids, labels = (
        pad_sequence([torch.tensor(one) for one in own], batch_first=True, padding_value=value).to(model.device)
        for own, value in zip(zip(*rows, strict=True), (0, IGNORE_INDEX), strict=True)
    )
    learned = labels[:, 1:] != IGNORE_INDEX
    # Padding stands behind, where no token looks.
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1][learned]
    return cross_entropy(model.lm_head(hidden).float(), labels[:, 1:][learned])


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
            yield judged(rng, drawn)


def _row(tokenizer: PreTrainedTokenizerBase, given: str, said: str) -> Row:
    """What is given and what is said, with the end of text; what is said is learned."""
    first, then = tokenizer([given, said], add_special_tokens=False)["input_ids"]
    then = [*then, tokenizer.eos_token_id]
    return first + then, [IGNORE_INDEX] * len(first) + then


def _learned(made: Drill) -> Row:
    ids, known = made
    return ids, [token if own else IGNORE_INDEX for token, own in zip(ids, known, strict=True)]


def grown(recipe: Recipe, output: Path) -> Path:
    """The language model with rows for the marks."""
    folder = output / "thoughts_start/language_model"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        grow(output / "frozen/language_model", folder, recipe.seed)
    return folder
