"""Judging a caption against the scene it should describe, word by word."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from recipes.nano.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, Kind, Scene, holds
from recipes.nano.wording import NUMBERS, RELATIONS, plural_of

_SINGULAR = {form: shape for shape in SHAPES for form in (shape, plural_of(shape))}
_COUNTS = {"a": 1, "an": 1, **{word: number for number, word in enumerate(NUMBERS) if number}}


def _any(words) -> str:
    return "(?:" + "|".join(words) + ")"


_GROUP = re.compile(rf"({_any(_COUNTS)}) ({_any(SIZES)}) ({_any(COLOURS)}) ({_any(_SINGULAR)})\b")
_GROUND = _any(BACKGROUNDS)
# With every group of things written as X, these are all the wordings there are.
_SENTENCE = re.compile(
    rf"(?:a picture of |the picture shows |there (?:is|are) |a (?P<before>{_GROUND}) background with )?"
    rf"(?:X(?:, X)* and X|X(?: (?P<relation>{_any(RELATIONS)}) X)?)"
    rf"(?: on a (?P<behind>{_GROUND}) background| on (?P<plain>{_GROUND}))?"
)


@dataclass(frozen=True)
class Judgement:
    """What a caption says that is so, and that is not. `None` where it does not say."""

    understood: bool  # written in one of the known wordings
    wrong: tuple[str, ...] = ()  # groups said that are not there, as written
    missing: tuple[str, ...] = ()  # groups there that are not said
    background: bool | None = None
    relation: bool | None = None

    @property
    def correct(self) -> bool:
        """Every kind is named with its count, size, colour and shape, and nothing said is false."""
        said = self.background is not False and self.relation is not False
        return self.understood and not self.wrong and not self.missing and said


def judge_caption(caption: str, scene: Scene) -> Judgement:
    """Whether `caption` names every kind of thing in `scene` and states nothing false."""
    groups = [match.groups() for match in _GROUP.finditer(caption)]
    sentence = _SENTENCE.fullmatch(_GROUP.sub("X", caption.strip()))
    if sentence is None:
        return Judgement(understood=False)
    said = Counter(_group(group) for group in groups)
    there = Counter((len(things), kind) for kind, things in scene.kinds().items())
    ground = sentence["before"] or sentence["behind"] or sentence["plain"]
    if sentence["before"] and (sentence["behind"] or sentence["plain"]):
        return Judgement(understood=False)
    relation = None
    if sentence["relation"]:
        first, second = (kind for _, kind in (_group(group) for group in groups))
        relation = any(
            holds(sentence["relation"], a, b)
            for a in scene.things
            for b in scene.things
            if a.kind == first and b.kind == second
        )
    return Judgement(
        understood=True,
        wrong=tuple(_written(group) for group in (said - there)),
        missing=tuple(_written(group) for group in (there - said)),
        background=None if ground is None else ground == scene.background,
        relation=relation,
    )


def _group(words: tuple[str, ...]) -> tuple[int, Kind]:
    count, size, colour, shape = words
    return _COUNTS[count], Kind(size, colour, _SINGULAR[shape])


def _written(group: tuple[int, Kind]) -> str:
    count, kind = group
    return f"{count} {kind.size} {kind.colour} {kind.shape}"
