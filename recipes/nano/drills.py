"""Drills: sequences of chance words said again, from which a language model learns to look back and to copy.

What was read before can only be said again by finding it there: by attention to what followed the same word (induction
heads, Olsson et al. 2022), or several of the same words (associative recall, Arora et al. 2023). Texts teach this late,
since little in them cannot be guessed. nano's language model, which had read its texts for 2,400 steps, could not do
it: the loss of `repeated` went slowly to 3.0 nats in 400 steps of nothing else, then to 0.5 within 200 more. A drill is
ids, and of each whether it is determined by what comes before. It is made of words, `ids`, of which there are eight or
more.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

LENGTH = 72  # of what is repeated, with all its repetitions
PERIOD = (4, 24)  # tokens, from and to
WORDS = (8, 16, 32, 64, 128)  # how many different ones; with few of them only longer matches tell places apart
LINE = (3, 6)  # tokens of a line, from and to
LINES = 48  # tokens of all lines together

Drill = tuple[list[int], list[bool]]


def drill(rng: random.Random, ids: Sequence[int], between: int) -> Drill:
    """One of the drills below, lines more often."""
    return repeated(rng, ids) if rng.random() < 0.3 else recalled(rng, ids, between)


def repeated(rng: random.Random, ids: Sequence[int]) -> Drill:
    """A few words over and over."""
    words = rng.sample(ids, min(len(ids), rng.choice(WORDS)))
    period = rng.randint(*PERIOD)
    said = [rng.choice(words) for _ in range(period)]
    return [said[at % period] for at in range(LENGTH)], [at > period for at in range(LENGTH)]


def recalled(rng: random.Random, ids: Sequence[int], between: int) -> Drill:
    """Different lines, with `between` behind each, then the same lines once more, in another order or in the same."""
    words = rng.sample(ids, round(8 * (len(ids) / 8) ** rng.random()))
    size = rng.randint(*LINE)
    lines = sorted({tuple(rng.choice(words) for _ in range(size)) for _ in range(rng.randint(2, LINES // size))})
    rng.shuffle(lines)
    again = rng.sample(lines, len(lines)) if rng.random() < 0.6 else lines
    found = [token for line in lines for token in (*line, between)]
    known = [False] * len(found)
    for number, line in enumerate(again):
        for at, token in enumerate((*line, between)):
            possible = {(*other, between)[at] for other in lines if other[:at] == line[:at]}
            found.append(token)
            known.append(len(possible) == 1 or (again is lines and number > 0))
    return found, known
