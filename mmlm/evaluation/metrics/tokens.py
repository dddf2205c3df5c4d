"""Words of captions, as COCO's evaluation counts them, and what pycocoevalcap's modules take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

_CLITICS = r"n't|'(?:s|m|d|re|ve|ll)"
# A number with its points or commas, the end of a contraction that stands by itself ("the dog 's ball"), a word with
# its inner hyphens and apostrophes, or a sign that means a word.
_TOKEN = re.compile(rf"\d+(?:[.,]\d+)+|(?<!\S)(?:{_CLITICS})(?!\S)|[^\W_]+(?:[-'][^\W_]+)*|[&%$£€@#+=]")
_CLITIC = re.compile(rf"(?<=\w)({_CLITICS})$")

Captions: TypeAlias = dict[int, list[str]]
"""By number of the picture, captions of words with spaces between them."""


@dataclass(frozen=True)
class Pair:
    """Of each picture its references, `wanted`, and one candidate, `found`: what pycocoevalcap's modules take."""

    wanted: Captions
    found: Captions

    def __len__(self) -> int:
        return len(self.found)


def tokenize(caption: str) -> list[str]:
    """Lower-case words without punctuation, as COCO's evaluation gets them from the Penn Treebank tokeniser.

    Hyphenated words stay whole, contractions are split ("don't" → "do", "n't"; "dog's" → "dog", "'s"), and numbers keep
    their points and commas. The Java PTBTokenizer differs on rare cases (abbreviations with points, brackets).
    """
    words = _TOKEN.findall(caption.lower().replace("’", "'"))
    return [part for word in words for part in _CLITIC.sub(r" \1", word).split()]


def paired(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Pair:
    """One caption a picture with the references of that picture, tokenized.

    ValueError where the lists do not match, there are fewer than two pictures, or one has no reference with a word.
    """
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} captions for {len(references)} references: give one of each per picture")
    if len(candidates) < 2:
        raise ValueError("CIDEr weighs words by how many pictures they describe: score at least two pictures together")
    for index, captions in enumerate(references):
        if isinstance(captions, str) or not captions or not any(tokenize(caption) for caption in captions):
            raise ValueError(f"picture {index} needs a list of at least one reference caption with a word in it")
    return Pair(
        {index: [" ".join(tokenize(caption)) for caption in captions] for index, captions in enumerate(references)},
        {index: [" ".join(tokenize(caption))] for index, caption in enumerate(candidates)},
    )
