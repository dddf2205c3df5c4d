"""CIDEr of captions, by pycocoevalcap."""

from __future__ import annotations

from mmlm.evaluation.metrics.measure import Measure, mean_of
from mmlm.evaluation.metrics.tokens import Pair
from mmlm.evaluation.metrics.upstream import coco_module


def cider(captions: Pair) -> Measure:
    """CIDEr-D, 0 to 10 (Vedantam et al. 2015, arXiv 1411.5726; papers print 100 times the number).

    Words are weighed by the given references, so scores on different sets cannot be compared. The weights stay those of
    the whole set in each resample of an interval. ImportError without pycocoevalcap.
    """
    scorer = coco_module("cider.cider").Cider()
    return mean_of("CIDEr", scorer.compute_score(captions.wanted, captions.found)[1])
