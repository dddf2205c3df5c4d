"""A model as judge (RLAIF): which of two answers it prefers, asked in both orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.judged import worse
from mmlm.data.prompts import asking_parts
from mmlm.data.records import FileSlice, Record, RecordSet

QUESTION = "{question}\nAnswer 1: {first}\nAnswer 2: {second}\nWhich answer is better, 1 or 2?"
"""What a model is asked; for a caption or a transcript, the question is `DESCRIBE`."""
DESCRIBE = "What is here?"


@dataclass(frozen=True)
class Comparison:
    """Two answers to the one text of a record, in the order in which they are shown."""

    record: Record
    first: str
    second: str


Ask = Callable[[Sequence[Comparison]], Sequence[float]]
"""By how much the first answer of each is preferred: below 0 for the second one. A model's are log-odds."""


def judged_pairs(records: RecordSet, ask: Ask, margin: float = 0.0) -> RecordSet:
    """Pairs of answers as a judge prefers them, for `align`: `chosen` and `rejected` change places where it says so.

    Each pair is shown in both orders. It is left out where the judge does not prefer the same answer in both, which a
    judge does that looks at the place of an answer and not at what it says, and where the mean of what it says in both
    is less than `margin`. ValueError for records that are no pairs of texts, and where none is left.
    """
    if wrong := next((record for record in records if not isinstance(record.rejected, str)), None):
        raise ValueError(f"record {wrong.key!r} has not two texts to be judged: give chosen and rejected, in any order")
    swapped = [replace(worse(record), rejected=record.texts[0].answer) for record in records]
    shown = [_shown(record) for pair in zip(records, swapped, strict=True) for record in pair]
    said = ask(shown)
    if len(said) != len(shown):
        raise ValueError(f"the judge said {len(said)} things of {len(shown)} comparisons")
    kept = []
    for record, other, own, turned in zip(records, swapped, said[::2], said[1::2], strict=True):
        if own * turned < 0 and abs(own - turned) / 2 >= margin:
            kept.append(record if own > 0 else other)
    if not kept:
        raise ValueError("the judge prefers no answer in both orders: ask another one, or in other words")
    return RecordSet(tuple(kept), records.bad)


def _shown(record: Record) -> Comparison:
    assert isinstance(record.rejected, str), "it is checked"
    return Comparison(record, record.texts[0].answer, record.rejected)


def model_judge(model: MultimodalLM, question: str = QUESTION, batch_size: int = 8) -> Ask:
    """A model that sees the media of a record, is asked `question`, and of whom the log-odds of "1" against "2" are
    taken. question: with places for {question}, {first} and {second}. ValueError for conversations."""

    @torch.no_grad()
    def ask(shown: Sequence[Comparison]) -> list[float]:
        prompts = [_prompt(model, one, question) for one in shown]
        doubled = [prompt for prompt in prompts for _ in (1, 2)]
        found = model.log_probs(doubled, ["1", "2"] * len(prompts), batch_size=2 * batch_size)
        sums = [float(row.double().sum()) for row in found]
        return [first - second for first, second in zip(sums[::2], sums[1::2], strict=True)]

    return ask


def _prompt(model: MultimodalLM, one: Comparison, question: str) -> list:
    record, (text, *_) = one.record, one.record.texts
    if record.messages:
        raise ValueError(f"record {record.key!r} is a conversation: a judge of your own may read it, as a function")
    asked = question.format(question=text.question or DESCRIBE, first=one.first, second=one.second)
    sources = [place.read() if isinstance(place, FileSlice) else place for _, place in record.places]
    wanted = replace(text, kind="question", question=asked)
    return asking_parts(model.processor.tokenizer, model.template, record, wanted, sources)
