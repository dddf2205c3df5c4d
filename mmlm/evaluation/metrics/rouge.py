"""ROUGE-L of captions, by pycocoevalcap."""

from __future__ import annotations

from mmlm.evaluation.metrics.measure import Measure, mean_of
from mmlm.evaluation.metrics.tokens import Pair
from mmlm.evaluation.metrics.upstream import coco_module


def rouge_l(captions: Pair) -> Measure:
    """ROUGE-L, 0 to 1 (Lin 2004): the mean over pictures, beta 1.2. ImportError without pycocoevalcap."""
    scorer = coco_module("rouge.rouge").Rouge()
    return mean_of("ROUGE-L", scorer.compute_score(captions.wanted, captions.found)[1])
