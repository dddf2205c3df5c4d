"""Exact match of answers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmlm.evaluation.metrics.measure import Measure, mean_of


def exact_match(answers: Sequence[str], expected: Sequence[Sequence[str]]) -> Measure:
    """The share of answers that are one of those expected, after `normalize_answer`: 0 to 1."""
    pairs = zip(answers, expected, strict=True)
    found = [normalize_answer(answer) in {normalize_answer(own) for own in wanted} for answer, wanted in pairs]
    return mean_of("exact match", found)


def normalize_answer(answer: str) -> str:
    """In lower case, no punctuation at the edges of words, single spaces: "A red  circle." → "a red circle"."""
    return " ".join(word for word in (re.sub(r"^\W+|\W+$", "", word) for word in answer.lower().split()) if word)
