"""Sources: what was looked up for a question, as numbered parts of its prompt, and the numbers in its answer.

A source is text, like whatever a user types: it cannot become a control token, nor the number of another source. What
an answer cites is read outside the model, and a number that was not offered counts for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mmlm.prompting.parts import Image, Part

SourceModality = Literal["text", "image", "audio"]

INSTRUCTION = "Answer from the sources above, and name those that you use by their numbers, such as [1]."
"""What a chat model is told behind its sources. Other language models go on from the sources as they are."""

_NUMBERED = re.compile(r"\[(\s*\d[\d\s,;–-]*)\]")  # in a source: it would look like the number of one
_CITED = re.compile(r" ?\[\s*(\d{1,6}(?:\s*[,;]\s*\d{1,6})*)\s*\]")
_BEGUN = re.compile(r"(?: ?\[[\s\d,;]*| )\Z")  # what may become a number with the next piece


@dataclass(frozen=True)
class Source:
    """Something found.

    id: its number in the index; 0 for what is in none. path: the file, or the name under which it was added.
    quote: the words found; of a picture its caption, or "". span: where in the file's text they stand, in characters.
    start, end: where in the recording they are said, in seconds.
    score: the sum of 1 / (60 + rank) over the rankings that found it; ranks: its rank in each of them, 1 for the best.
    cosines: in the rankings by vectors, its cosine with what was looked for; those of two rankings cannot be compared.
    metadata: what was given with the file.
    """

    id: int
    path: str
    modality: SourceModality
    quote: str
    score: float = 0.0
    span: tuple[int, int] | None = None
    start: float | None = None
    end: float | None = None
    ranks: Mapping[str, int] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    cosines: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: without what this modality does not have."""
        cosines = {name: round(value, 4) for name, value in self.cosines.items()}
        found = {**vars(self), "ranks": dict(self.ranks), "metadata": dict(self.metadata), "cosines": cosines}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Offered:
    """What a prompt offers: the sources in the order of their numbers, 1 the first, and the parts that show them."""

    sources: tuple[Source, ...] = ()
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Citations:
    """The numbers in an answer, in their order, each once: `cited`, of sources; `dropped`, which were not offered."""

    cited: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()


def source_parts(number: int, source: Source, picture: Any = None) -> list[Part]:
    """The parts that show a source: its number, its picture where there is one, and its words in one line."""
    words = quotable(source.quote)
    if picture is None:
        return [f"[{number}] {words}\n"]
    return [f"[{number}] ", Image(picture), f" {words}\n" if words else "\n"]


def quotable(text: str) -> str:
    """A text in one line, whose numbers in brackets are in parentheses: those in brackets are of the sources alone."""
    return _NUMBERED.sub(r"(\1)", " ".join(text.split()))


def citations(answer: str, offered: int) -> Citations:
    """What an answer cites of so many sources."""
    named = [int(number) for group in _CITED.findall(answer) for number in re.findall(r"\d+", group)]
    known = tuple(dict.fromkeys(number for number in named if 1 <= number <= offered))
    return Citations(known, tuple(dict.fromkeys(number for number in named if not 1 <= number <= offered)))


def without_dropped(answer: str, offered: int) -> str:
    """An answer without the numbers that were not offered."""

    def kept(found: re.Match[str]) -> str:
        numbers: Sequence[str] = re.findall(r"\d+", found[1])
        good = [number for number in numbers if 1 <= int(number) <= offered]
        if len(good) == len(numbers):
            return found[0]
        return f"{' ' * found[0].startswith(' ')}[{', '.join(good)}]" if good else ""

    return _CITED.sub(kept, answer)


def pieces_without_dropped(pieces: Iterable[str], offered: int) -> Iterator[str]:
    """`without_dropped` of an answer that comes in pieces: a number that has begun waits until it is known."""
    held = ""
    for piece in pieces:
        held += piece
        begun = _BEGUN.search(held)
        ready, held = (held, "") if begun is None else (held[: begun.start()], begun[0])
        if ready := without_dropped(ready, offered):
            yield ready
    if held:
        yield held
