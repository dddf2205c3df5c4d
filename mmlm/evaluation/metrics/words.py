"""Word and character error rates of transcripts, with openai-whisper's normalisers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from encoders.texts import check_texts
from mmlm.evaluation.metrics.measure import Measure, ratio_of


def word_error_rate(said: Sequence[str], expected: Sequence[str]) -> float:
    """Inserted, deleted and replaced words divided by expected words, over all transcripts.

    Both sides are normalised by openai-whisper's English normaliser, so case, punctuation, British spelling and
    numerals do not count. ValueError where no word is expected, or the lists differ in length.
    """
    return word_errors(said, expected).value


def word_errors(said: Sequence[str], expected: Sequence[str], language: str = "en") -> Measure:
    """The word error rate (WER): inserted, deleted and replaced words by those expected, over all transcripts.

    language: "en" for openai-whisper's English normaliser; that for other languages takes case and punctuation away.
    ValueError where no word is expected, or the lists differ in length; ImportError without torchaudio.
    """
    normalise = _normaliser(language)
    return _errors("WER", said, expected, lambda text: normalise(text).split())


def character_errors(said: Sequence[str], expected: Sequence[str], language: str = "en") -> Measure:
    """The character error rate (CER), spaces counted, after the same normalisation; errors as of `word_errors`."""
    normalise = _normaliser(language)
    return _errors("CER", said, expected, lambda text: list(" ".join(normalise(text).split())))


def check_distance() -> None:
    """`ImportError`, with the extra to install, where torchaudio is missing."""
    _edit_distance()


def _errors(name: str, said: Sequence[str], expected: Sequence[str], units: Callable[[str], list[str]]) -> Measure:
    check_texts(said, "a transcript")
    check_texts(expected, "a transcript")
    distance = _edit_distance()
    pairs = [(units(a), units(b)) for a, b in zip(said, expected, strict=True)]
    lengths = [len(right) for _, right in pairs]
    if not sum(lengths):
        raise ValueError("no word is expected, so none can be wrong")
    errors = [0 if own == right else distance(own, right) for own, right in pairs]
    return ratio_of(name, errors, lengths, lower_is_better=True)


def _edit_distance() -> Callable[[list[str], list[str]], int]:
    try:
        from torchaudio.functional import edit_distance
    except ImportError as error:
        raise ImportError("error rates need torchaudio: pip install 'mmlm[eval]'") from error
    return edit_distance


@cache
def _normaliser(language: str) -> Callable[[str], str]:
    from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

    return EnglishTextNormalizer() if language.lower() in ("en", "english") else BasicTextNormalizer()
