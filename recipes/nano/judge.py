"""Judging a caption against the scene it should describe, word by word."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from recipes.nano.scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Kind, Scene, holds
from recipes.nano.wording import NUMBERS, RELATIONS, plural_of

_SINGULAR = {form: shape for shape in SHAPES for form in (shape, plural_of(shape))}
_COUNTS = {"a": 1, "an": 1, **{word: number for number, word in enumerate(NUMBERS) if number}}


def _any(words: Iterable[str]) -> str:
    return "(?:" + "|".join(words) + ")"


_GROUP = re.compile(rf"(?:({_any(PLACES)}) )?({_any(_COUNTS)}) ({_any(SIZES)}) ({_any(COLOURS)}) ({_any(_SINGULAR)})\b")
_GROUND = _any(BACKGROUNDS)
_NUMBER = rf"(?P<number>{_any(NUMBERS[1:])}) shapes?"
_LIST = "X(?:(?:, X)*(?:,| and) X)?"
# With every group of things written as X (its place, if it is said, included), these are all the wordings there are.
_SENTENCE = re.compile(
    rf"(?:(?:there (?:is|are) |a picture of )?{_NUMBER} on (?:a (?P<over>{_GROUND}) background|(?P<brief>{_GROUND})): )"
    rf"{_LIST}"
    rf"|(?:a picture of |the picture shows |there (?:is|are) |a (?P<before>{_GROUND}) background with )?"
    rf"(?:{_LIST}|X (?P<relation>{_any(RELATIONS)}) X)"
    rf"(?:,? on a (?P<behind>{_GROUND}) background| on (?P<plain>{_GROUND}))?"
)


@dataclass(frozen=True)
class Judgement:
    """What a caption says that is so, and that is not. `None` where it does not say."""

    understood: bool  # written in one of the known wordings
    wrong: tuple[str, ...] = ()  # groups said that are not there, as written
    missing: tuple[str, ...] = ()  # groups there that are not said
    background: bool | None = None
    relation: bool | None = None
    number: bool | None = None  # how many things there are in all

    @property
    def correct(self) -> bool:
        """Everything is named with its count, size, colour and shape, and nothing said is false."""
        false = False in (self.background, self.relation, self.number)
        return self.understood and not self.wrong and not self.missing and not false


def judge_caption(caption: str, scene: Scene) -> Judgement:
    """Whether `caption` names everything in `scene` and states nothing false.

    It names either each kind of thing with its count, or each thing with its place: then the places must be right too.
    """
    groups = [match.groups() for match in _GROUP.finditer(caption)]
    sentence = _SENTENCE.fullmatch(_GROUP.sub("X", caption.strip()))
    if sentence is None:
        return Judgement(understood=False)
    grounds = [ground for name in ("over", "brief", "before", "behind", "plain") if (ground := sentence[name])]
    placed = {place is not None for place, *_ in groups}
    if len(grounds) > 1 or len(placed) > 1:
        return Judgement(understood=False)
    said = Counter(_said(*group) for group in groups)
    if placed == {True}:
        there = Counter((PLACES[thing.cell], 1, thing.kind) for thing in scene.things)
    else:
        there = Counter((None, len(things), kind) for kind, things in scene.kinds().items())
    relation = None
    if sentence["relation"]:
        (_, _, first), (_, _, second) = (_said(*group) for group in groups)
        relation = any(
            holds(sentence["relation"], a, b)
            for a in scene.things
            for b in scene.things
            if a.kind == first and b.kind == second
        )
    return Judgement(
        understood=True,
        wrong=tuple(_written(*group) for group in (said - there)),
        missing=tuple(_written(*group) for group in (there - said)),
        background=grounds[0] == scene.background if grounds else None,
        relation=relation,
        number=NUMBERS.index(sentence["number"]) == len(scene.things) if sentence["number"] else None,
    )


def _said(place: str | None, count: str, size: str, colour: str, shape: str) -> tuple[str | None, int, Kind]:
    return place, _COUNTS[count], Kind(size, colour, _SINGULAR[shape])


def _written(place: str | None, count: int, kind: Kind) -> str:
    return " ".join(filter(None, (place, str(count), kind.size, kind.colour, kind.shape)))
