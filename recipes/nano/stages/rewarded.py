"""The stage of the nano recipe that learns by rewards: thoughts about notes, looked up or shown.

Low-rank adapters of the whole language model learn by GRPO; an answer that is exactly right earns 1. Half of what they
add goes into its weights, and is taken from those that write codes, so that drawings and words stay what they were.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

import mmlm
from mmlm.assembly import extended
from mmlm.training.align import align
from recipes.nano.rewards import LORA, NOTES_READ, mixed
from recipes.nano.settings import Recipe
from recipes.nano.stages.package import newest
from recipes.nano.stages.thoughts import save_rounded

AFTER = 0.5  # the share of what was learned in what is saved, as in `together`


def train_rewarded(recipe: Recipe, output: Path) -> None:
    """From the model that thinks, answers and writes."""
    part = recipe.rewards
    before = mmlm.load(newest(output, "model", "together", "writing_more", "writing"), device=recipe.device)
    taught = extended(before, lora=LORA, seed=recipe.seed)
    align(
        taught, mixed(part.steps * part.batch_size, recipe.seed), NOTES_READ, output=output / "rewarded/notes",
        steps=part.steps, batch_size=part.batch_size, learning_rate=part.learning_rate, seed=recipe.seed, tune="lora",
        save_every=20, eval_every=10_000, log_every=5, keep_best=False,
    )  # fmt: skip
    save_rounded(added_in(before, taught, AFTER), output / "rewarded")


@torch.no_grad()
def added_in(before: mmlm.MultimodalLM, taught: mmlm.MultimodalLM, share: float = 1.0) -> mmlm.MultimodalLM:
    """The model whose language model's weights hold a share of what LoRA has learned, and which writes codes as before.

    Both share the language model, whose weights change in place. Where the model writes codes, its LoRA subtracts what
    was added: `W + A = (W + B) + (A − B)`.
    """
    host, own, learned = before.language_model, before.language_model.lora_config, taught.language_model.lora_config
    if own.alpha / own.rank != learned.alpha / learned.rank:
        raise ValueError("two low-rank adapters of one scale make one")
    both = replace(own, rank=own.rank + learned.rank, alpha=own.alpha + learned.alpha)
    model = extended(before, lora=both)
    for name, layer in host.blocks.named_modules():
        key = name.replace(".", "/")
        if key not in taught.language_model.lora:
            continue
        one, other, made = (each.language_model.lora[key] for each in (before, taught, model))
        up = share * other.up
        layer.weight += other.scale * up @ other.down
        made.down.copy_(torch.cat([one.down, other.down]))
        made.up.copy_(torch.cat([one.up, -up], dim=1))
    return model
