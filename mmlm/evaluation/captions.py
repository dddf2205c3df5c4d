"""Caption scores: CIDEr, BLEU-4 and ROUGE-L by pycocoevalcap's modules without Java, with a tokeniser of our own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# A number with its points or commas, a word with its inner hyphens and apostrophes, or a sign that means a word.
_TOKEN = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+(?:[-'][^\W_]+)*|[&%$£€@#+=]")
_CLITIC = re.compile(r"(?<=\w)(n't|'(?:s|m|d|re|ve|ll))$")


@dataclass(frozen=True)
class CaptionScores:
    """Scores over a set of pictures: CIDEr from 0 to 10 (papers print 100 times the number), the others from 0 to 1."""

    cider: float
    bleu4: float | None  # None where no reference has four words: there is nothing that BLEU-4 could count
    rouge_l: float
    count: int  # pictures scored


def tokenize(caption: str) -> list[str]:
    """Lower-case words without punctuation, as COCO's evaluation gets them from the Penn Treebank tokeniser.

    Hyphenated words stay whole, contractions are split ("don't" → "do", "n't"; "dog's" → "dog", "'s"), and numbers keep
    their points and commas. The Java PTBTokenizer differs on rare cases (abbreviations with points, brackets).
    """
    words = _TOKEN.findall(caption.lower().replace("’", "'"))
    return [part for word in words for part in _CLITIC.sub(r" \1", word).split()]


def score_captions(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Score one caption per picture against the references of that picture.

    CIDEr is CIDEr-D (Vedantam et al. 2015, arXiv 1411.5726). Its word weights are document frequencies over the given
    `references`, so scores on different sets cannot be compared, and there is no score for a single picture.
    BLEU is that of the whole corpus, with the closest reference length. ROUGE-L is the mean over pictures, beta 1.2.

    Raises `ValueError` where the lists do not match, `ImportError` where the `eval` extra is not installed.
    """
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} captions for {len(references)} references: give one of each per picture")
    if len(candidates) < 2:
        raise ValueError("CIDEr weighs words by how many pictures they describe: score at least two pictures together")
    for index, captions in enumerate(references):
        if isinstance(captions, str) or not captions or not any(tokenize(caption) for caption in captions):
            raise ValueError(f"picture {index} needs a list of at least one reference caption with a word in it")
    bleu, cider, rouge = scorers()
    four_words = any(len(tokenize(caption)) >= 4 for captions in references for caption in captions)
    found = {index: [" ".join(tokenize(caption))] for index, caption in enumerate(candidates)}
    wanted = {index: [" ".join(tokenize(caption)) for caption in captions] for index, captions in enumerate(references)}
    return CaptionScores(
        cider=float(cider.compute_score(wanted, found)[0]),
        bleu4=float(bleu.compute_score(wanted, found, verbose=0)[0][3]) if four_words else None,
        rouge_l=float(rouge.compute_score(wanted, found)[0]),
        count=len(candidates),
    )


def scorers() -> tuple[Any, Any, Any]:
    """pycocoevalcap's BLEU, CIDEr and ROUGE. `ImportError`, with the extra to install, where it is missing."""
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise ImportError("caption scores need pycocoevalcap: pip install 'mmlm[eval]'") from error
    return Bleu(4), Cider(), Rouge()
