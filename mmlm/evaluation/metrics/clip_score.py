"""How well pictures and texts fit together, by CLIP (Hessel et al. 2021, arXiv 2104.08718)."""

from __future__ import annotations

from torch import Tensor

from mmlm.evaluation.metrics.measure import Measure, mean_of

PREFIX = "A photo depicts "  # the paper's, before each text


def clip_score(images: Tensor, texts: Tensor) -> Measure:
    """2.5 times the cosine of each picture and its text where it is positive: 0 to 2.5.

    images, texts: CLIP embeddings `[N, E]` of unit length; of texts with PREFIX before them. Scores of different CLIPs
    cannot be compared.
    """
    cosine = (images.double() * texts.double()).sum(dim=1)
    return mean_of("CLIP score", 2.5 * cosine.clamp(min=0).cpu().numpy())
