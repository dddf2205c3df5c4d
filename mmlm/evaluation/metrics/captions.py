"""Caption scores: CIDEr, BLEU-4 and ROUGE-L by pycocoevalcap's modules without Java, with a tokeniser of our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmlm.evaluation.metrics.bleu import ORDER, bleu
from mmlm.evaluation.metrics.cider import cider
from mmlm.evaluation.metrics.rouge import rouge_l
from mmlm.evaluation.metrics.tokens import paired


@dataclass(frozen=True)
class CaptionScores:
    """Scores over a set of pictures: CIDEr from 0 to 10 (papers print 100 times the number), the others from 0 to 1."""

    cider: float
    bleu4: float | None  # None where no caption has four words, or no reference: there is nothing to count
    rouge_l: float
    count: int  # pictures scored


def score_captions(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Score one caption per picture against the references of that picture.

    CIDEr is CIDEr-D (Vedantam et al. 2015, arXiv 1411.5726). Its word weights are document frequencies over the given
    `references`, so scores on different sets cannot be compared, and there is no score for a single picture.
    BLEU is that of the whole corpus, with the closest reference length. ROUGE-L is the mean over pictures, beta 1.2.

    Raises `ValueError` where the lists do not match, `ImportError` where the `eval` extra is not installed.
    """
    captions = paired(candidates, references)
    orders = bleu(captions)
    return CaptionScores(
        cider=cider(captions).value,
        bleu4=orders[ORDER - 1].value if len(orders) == ORDER else None,
        rouge_l=rouge_l(captions).value,
        count=len(captions),
    )
