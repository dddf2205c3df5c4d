"""Self-consistency: of several sampled attempts the answer given most often wins (Wang et al. 2022, 2203.11171)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, Unpack

from decoders.values import check_kind
from mmlm.generation.answers import normalized
from mmlm.generation.options import GenerationKeywords, GenerationOptions
from mmlm.generation.result import GenerationResult
from mmlm.model.network import MultimodalNetwork
from mmlm.tasks.generate import generate
from mmlm.tasks.rows import Results

TEMPERATURE = 0.7  # of votes, where none is given
_SIGN = re.compile(r"(?<!\w)[-−](?=[\d.])|[+<>=/*^%]")  # what changes the meaning of an answer


def generated(
    model: MultimodalNetwork, prompts: Sequence[Any], votes: int | None = None, *, batch_size: int = 32,
    **options: Unpack[GenerationKeywords],
) -> Results:  # fmt: skip
    """Results of prompts; with `votes` each is what so many samples agree on, their prompt and media encoded once.

    ValueError for fewer than one vote, and beside num_return_sequences, num_beams or do_sample=False.
    """
    rows: Any = generate(model, prompts, batch_size=batch_size, **_as_samples(options, votes))
    return rows if votes is None else [voted(row if isinstance(row, list) else [row]) for row in rows]


def settings_of(options: GenerationKeywords, votes: int | None = None) -> GenerationOptions:
    """The options with which `generated` decodes, checked: for verbs that do much before they come to it."""
    return GenerationOptions.of(_as_samples(options, votes))


def _as_samples(options: GenerationKeywords, votes: int | None) -> GenerationKeywords:
    """The options with as many samples as there are votes."""
    if votes is None:
        return options
    check_kind("votes", votes, int)
    if votes < 1:
        raise ValueError(f"votes must be at least 1, not {votes}")
    if options.get("num_return_sequences", 1) != 1 or options.get("num_beams", 1) != 1:
        raise ValueError("votes are samples: leave num_return_sequences and num_beams at 1")
    if not options.get("do_sample", True):
        raise ValueError("votes are samples, which differ: leave out do_sample=False")
    return {"do_sample": True, "temperature": TEMPERATURE, **options, "num_return_sequences": votes}


def voted(attempts: Sequence[GenerationResult]) -> GenerationResult:
    """The likeliest attempt of those whose answer was given most often, with `votes` and `attempts`.

    Answers are equal that `ballot` makes equal; an attempt without an answer has no vote where another has one. In a
    tie wins the answer whose attempts have the highest mean log-probability a token. usage: of all attempts.
    """
    if not attempts:
        raise ValueError("there is no attempt that could vote")
    groups: dict[str, list[GenerationResult]] = {}
    for attempt in attempts:
        groups.setdefault(ballot(attempt.answer), []).append(attempt)
    if len(groups) > 1:
        groups.pop("", None)
    ranked = sorted(
        groups.items(), key=lambda group: (len(group[1]), fmean(own.mean_log_prob for own in group[1])), reverse=True
    )
    chosen = max(ranked[0][1], key=lambda attempt: attempt.mean_log_prob)
    usage = replace(
        chosen.usage,
        generated_tokens=sum(attempt.usage.generated_tokens for attempt in attempts),
        thinking_tokens=sum(attempt.usage.thinking_tokens for attempt in attempts),
    )
    counts = {answer: len(own) for answer, own in ranked}
    return replace(chosen, usage=usage, votes=counts, attempts=tuple(attempts))


def ballot(answer: str) -> str:
    """What an answer counts as: what `normalized` makes of it, unless that would lose what it says.

    Signs of arithmetic are kept ("-5" is not "5", "C++" not "C"), and so is an answer that is an article alone ("A").
    """
    plain = " ".join(answer.casefold().split()).rstrip(".")
    return plain if _SIGN.search(answer) else normalized(answer) or plain
