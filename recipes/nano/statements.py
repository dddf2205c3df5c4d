"""Sentences about boxes, as people wrote them for NLVR, read into what they claim; most of them, not all.

Sentences in no known form are None. The forms are those of the training split.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from recipes.nano.boxes import COLOURS, SHAPES
from recipes.nano.claims import Claim, Condition, Quantity, Sort, at_end, coloured, counted, only, over, stacked

_WORDS = {
    "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "atleast": "at least",
    "tleast": "at least", "bellow": "below", "squere": "square", "grey": "gray", "colors": "color", "colour": "color",
    "colours": "color", "ablue": "a blue", "atower": "a tower", "abox": "a box", "contains": "has", "contain": "has",
    "contained": "has", "which": "that", "whoch": "that", "objects": "items", "object": "item", "bottom": "base",
    "edge": "wall", "side": "wall", "edges": "wall", "having": "with", "blccks": "blocks", "have": "has", "bae": "base",
}  # fmt: skip
_C, _S = f"({'|'.join(COLOURS)})", f"({'|'.join(SHAPES)}|item|block)s?"
_Q = r"(?:(at least|exactly|only|no more than|more than|less than|not more than|at most)? ?(?:a|an|(\d)))"
_ON, _UNDER = "on top of|on|over|above", "below|under"


# Ways of saying what others say in another way.
_TURNS = (
    (r"^none of the", "no"),
    (r"^t least", "at least"),
    (r"^ll\b", "all"),
    (r"tocuhing", "touching"),
    (r" (?:is|are|that is|that are) touching", " touching"),
    (r"^(.+) in (?:each|every) box$", r"each box has \1"),
    (r"^a box that has", "a box with"),
    (r"^(the|a) (\d) blocks? tower", r"\1 tower with \2 blocks"),
    (r"^the (?=tower )", "a "),
    (rf"^the (base|top) of a tower is {_C}$", r"a tower with a \2 block at the \1"),
    (rf"^the (base|top) of (?:a|the) (\d) blocks? tower is {_C}$", r"a tower with \2 blocks with a \3 block at the \1"),
    (rf"\b1 {_C} block at", r"a \1 block at"),
    (rf"\b(?:a )?{_C} (?:color )?(?:block at the )?(base|top)$", r"a \1 block at the \2"),
    (rf"\b(?:a |the )?(base|top) (?:of|is) {_C}(?: blocks?)?$", r"a \2 block at the \1"),
    (rf"\b(items?|blocks?) that (?:is|are) {_C}$", r"\2 \1"),
    (rf"items? of that (\d) (?:is|are) (?:a )?{_C}$", r"items and \1 \2 items"),
    (rf"items? of that at least (\d) (?:is|are) (?:a )?{_C}$", r"items and at least \1 \2 items"),
    (rf"(\d) {_C} and (\d) {_C} items?$", r"\1 \2 items and \3 \4 items"),
    (rf"blocks of {_C} color only", r"only \1 blocks"),
    (r"(?:all )?(?:the )?blocks (?:are )?of (?:the )?(?:same|1|single) color", "1 color"),
    (r"(?:the )?blocks? of all 3 color", "3 color"),
    (r" where the (?=\w+ item is on top)", " and the "),
)


def read(sentence: str) -> Claim | None:
    """What a sentence claims; None for a form that is not known."""
    text = plain(sentence)
    return next((found for form in (_each, _boxes, _towers, _items) if (found := form(text)) is not None), None)


def plain(sentence: str) -> str:
    """A sentence in small letters, with figures, and with one word for each thing."""
    words = re.sub(r"[^a-z0-9 ]", " ", sentence.lower()).split()
    text = " ".join(_WORDS.get(word, word) for word in words)
    text = re.sub(r"\bgray (?:square|box)(?:es|s)?\b|\bboxes\b", "box", text)
    text = re.sub(r"^there (?:is|are) ", "", re.sub(r"\bclosely |\bin color\b|\beach$| it is\b", "", text).strip())
    text = re.sub(r"\btowers\b", "tower", re.sub(r" +", " ", text)).strip()
    for said, meant in _TURNS:
        text = re.sub(said, meant, text)
    return text


def quantity(how: str | None, number: str | None) -> Quantity:
    """How many there have to be: `at least 2`, `more than 1`; a plain number is exact, "a" is at least one."""
    count = int(number or 1)
    if how == "at least" or (how is None and number is None):
        return Quantity("at least", count)
    if how == "more than":
        return Quantity("at least", count + 1)
    if how == "less than":
        return Quantity("at most", count - 1)
    return Quantity("at most" if how in ("no more than", "not more than", "at most") else "exactly", count)


def _of(first: str, how: str | None, number: str | None) -> Quantity:
    return Quantity("exactly", 0) if first == "no" else quantity(how, number)


def _each(text: str) -> Claim | None:
    """Of all boxes, or of all towers."""
    match = re.fullmatch(r"(?:each|every|all|ll)(?: the)?(?: 3)? (box|tower)(?: has| with)? (.+)", text)
    if match is None:
        return None
    inner = _inside(match[2]) if match[1] == "box" else _heights(match[2])
    return _claim("boxes" if match[1] == "box" else "towers", Quantity("at least", 3), inner)


def _boxes(text: str) -> Claim | None:
    """Of some boxes: with items in them."""
    match = re.fullmatch(rf"(no|{_Q})(?: of the)? box (?:with|has|that has) (.+)", text)
    return match and _claim("boxes", _of(match[1], match[2], match[3]), _inside(match[4]))


def _towers(text: str) -> Claim | None:
    """Of some towers: by their height, colours, or what stands on what."""
    text = re.sub(r"^the tower", "a tower", text)
    if match := re.fullmatch(rf"(no|{_Q}) {_C} blocks? as the (base|top) of (?:a )?tower(?: with (.+))?", text):
        claimed = [f"a {match[4]} block at the {match[5]}", *([match[6]] if match[6] else [])]
    elif match := re.fullmatch(rf"(no|{_Q}) {_C} tower(?: with (.+))?", text):
        claimed = [f"only {match[4]} blocks", *([match[5]] if match[5] else [])]
    elif match := re.fullmatch(
        rf"(no|{_Q})(?: of the(?: \d)?)? tower (?:with|that has|has|that is|that are) (.+)", text
    ):
        claimed = re.split(r" (?:with|and it has|that has|has) ", match[4])
    else:
        return None
    return _claim("towers", _of(match[1], match[2], match[3]), _all(_heights, claimed))


def _items(text: str) -> Claim | None:
    """Of some items, wherever they are."""
    if match := re.fullmatch(rf"(a|no) {_C} block ({_ON}|{_UNDER}) (?:a|the) {_C} block", text):
        found = Quantity("exactly", 0) if match[1] == "no" else Quantity("at least", 1)
        return Claim("towers", found, (_over(match[2], match[3], match[4]),))
    match = re.fullmatch(rf"(no|{_Q}) (?:(small|medium|big|large) )?(?:{_C} )?{_S}( .+)?", text)
    if match is None or (sort := _sort(match[4], match[5], match[6], match[7])) is None:
        return None
    return Claim("items", _of(match[1], match[2], match[3]), sort=sort)


def _claim(of: str, how_many: Quantity, inner: Sequence[Condition] | None) -> Claim | None:
    return None if inner is None else Claim(of, how_many, tuple(inner))


def _all(reads: Callable[[str], list[Condition] | None], texts: Sequence[str]) -> list[Condition] | None:
    found = [reads(text) for text in texts]
    return None if None in found else [one for conditions in found for one in conditions]


def _inside(text: str) -> list[Condition] | None:
    """What is in a box: `2 blue squares`, `only yellow items`, `4 items and a black one on top`, joined by "and"."""
    if match := re.fullmatch(
        rf"(?:(\d) )?(?:only )?(?:items? of )?(?:only )?{_C} and {_C}(?: color)?(?: items?| blocks?)?", text
    ):
        return [*_number(match[1]), only((match[2], match[3]))]
    if match := re.fullmatch(rf"(?:items? of )?only (?:{_C}|(\d) color)(?: color)?(?: items?)?", text):
        return [only((match[1],)) if match[1] else coloured(int(match[2]))]
    if match := re.fullmatch(r"(?:(\d) )?items? of (?:all )?(\d)(?: different)? color", text):
        return [*_number(match[1]), coloured(int(match[2]))]
    if match := re.fullmatch(rf"(?:(.+) and )?(?:the|a) {_C} (?:1|item|is)(?: is)? on top", text):
        rest = _inside(match[1]) if match[1] else []
        return None if rest is None else [*rest, at_end(match[2], "top")]
    if re.fullmatch(r".+ and .+", text) and not re.search("touching", text):
        return _all(_inside, text.split(" and "))
    found = _items(text)
    if found is None:
        return None
    return [counted(found.sort, found.quantity)] if found.sort else list(found.conditions)


def _number(count: str | None) -> list[Condition]:
    return [counted(Sort(), Quantity("exactly", int(count)))] if count else []


def _heights(text: str) -> list[Condition] | None:
    """What a tower has: `3 blocks`, `a blue block at the base`, `2 black blocks stacked together`."""
    if match := re.fullmatch(rf"(?:a )?{_C} block at (?:the )?(base|top)", text):
        return [at_end(match[1], match[2])]
    if match := re.fullmatch(rf"(\d) {_C} blocks at the (base|top)", text):
        return [at_end(match[2], match[3], int(match[1]))]
    if match := re.fullmatch(rf"(\d) {_C} blocks? stacked together", text):
        return [stacked(match[2], int(match[1]))]
    if match := re.fullmatch(rf"a {_C} block ({_ON}|{_UNDER}) a {_C} block", text):
        return [_over(match[1], match[2], match[3])]
    if match := re.fullmatch(r"(?:only )?(\d) color", text):
        return [coloured(int(match[1]))]
    if match := re.fullmatch(rf"only {_C} blocks?", text):
        return [only((match[1],))]
    if match := re.fullmatch(rf"only {_C} and {_C} blocks?", text):
        return [only((match[1], match[2]))]
    if match := re.fullmatch(rf"(?:{_Q} {_C} blocks?)(?: and {_Q} {_C} blocks?)?", text):
        first = counted(Sort(match[3], "block"), quantity(match[1], match[2]))
        return [first, *([counted(Sort(match[6], "block"), quantity(match[4], match[5]))] if match[6] else [])]
    if match := re.fullmatch(rf"{_Q} (?:blocks?|items?)", text):
        return [counted(Sort(None, "block"), quantity(match[1], match[2] or "1"))]
    return None


def _over(first: str, how: str, second: str) -> Condition:
    return over(second, first) if re.fullmatch(_UNDER, how) else over(first, second)


def _sort(size: str | None, colour: str | None, shape: str, place: str | None) -> Sort | None:
    """Items by how they look, and by where they are: `touching the wall`, `not touching any edge`, or anywhere."""
    sort = Sort(colour, shape, "large" if size == "big" else size)
    if not place:
        return sort
    match = re.fullmatch(
        r" (not )?touching (?:the |any |a |an )?(wall|base|top|right wall|left wall|corner)(?: .*box)?", place
    )
    return match and Sort(sort.colour, sort.shape, sort.size, match[2], not match[1])
