"""The best of several results, by any score."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from encoders.clip import ClipImageEncoder
from mmlm.generation.result import GenerationResult

Scorer = Callable[[GenerationResult], float]
"""How good a result is; higher is better."""


def by_log_prob(result: GenerationResult) -> float:
    """The mean log-probability of its tokens."""
    return result.mean_log_prob


def best_of(results: Iterable[GenerationResult], scorer: Scorer = by_log_prob) -> GenerationResult:
    """The result of the highest score, the first of equals; NaN is below every number. ValueError where there is none.

    scorer: any function of a result: `by_log_prob`, `likeness(encoder, text)`, a reward model, a test that is run.
    """
    found = list(results)
    if not found:
        raise ValueError("there is no result to choose from")
    scores = [float(scorer(result)) for result in found]
    return found[max(range(len(found)), key=lambda place: (scores[place] == scores[place], scores[place]))]


def likeness(encoder: ClipImageEncoder, text: str) -> Scorer:
    """How similar CLIP finds the first picture of a result to a text, −1 to 1; ValueError for one without a picture."""
    wanted = encoder.embed_texts([text])[0]

    @torch.no_grad()
    def score(result: GenerationResult) -> float:
        pictures = [part for part in result.media if hasattr(part, "convert")]
        if not pictures:
            raise ValueError("likeness is for results that hold a picture, such as those of draw(..., details=True)")
        return float(encoder.embed_images(encoder.preprocess(pictures[0]).unsqueeze(0))[0] @ wanted)

    return score
