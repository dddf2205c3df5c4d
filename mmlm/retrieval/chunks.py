"""Long texts in pieces, which overlap: what is found is a few sentences, and not a book."""

from __future__ import annotations

import re
from dataclasses import dataclass

from decoders.values import check_kinds

# Scripts without spaces count by their characters, and what is no language (an address, a table) in stretches of 80.
_NO_SPACES = "\u2e80-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_NO_SPACES}]|[^\s{_NO_SPACES}]{{1,80}}")
_END = re.compile(r"[.!?…][\"'”’)\]]*$|[。！？]$")


@dataclass(frozen=True)
class Chunking:
    """How texts are cut. words: the most in a piece; overlap: how many of them the next piece repeats at most.

    A piece begins and ends with a sentence where its sentences are not longer than that. CLIP's text towers read 77
    tokens, some 50 English words. ValueError unless 0 <= overlap < words.
    """

    words: int = 50
    overlap: int = 15

    def __post_init__(self) -> None:
        check_kinds(self)
        if not 0 <= self.overlap < self.words:
            raise ValueError(f"overlap is at least 0 and below words={self.words}, not {self.overlap}")


def spans(text: str, chunking: Chunking) -> list[tuple[int, int]]:
    """The pieces of a text: the first character of each, and the one behind its last. None is empty."""
    words = [(found.start(), found.end()) for found in _WORD.finditer(text)]
    ends = [_is_end(text, words, number) for number in range(len(words))]
    pieces, first = [], 0
    while first < len(words):
        last = min(first + chunking.words, len(words))
        if last < len(words):  # back to the end of a sentence, if that leaves more than what the next one repeats
            last = next((at for at in range(last, first + chunking.overlap, -1) if ends[at - 1]), last)
        pieces.append((words[first][0], words[last - 1][1]))
        if last == len(words):
            break
        again = max(first + 1, last - chunking.overlap)
        first = next((at for at in range(again, last) if ends[at - 1]), last if ends[last - 1] else again)
    return pieces


def _is_end(text: str, words: list[tuple[int, int]], number: int) -> bool:
    """Whether a sentence or a paragraph ends with a word."""
    start, end = words[number]
    following = words[number + 1][0] if number + 1 < len(words) else len(text)
    space = text[end:following]
    return bool(_END.search(text[start:end]) and (space or end == len(text) or text[end - 1] in "。！？")) or (
        space.count("\n") > 1
    )
