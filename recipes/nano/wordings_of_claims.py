"""Claims about boxes drawn at random, and put into words in many ways, as people put them."""

from __future__ import annotations

import random

from recipes.nano.boxes import COLOURS, SHAPES, SIZES
from recipes.nano.claims import PLACES, Claim, Condition, Quantity, Sort, at_end, coloured, counted, only, over, stacked

_FIGURES = ("no", "one", "two", "three", "four", "five", "six", "seven")
_WALLS = {
    "wall": ("the wall", "the edge", "the side", "any edge", "an edge", "a wall", "any of the walls", "the edges"),
    "base": ("the base", "the bottom", "the bottom of a box", "the bottom edge", "the bottom wall"),
    "top": ("the top", "the top edge", "the top of a box", "the top wall"),
    "left wall": ("the left wall", "the left edge", "left wall of a box", "the left side"),
    "right wall": ("the right wall", "the right edge", "right wall of a box", "the right side"),
    "corner": ("the corner", "a corner", "a corner of a box", "a box corner"),
}
Said = tuple[str, Condition]


def worded(rng: random.Random) -> tuple[str, Claim]:
    """A sentence, and what it claims."""
    said, claim = rng.choice((_of_items, _of_boxes, _of_boxes, _of_towers, _of_towers, _of_blocks))(rng)
    said = said[:1].upper() + said[1:] if rng.random() < 0.6 else said
    return (f"{said}." if rng.random() < 0.6 else said), claim


def _quantity(rng: random.Random, most: int) -> Quantity:
    """How many there have to be: mostly few."""
    count = min(rng.choice((1, 1, 1, 2, 2, 3, 4, 5)), most)
    how = rng.choice(("at least", "at least", "exactly", "exactly", "at most"))
    return Quantity("exactly", 0) if rng.random() < 0.08 else Quantity(how, count)


def _how_many(rng: random.Random, quantity: Quantity, figures: bool) -> tuple[str, bool]:
    """A quantity in words, and whether more than one is spoken of; in figures, if so, beside each other."""

    def figure(count: int) -> str:
        return str(count) if figures and count else _FIGURES[count]

    count = quantity.count
    if quantity.how == "exactly" and not count:
        return "no", rng.random() < 0.3
    if quantity.how == "at least" and count == 1 and rng.random() < 0.7:
        return "a", False
    if quantity.how == "at least":
        ways = [f"{how} {figure(count)}" for how in ("at least", "at least", "atleast")]
        ways += [f"more than {figure(count - 1)}"] if count > 1 else []
    elif quantity.how == "at most":
        ways = [f"{how} {figure(count)}" for how in ("at most", "no more than", "not more than")]
        ways.append(f"less than {figure(count + 1)}")
    else:
        plain = [figure(count)] if count > 1 or rng.random() < 0.5 else []
        ways = [f"exactly {figure(count)}", f"only {figure(count)}", *plain]
    return rng.choice(ways), count > 1


def _noun(rng: random.Random, sort: Sort, many: bool, thing: str | None = None) -> str:
    shape = thing or (rng.choice(("item", "item", "object")) if sort.shape == "item" else sort.shape)
    size = rng.choice(("large", "big")) if sort.size == "large" else sort.size
    return " ".join(filter(None, (size, sort.colour, f"{shape}s" if many else shape)))


def _place(rng: random.Random, sort: Sort) -> str:
    if sort.place is None:
        return ""
    close = "closely " if sort.touching and rng.random() < 0.3 else ""
    return f" {'' if sort.touching else 'not '}{close}touching {rng.choice(_WALLS[sort.place])}"


def _sort(rng: random.Random, placed: float) -> Sort:
    place = rng.choice(("wall", "wall", *PLACES)) if rng.random() < placed else None
    return Sort(
        colour=rng.choice(list(COLOURS)) if rng.random() < 0.75 else None,
        shape=rng.choice(("item", "item", *SHAPES)),
        size=rng.choice(list(SIZES.values())) if rng.random() < 0.08 else None,
        place=place,
        touching=rng.random() < 0.7,
    )


def _with_a(text: str) -> str:
    """ "a" before a vowel is "an"."""
    return f"an {text[2:]}" if text.startswith("a ") and text[2:3] in "aeiou" else text


def _some(rng: random.Random, sort: Sort, quantity: Quantity, figures: bool, thing: str | None = None) -> str:
    said, many = _how_many(rng, quantity, figures)
    return _with_a(f"{said} {_noun(rng, sort, many, thing)}{_place(rng, sort)}")


def _of_items(rng: random.Random) -> tuple[str, Claim]:
    sort, quantity, figures = _sort(rng, 0.75), _quantity(rng, 5), rng.random() < 0.4
    claim = Claim("items", quantity, sort=sort)
    if quantity == Quantity("exactly", 0) and sort.place and rng.random() < 0.4:
        return f"none of the {_noun(rng, sort, True)} are{_place(rng, sort)}", claim
    said, many = _how_many(rng, quantity, figures)
    noun, place = _noun(rng, sort, many), _place(rng, sort)
    if sort.place and rng.random() < 0.2:
        return _with_a(f"{said} {noun} {'are' if many else 'is'}{place}"), claim
    return f"there {'are' if many else 'is'} {_with_a(f'{said} {noun}{place}')}", claim


def _of_boxes(rng: random.Random) -> tuple[str, Claim]:
    figures = rng.random() < 0.4
    parts = [_in_box(rng, figures)]
    if rng.random() < 0.3:
        parts.append(_counted_in_box(rng, figures))
    elif rng.random() < 0.2:
        colour = rng.choice(list(COLOURS))
        way = rng.choice(("the {} one is on top", "a {} item on top", "the {} item is on top"))
        parts.append((way.format(colour), at_end(colour, "top")))
    inner = rng.choice((" and ", " and ", ", and ")).join(said for said, _ in parts)
    said, quantity = _subject(rng, "box", figures, inner)
    return said, Claim("boxes", quantity, tuple(one for _, one in parts))


def _of_towers(rng: random.Random) -> tuple[str, Claim]:
    figures = rng.random() < 0.4
    parts = [_in_tower(rng, figures)]
    if rng.random() < 0.3:
        parts.append(_in_tower(rng, figures))
    inner = rng.choice((" with ", " having ", " and it has ", " and ")).join(said for said, _ in parts)
    said, quantity = _subject(rng, "tower", figures, inner)
    return said, Claim("towers", quantity, tuple(one for _, one in parts))


def _subject(rng: random.Random, thing: str, figures: bool, inner: str) -> tuple[str, Quantity]:
    """The beginning of a sentence about boxes or towers, with what is in them behind it."""
    many_things = "boxes" if thing == "box" else "towers"
    if rng.random() < 0.12:
        three = f"all {3 if figures else 'three'} {many_things} have"
        ways = (f"each {thing} has", f"every {thing} has", f"all {many_things} have", three, f"each {thing} contains")
        return f"{rng.choice(ways)} {inner}", Quantity("at least", 3)
    if rng.random() < 0.12:
        them = rng.choice(("grey square", "grey box", "boxes") if thing == "box" else ("towers", "three towers"))
        has = rng.choice(("has", "contains"))
        one = rng.choice(("one", "1") if figures else ("one",))
        return f"{one} of the {them} {has} {inner}", Quantity("exactly", 1)
    quantity = _quantity(rng, 3)
    said, many = _how_many(rng, quantity, figures)
    grey = "grey " if thing == "box" and rng.random() < 0.1 else ""
    named = f"{grey}{many_things if many else thing}"
    one_has = ("with", "with", "with", "having", "that has", "which has", "that contains", "containing")
    many_have = ("with", "with", "with", "having", "that have", "which have", "that contain", "containing")
    link = rng.choice(many_have if many else one_has)
    if rng.random() < 0.12:
        return f"{said} {named} {'have' if many else 'has'} {inner}", quantity
    return f"there {'are' if many else 'is'} {said} {named} {link} {inner}", quantity


def _counted_in_box(rng: random.Random, figures: bool) -> Said:
    sort, quantity = _sort(rng, 0.15), _quantity(rng, 5)
    return _some(rng, sort, quantity, figures), counted(sort, quantity)


def _in_box(rng: random.Random, figures: bool) -> Said:
    kind = rng.random()
    if kind < 0.55:
        return _counted_in_box(rng, figures)
    one, two = rng.sample(list(COLOURS), 2)
    if kind < 0.65:
        way = rng.choice(("only {} items", "items of only {} color", "only {} objects", "all {} items"))
        return way.format(one), only((one,))
    if kind < 0.75:
        ways = ("only {} and {} items", "items of only {} and {} color", "only {} and {} objects")
        return rng.choice(ways).format(one, two), only((one, two))
    if kind < 0.85:
        count = rng.choice((1, 2, 3))
        ways = {
            1: ("items of only one color", "only one color"),
            2: ("items of two colors", "items of 2 different colors"),
            3: ("items of all 3 colors", "items of all three different colors", "all 3 colors"),
        }
        return rng.choice(ways[count]), coloured(count)
    way = rng.choice(("a {} item on top", "a {} one on top", "the {} item on top"))
    return way.format(one), at_end(one, "top")


def _in_tower(rng: random.Random, figures: bool) -> Said:
    kind = rng.random()
    one, two = rng.choice(list(COLOURS)), rng.choice(list(COLOURS))
    if kind < 0.2:
        quantity = _quantity(rng, 4)
        if quantity == Quantity("at least", 1):
            quantity = Quantity("exactly", 1)
        return _some(rng, Sort(None, "block"), quantity, figures, "block"), counted(Sort(None, "block"), quantity)
    if kind < 0.4:
        sort, quantity = Sort(one, "block"), _quantity(rng, 4)
        return _some(rng, sort, quantity, figures, "block"), counted(sort, quantity)
    if kind < 0.65:
        end, count = rng.choice(("top", "base")), rng.choice((1, 1, 1, 2))
        named = "top" if end == "top" else rng.choice(("base", "bottom"))
        if count == 1:
            ways = ("a {} block at the {}", "a {} block at {}", "a {} block as its {}", "a {} {}")
            return rng.choice(ways).format(one, named), at_end(one, end)
        return f"{2 if figures else 'two'} {one} blocks at the {named}", at_end(one, end, 2)
    if kind < 0.85:
        return _on(rng, one, two)
    if kind < 0.9:
        count = rng.choice((2, 2, 3))
        return f"{count if figures else _FIGURES[count]} {one} blocks stacked together", stacked(one, count)
    if kind < 0.94:
        return rng.choice(("only {} blocks", "blocks of only {} color")).format(one), only((one,))
    if kind < 0.97 and one != two:
        way = rng.choice(("only {} and {} blocks", "only blocks of {} and {} color"))
        return way.format(one, two), only((one, two))
    return rng.choice(("blocks of all 3 colors", "blocks of all three colors", "all 3 colors")), coloured(3)


def _on(rng: random.Random, upper: str, lower: str) -> Said:
    if rng.random() < 0.25:
        return f"a {lower} block {rng.choice(('below', 'under'))} a {upper} block", over(upper, lower)
    return f"a {upper} block {rng.choice(('on', 'over', 'above', 'on top of'))} a {lower} block", over(upper, lower)


def _of_blocks(rng: random.Random) -> tuple[str, Claim]:
    """Sentences that begin with a block, or with the top or the base of a tower, or speak of a tower's only colour."""
    one, two = rng.choice(list(COLOURS)), rng.choice(list(COLOURS))
    figures, kind = rng.random() < 0.4, rng.random()
    if kind < 0.3:
        said, condition = _on(rng, one, two)
        if rng.random() < 0.15:
            return f"there is no{said[1:]}", Claim("towers", Quantity("exactly", 0), (condition,))
        return f"there is {said}", Claim("towers", Quantity("at least", 1), (condition,))
    if kind < 0.45:
        quantity, tall = _quantity(rng, 3), _quantity(rng, 4)
        said, many = _how_many(rng, quantity, figures)
        behind, conditions = "", [only((one,))]
        if rng.random() < 0.5 and tall != Quantity("at least", 1):
            behind = f" with {_some(rng, Sort(None, 'block'), tall, figures, 'block')}"
            conditions.append(counted(Sort(None, "block"), tall))
        named = f"{said} {one} {'towers' if many else 'tower'}{behind}"
        return f"there {'are' if many else 'is'} {named}", Claim("towers", quantity, tuple(conditions))
    end = rng.choice(("top", "base"))
    quantity = _quantity(rng, 3)
    behind, conditions = "", [at_end(one, end)]
    if rng.random() < 0.6:
        text, condition = _in_tower(rng, figures)
        behind, conditions = f" with {text}", [*conditions, condition]
    if kind < 0.85:
        said, many = _how_many(rng, quantity, figures)
        named = f"{said} {one} {'blocks' if many else 'block'} as the {end} of a tower{behind}"
        return f"there {'are' if many else 'is'} {named}", Claim("towers", quantity, tuple(conditions))
    if rng.random() < 0.5:
        said, tall = f"the {end} of a tower is {one}", Quantity("at least", 1)
        return said, Claim("towers", tall, (at_end(one, end),))
    count = rng.choice((1, 2, 3, 4))
    height = counted(Sort(None, "block"), Quantity("exactly", count))
    said = f"the tower with {count if figures else _FIGURES[count]} blocks has a {one} block at the {end}"
    return said, Claim("towers", Quantity("at least", 1), (height, at_end(one, end)))
