"""BLEU of captions (Papineni et al. 2002): counts by pycocoevalcap, of the whole set."""

from __future__ import annotations

import numpy as np

from mmlm.evaluation.metrics.measure import Measure
from mmlm.evaluation.metrics.tokens import Pair
from mmlm.evaluation.metrics.upstream import coco_module

ORDER = 4
_TINY, _SMALL = 1e-15, 1e-9  # pycocoevalcap's, against division by zero


def bleu(captions: Pair) -> list[Measure]:
    """BLEU-1 to BLEU-4, 0 to 1: n-grams that are right, over the whole set, with the closest reference length.

    An order is left out where no caption has so many words, or no reference: there is nothing that it could count.
    ImportError without pycocoevalcap.
    """
    scorer = coco_module("bleu.bleu_scorer").BleuScorer(n=ORDER)
    for number, found in captions.found.items():
        scorer += (found[0], captions.wanted[number])
    rows = []
    for counts in scorer.ctest:
        closest = min((abs(length - counts["testlen"]), length) for length in counts["reflen"])[1]
        rows.append([*counts["correct"], *counts["guess"], counts["testlen"], closest])
    statistics = np.array(rows, dtype=np.float64)
    longest = [
        max(len(caption.split()) for own in side.values() for caption in own)
        for side in (captions.found, captions.wanted)
    ]
    return [_measure(statistics, order) for order in range(1, min(ORDER, *longest) + 1)]


def bleu_of(sums: np.ndarray, order: int) -> np.ndarray:
    """BLEU of an order from sums `[..., 10]`: right n-grams of 1 to 4 words, all of them, length, reference length."""
    precisions = (sums[..., :order] + _TINY) / (sums[..., ORDER : ORDER + order] + _SMALL)
    ratio = (sums[..., 2 * ORDER] + _TINY) / (sums[..., 2 * ORDER + 1] + _SMALL)
    return precisions.prod(axis=-1) ** (1 / order) * np.exp(np.minimum(0.0, 1 - 1 / ratio))


def _measure(statistics: np.ndarray, order: int) -> Measure:
    return Measure(
        f"BLEU-{order}", lambda counts: float(bleu_of(counts @ statistics, order)), bleu_of(statistics, order)
    )
