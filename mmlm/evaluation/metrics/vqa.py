"""VQA accuracy (Antol et al. 2015, arXiv 1505.00468), with the normalisation of VQAv2's evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from mmlm.evaluation.metrics.measure import Measure, mean_of
from mmlm.generation.answers import normalized

FEWEST = 4  # answers to a question, with which an answer that all people gave is wholly right


def vqa_accuracy(answers: Sequence[str], expected: Sequence[Sequence[str]]) -> Measure:
    """Of each answer a third for each person who gave it, at most 1, over all people but one in turn: 0 to 1.

    expected: what several people answered to each question, ten in VQAv2. Both sides are normalised first. The versions
    of the official script differ where all people agree, or say articles; there some compare answers as they stand.
    ValueError where a question has fewer than two answers.
    """
    scores = []
    for answer, said in zip(answers, expected, strict=True):
        if len(said) < 2:
            raise ValueError("VQA accuracy needs what several people answered to each question; one answer is matched")
        given, wanted = normalized(answer), [normalized(own) for own in said]
        matches = [wanted.count(given) - (own == given) for own in wanted]
        scores.append(sum(min(1.0, count / 3) for count in matches) / len(wanted))
    return mean_of("VQA accuracy", scores)


def vqa_match(answers: Sequence[str], expected: Sequence[Sequence[str]]) -> Measure:
    """The share of answers that are one of those expected, after the same normalisation: 0 to 1."""
    pairs = zip(answers, expected, strict=True)
    return mean_of("exact match", [normalized(answer) in {normalized(own) for own in said} for answer, said in pairs])
