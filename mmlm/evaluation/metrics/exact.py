"""Exact match of answers."""

from __future__ import annotations

from collections.abc import Sequence

from encoders.texts import normalize_answer
from mmlm.evaluation.metrics.measure import Measure, mean_of


def exact_match(answers: Sequence[str], expected: Sequence[Sequence[str]]) -> Measure:
    """The share of answers that are one of those expected, after `normalize_answer`: 0 to 1."""
    pairs = zip(answers, expected, strict=True)
    found = [normalize_answer(answer) in {normalize_answer(own) for own in wanted} for answer, wanted in pairs]
    return mean_of("exact match", found)
