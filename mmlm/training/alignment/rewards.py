"""Rewards: functions that say how good what a model wrote is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from encoders.clip import ClipImageEncoder
from encoders.texts import normalize_answer
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.records import Record, Text
from mmlm.generation.result import GenerationResult
from mmlm.tasks.transcribe import transcribe
from mmlm.training.alignment.config import REWARDS


@dataclass(frozen=True)
class Written:
    """What a model wrote to the prompt of `text`, one of `record.texts`; or what it drew or spoke for that text."""

    record: Record
    text: Text
    result: GenerationResult


Reward = Callable[[Sequence[Written]], Sequence[float | None]]
"""One number for each; None where the reward has nothing to say, which counts as 0. It may run in another thread."""


def each(judge: Callable[[Written], float | None]) -> Reward:
    """A reward of a function that looks at one at a time."""
    return lambda written: [judge(one) for one in written]


def exact_match(one: Written) -> float:
    """1 for the answer of the record, as `mmlm evaluate` compares them, else 0."""
    return float(normalize_answer(one.result.answer) == normalize_answer(one.text.answer))


def contains(one: Written) -> float:
    """1 where the words of the record's answer stand in what was written, in their order, else 0."""
    said, wanted = (f" {normalize_answer(text)} " for text in (one.result.answer, one.text.answer))
    return float(wanted in said)


def brief(one: Written) -> float:
    """1 for an empty text, falling to 0 at twice as many words as the record's answer has, and below."""
    said, wanted = (len(text.split()) for text in (one.result.answer, one.text.answer))
    return 1 - said / (2 * max(1, wanted))


def valid_json(one: Written) -> float:
    """1 for a text that is JSON, else 0."""
    try:
        json.loads(one.result.answer)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


def clip_similarity(encoder: ClipImageEncoder) -> Reward:
    """The cosine, by a frozen CLIP, of a drawing and its text, or of the record's picture and what was written."""

    @torch.no_grad()
    def judge(written: Sequence[Written]) -> list[float | None]:
        found: list[float | None] = []
        for one in written:
            drawn = one.result.media
            text = one.text.answer if drawn else one.result.answer
            if (not drawn and one.record.source is None) or not text.strip():
                found.append(None)
                continue
            picture = drawn[0] if drawn else one.record.image
            seen = encoder.embed_images(encoder.preprocess(picture).unsqueeze(0))
            found.append(float((seen @ encoder.embed_texts([text]).T)[0, 0]))
        return found

    return judge


def heard_words(model: MultimodalLM) -> Reward:
    """1 less the share of the text's words that Whisper does not hear in the speech, as it stands there; from −1 on."""

    def judge(one: Written) -> float | None:
        if not one.result.media:
            return None
        heard = str(transcribe(model, one.result.media[0], temperatures=(0.0,)))
        said, wanted = (normalize_answer(text).split() for text in (heard, one.text.answer))
        return max(-1.0, 1 - word_distance(said, wanted) / max(1, len(wanted)))

    return each(judge)


def word_distance(said: Sequence[str], wanted: Sequence[str]) -> int:
    """The fewest words inserted, deleted and replaced that make one text the other."""
    row = list(range(len(wanted) + 1))
    for place, word in enumerate(said, 1):
        before, row[0] = row[0], place
        for index, other in enumerate(wanted, 1):
            before, row[index] = row[index], min(row[index] + 1, row[index - 1] + 1, before + (word != other))
    return row[-1]


def weighted(rewards: Mapping[str, tuple[Reward, float]]) -> Reward:
    """The sum of rewards, each with its weight."""

    def judge(written: Sequence[Written]) -> list[float]:
        total = [0.0] * len(written)
        for name, (reward, weight) in rewards.items():
            found = reward(written)
            if len(found) != len(written):
                raise ValueError(f"the reward {name} gives {len(found)} values for {len(written)} answers")
            total = [own + weight * (value or 0.0) for own, value in zip(total, found, strict=True)]
        return total

    return judge


_PLAIN = {"exact_match": exact_match, "contains": contains, "brief": brief, "json": valid_json}


def named_rewards(model: MultimodalLM, weights: Mapping[str, float]) -> dict[str, tuple[Reward, float]]:
    """The rewards of these names. ValueError for an unknown one, and for one that the model has no part for."""
    found: dict[str, tuple[Reward, float]] = {}
    for name, weight in weights.items():
        if name in _PLAIN:
            found[name] = each(_PLAIN[name]), weight
        elif name == "clip":
            encoder = model.encoders.get("image")
            if not isinstance(encoder, ClipImageEncoder):
                raise ValueError("the reward clip needs a model whose image encoder embeds texts as well: a CLIP")
            found[name] = clip_similarity(encoder), weight
        elif name == "words":
            _ = model.transcriber  # ValueError where there is no Whisper
            found[name] = heard_words(model), weight
        else:
            raise ValueError(f"no reward is named {name!r}: give one of {', '.join(REWARDS)}, or in Python a function")
    return found
