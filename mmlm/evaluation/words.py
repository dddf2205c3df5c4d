"""Word error rate of transcripts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from encoders.texts import check_texts

if TYPE_CHECKING:
    from whisper.normalizers import EnglishTextNormalizer


def word_error_rate(said: Sequence[str], expected: Sequence[str]) -> float:
    """Inserted, deleted and replaced words divided by expected words, over all transcripts.

    Both sides are normalised by openai-whisper's English normaliser, so case, punctuation, British spelling and
    numerals do not count. ValueError where no word is expected, or the lists differ in length.
    """
    from torchaudio.functional import edit_distance

    normalise = _normaliser()
    check_texts(said, "a transcript")
    check_texts(expected, "a transcript")
    pairs = [(normalise(a).split(), normalise(b).split()) for a, b in zip(said, expected, strict=True)]
    words = sum(len(right) for _, right in pairs)
    if words == 0:
        raise ValueError("no word is expected, so none can be wrong")
    return sum(edit_distance(own, right) for own, right in pairs) / words


@cache
def _normaliser() -> EnglishTextNormalizer:
    from whisper.normalizers import EnglishTextNormalizer

    return EnglishTextNormalizer()
