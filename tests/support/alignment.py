"""Tiny runs of every objective of alignment."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data import Record, RecordSet
from mmlm.training.align import align
from mmlm.training.alignment.config import DistillConfig, GrpoConfig, PpoConfig, PreferenceConfig, RewardConfig
from mmlm.training.alignment.rewards import Written
from support.training_objectives import CASES, COLOURS, noise, png, tiny_model

NAMES = list(COLOURS)


def pairs(count: int = 8) -> RecordSet:
    """A right colour and a wrong one, of answers of different lengths."""

    def pair(i: int) -> Record:
        name, other = NAMES[i % 4], NAMES[(i + 1) % 4]
        return Record(f"p{i}", png(COLOURS[name], dot=i), qa=(("what colour?", name),), rejected=other)

    return RecordSet(tuple(map(pair, range(count))))


def labelled(count: int = 8) -> RecordSet:
    def one(i: int) -> Record:
        return Record(f"p{i}", png(COLOURS[NAMES[i % 4]], dot=i), (NAMES[(i + i // 4) % 4],), good=i < 4)

    return RecordSet(tuple(map(one, range(count))))


def drawings(count: int = 4) -> RecordSet:
    better, worse = noise(1, count), noise(2, count)
    return RecordSet(tuple(Record(f"d{i}", better[i], (f"picture {i}",), rejected=worse[i]) for i in range(count)))


def asked(records: RecordSet) -> RecordSet:
    return RecordSet(tuple(replace(record, rejected=None, good=None) for record in records))


def high(written: Sequence[Written]) -> list[float]:
    """How many ids are in the upper half of the bytes: about half of what a random model writes."""
    return [sum(token > 128 for token in one.result.token_ids) / len(one.result.token_ids) for one in written]


def reds(written: Sequence[Written]) -> list[float]:
    """How red a drawing is."""
    return [float(np.asarray(one.result.media[0])[:, :, 0].mean()) / 255 for one in written]


@cache
def teacher() -> MultimodalLM:
    """Of another family than the student, with the same tokenizer."""
    return tiny_model("llama", seed=5)


GRPO = GrpoConfig(generations=4, max_new_tokens=6, iterations=2, beta=0.1)
PPO = PpoConfig(max_new_tokens=6, iterations=2)
KINDS: dict[str, tuple[object, Callable, RecordSet, dict]] = {
    "dpo": (PreferenceConfig(sft=0.1), tiny_model, pairs(), {}),
    "simpo": (PreferenceConfig(kind="simpo"), tiny_model, pairs(), {}),
    "kto": (PreferenceConfig(kind="kto"), tiny_model, labelled(), {}),
    "kto of pairs": (PreferenceConfig(kind="kto"), tiny_model, pairs(), {}),
    "reward": (RewardConfig(centre=0.01), tiny_model, pairs(), {}),
    "drawings": (PreferenceConfig(kind="ipo"), CASES["codes"].build, drawings(), {}),
    "grpo": (GRPO, tiny_model, asked(pairs()), {"rewards": {"high": high}}),
    "ppo": (PPO, tiny_model, asked(pairs()), {"rewards": {"high": high}}),
    "grpo of drawings": (
        replace(GRPO, writes="image", iterations=1), CASES["codes"].build, asked(drawings()),
        {"rewards": {"red": reds}},
    ),
    "distill": (DistillConfig(top_k=8, sft=0.1), tiny_model, asked(pairs()), {}),
    "distill of samples": (
        DistillConfig(on="teacher", top_k=8, temperature=2.0, max_new_tokens=6), tiny_model, asked(pairs()), {},
    ),
    "distill on policy": (
        DistillConfig(on="student", share=0.5, beta=0.5, top_k=None, max_new_tokens=6), tiny_model, asked(pairs()), {},
    ),
}  # fmt: skip
SETTINGS = dict(steps=4, batch_size=2, accumulation=2, learning_rate=1e-2, log_every=3, eval_every=3, save_every=3)


def run(kind: str, output: Path, **settings):
    objective, build, data, given = KINDS[kind]
    model = build()
    if isinstance(objective, DistillConfig):
        given = {**given, "teacher": teacher()}
    given = dict(held_out=data, output=output, progress=False, **given, **{**SETTINGS, **settings})
    return model, align(model, data, objective, **given)  # pyright: ignore[reportArgumentType]
