"""Sentences about boxes, as people wrote them for NLVR, read into what they claim of each box; of most, not of all.

`verdict` gives the thought that decides a sentence: each box once more, with how much it has of what is claimed, then
how many there are, then the answer. Sentences in no known form are None. The forms are those of the training split.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from recipes.nano.boxes import BOX, COLOURS, SHAPES, SIZES, Box, Item, is_tower, told_box

_WORDS = {
    "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "atleast": "at least",
    "tleast": "at least", "bellow": "below", "squere": "square", "grey": "gray", "colors": "color", "colour": "color",
    "colours": "color", "ablue": "a blue", "atower": "a tower", "abox": "a box", "contains": "has", "contain": "has",
    "contained": "has", "which": "that", "whoch": "that", "objects": "items", "object": "item", "bottom": "base",
    "edge": "wall", "side": "wall", "edges": "wall", "having": "with", "blccks": "blocks", "have": "has", "bae": "base",
}  # fmt: skip
_C, _S = f"({'|'.join(COLOURS)})", f"({'|'.join(SHAPES)}|item|block)s?"
_Q = r"(?:(at least|exactly|only|no more than|more than|less than|not more than)? ?(?:a|an|(\d)))"
Claim = Callable[[Box], int]
"""How many of what is claimed a box has."""


def verdict(sentence: str, boxes: Sequence[Box]) -> tuple[str, str] | None:
    """The thought that decides a sentence about boxes, and the answer; None for a form that is not known."""
    text = plain(sentence)
    read = next((found for form in (_each, _boxes, _towers, _things) if (found := form(text)) is not None), None)
    if read is None:
        return None
    claim, decides = read
    counts = [claim(box) for box in boxes]
    answer = "yes" if decides(sum(counts)) else "no"
    each = "; ".join(f"{told_box(box)}: {count}" for box, count in zip(boxes, counts, strict=True))
    return f"{each}; {sum(counts)}; {answer}", answer


def plain(sentence: str) -> str:
    """A sentence in small letters, with figures, and with one word for each thing."""
    words = re.sub(r"[^a-z0-9 ]", " ", sentence.lower()).split()
    text = " ".join(_WORDS.get(word, word) for word in words)
    text = re.sub(r"\bgray (?:square|box)(?:es|s)?\b|\bboxes\b", "box", text)
    text = re.sub(r"^there (?:is|are) ", "", re.sub(r"\bclosely |\bin color\b|\beach$| it is\b", "", text).strip())
    return re.sub(r"\btowers\b", "tower", re.sub(r" +", " ", text)).strip()


def _quantity(how: str | None, number: str | None) -> Callable[[int], bool]:
    """What a number of things has to be: `at least 2`, `exactly 2`; a plain number above one is exact too."""
    count = int(number or 1)
    if how in ("at least", None) and (number is None or how == "at least"):
        return lambda found: found >= count
    if how in ("no more than", "not more than"):
        return lambda found: found <= count
    if how == "more than":
        return lambda found: found > count
    if how == "less than":
        return lambda found: found < count
    return lambda found: found == count


def _each(text: str) -> tuple[Claim, Callable[[int], bool]] | None:
    """Of all boxes, or of all towers."""
    match = re.fullmatch(r"(?:each|every|all|ll)(?: the)?(?: 3)? (?:box|tower)(?: has| with)? (.+)", text)
    if match is None or (inner := _inside(match[1])) is None:
        return None
    return (lambda box: int(inner(box))), (lambda found: found == 3)


def _boxes(text: str) -> tuple[Claim, Callable[[int], bool]] | None:
    """Of some boxes: with things in them."""
    match = re.fullmatch(rf"{_Q}(?: of the)? box (?:with|has|that has) (.+)", text)
    if match is None or (inner := _inside(match[3])) is None:
        return None
    return (lambda box: int(inner(box))), _quantity(match[1], match[2])


def _towers(text: str) -> tuple[Claim, Callable[[int], bool]] | None:
    """Of some towers: by their height, colours, or what stands on what."""
    text = re.sub(r"^the tower", "a tower", text)
    if match := re.fullmatch(rf"(no|{_Q}) {_C} blocks? as the (base|top) of (?:a )?tower(?: with (.+))?", text):
        decides = (lambda found: found == 0) if match[1] == "no" else _quantity(match[2], match[3])
        claimed = [f"a {match[4]} block at the {match[5]}", *([match[6]] if match[6] else [])]
    elif match := re.fullmatch(rf"(no|{_Q}) {_C} tower(?: with (.+))?", text):
        decides = (lambda found: found == 0) if match[1] == "no" else _quantity(match[2], match[3])
        claimed = [f"only {match[4]} blocks", *([match[5]] if match[5] else [])]
    elif match := re.fullmatch(
        rf"(no|{_Q})(?: of the(?: \d)?)? tower (?:with|that has|has|that is|that are) (.+)", text
    ):
        decides = (lambda found: found == 0) if match[1] == "no" else _quantity(match[2], match[3])
        claimed = re.split(r" (?:with|and it has|that has) ", match[4])
    else:
        return None
    inner = [_tower(one) for one in claimed]
    if None in inner:
        return None
    return (lambda box: int(is_tower(box) and all(one(box) for one in inner if one))), decides


def _things(text: str) -> tuple[Claim, Callable[[int], bool]] | None:
    """Of some items, wherever they are."""
    if match := re.fullmatch(rf"a {_C} block (on|over|above|below|under|on top of) (?:a|the) {_C} block", text):
        first, second = (match[1], match[3]) if match[2] not in ("below", "under") else (match[3], match[1])
        return (lambda box: int(_over(box, first, second))), (lambda found: found > 0)
    match = re.fullmatch(rf"(no|{_Q}) (?:(small|medium|big|large) )?(?:{_C} )?{_S}( .+)?", text)
    if match is None or (placed := _placed((match[7] or "").strip())) is None:
        return None
    decides = (lambda found: found == 0) if match[1] == "no" else _quantity(match[2], match[3])
    kind = _kind(match[4], match[5], match[6])
    return (lambda box: sum(kind(item) and placed(item) for item in box)), decides


def _inside(text: str) -> Callable[[Box], bool] | None:
    """What is in a box: `2 blue squares`, `only yellow items`, `4 items and a black one on top`, joined by "and"."""
    if match := re.fullmatch(
        rf"(?:(\d) )?(?:only )?(?:items? of )?(?:only )?{_C} and {_C}(?: color)?(?: items?| blocks?)?", text
    ):
        colours = {match[2], match[3]}
        return lambda box: {item.colour for item in box} == colours and len(box) == int(match[1] or len(box))
    if match := re.fullmatch(rf"(?:items? of )?only (?:{_C}|(\d) color)(?: color)?(?: items?)?", text):
        return lambda box: (
            bool(box)
            and (
                {item.colour for item in box} == {match[1]}
                if match[1]
                else len({i.colour for i in box}) == int(match[2])
            )
        )
    if match := re.fullmatch(r"(?:(\d) )?items? of (?:all )?(\d)(?: different)? color", text):
        return lambda box: len({i.colour for i in box}) == int(match[2]) and len(box) == int(match[1] or len(box))
    if match := re.fullmatch(rf"(?:(.+) and )?(?:the|a) {_C} (?:1|item|is)(?: is)? on top", text):
        rest = _inside(match[1]) if match[1] else (lambda box: True)
        return rest and (lambda box: bool(box) and rest(box) and min(box, key=lambda i: i.top).colour == match[2])
    if re.fullmatch(r".+ and .+", text) and not re.search("touching", text):
        parts = [_inside(part) for part in text.split(" and ")]
        return None if None in parts else (lambda box: all(part(box) for part in parts if part))
    found = _things(text)
    if found is None:
        return None
    claim, decides = found
    return lambda box: decides(claim(box))


def _tower(text: str) -> Callable[[Box], bool] | None:
    """What a tower has: `3 blocks`, `a blue block at the base`, `2 black blocks stacked together`."""
    if match := re.fullmatch(rf"(?:a )?{_C} block at (?:the )?(base|top)", text):
        return lambda box: box[0 if match[2] == "base" else -1].colour == match[1]
    if match := re.fullmatch(rf"(\d) {_C} blocks at the (base|top)", text):
        count = int(match[1])
        ends = (lambda box: box[:count]) if match[3] == "base" else (lambda box: box[-count:])
        return lambda box: [item.colour for item in ends(box)] == [match[2]] * count
    if match := re.fullmatch(rf"(\d) {_C} blocks? stacked together", text):
        return lambda box: match[2] * int(match[1]) in "".join(item.colour for item in box)
    if match := re.fullmatch(rf"a {_C} block (over|above|on|on top of|below|under) a {_C} block", text):
        upper, lower = (match[1], match[3]) if match[2] not in ("below", "under") else (match[3], match[1])
        return lambda box: _over(box, upper, lower)
    if match := re.fullmatch(rf"only {_C} blocks?", text):
        return lambda box: {item.colour for item in box} == {match[1]}
    if match := re.fullmatch(rf"only {_C} and {_C} blocks?", text):
        return lambda box: {item.colour for item in box} == {match[1], match[2]}
    if match := re.fullmatch(rf"(?:{_Q} {_C} blocks?)(?: and {_Q} {_C} blocks?)?", text):
        first, second = _quantity(match[1], match[2]), _quantity(match[4], match[5])
        return lambda box: first(_number(box, match[3])) and (match[6] is None or second(_number(box, match[6])))
    if match := re.fullmatch(rf"{_Q} (?:blocks?|items?)", text):
        decides = _quantity(match[1], match[2]) if match[2] != "1" else (lambda found: found == 1)
        return lambda box: decides(len(box))
    return None


def _number(box: Box, colour: str) -> int:
    return sum(item.colour == colour for item in box)


def _over(box: Box, upper: str, lower: str) -> bool:
    """Whether in a tower a block of one colour stands right on one of the other."""
    return is_tower(box) and (lower, upper) in {(a.colour, b.colour) for a, b in zip(box, box[1:], strict=False)}


def _kind(size: str | None, colour: str | None, shape: str) -> Callable[[Item], bool]:
    size = "large" if size == "big" else size
    return lambda item: (
        size in (None, SIZES[item.side])
        and colour in (None, item.colour)
        and shape in ("item", item.shape, "block" if item.shape == "square" else "")
    )


def _placed(text: str) -> Callable[[Item], bool] | None:
    """Where an item is: `touching the wall`, `not touching any edge`, or anywhere."""
    if not text:
        return lambda item: True
    match = re.fullmatch(
        r"(not )?touching (?:the |any |a |an )?(wall|base|top|right wall|left wall|corner)(?: .*box)?", text
    )
    if match is None:
        return None
    place = match[2]

    def touches(item: Item) -> bool:
        left, right = item.left <= 1, item.left + item.side >= BOX - 1
        top, base = item.top <= 1, item.top + item.side >= BOX - 1
        known = {"base": base, "top": top, "right wall": right, "left wall": left}
        known |= {"wall": left or right or top or base, "corner": (left or right) and (top or base)}
        return known[place]

    return (lambda item: not touches(item)) if match[1] else touches
