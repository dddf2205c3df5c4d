"""How alike two short texts are: ROUGE-L of their words (Lin 2004), by which Self-Instruct tells duplicates."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"\w+")


def words_of(text: str) -> tuple[str, ...]:
    """Its words in lower case, without signs."""
    return tuple(_WORD.findall(text.lower()))


def rouge_l(first: Sequence[str], second: Sequence[str]) -> float:
    """0–1: the harmonic mean of the shares that the longest common subsequence has of both; 0 where one is empty."""
    if not first or not second:
        return 0.0
    lengths = [0] * (len(second) + 1)  # of the subsequence that the words so far have with each beginning of the second
    for word in first:
        before = 0
        for place, other in enumerate(second, 1):
            above = lengths[place]
            lengths[place] = before + 1 if word == other else max(above, lengths[place - 1])
            before = above
    return 2 * lengths[-1] / (len(first) + len(second))
