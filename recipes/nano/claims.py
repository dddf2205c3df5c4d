"""What a sentence claims of three boxes, and the thought that decides it: each item once more, with what it counts for.

`claim.words` says a claim in few words, always in the same ones: `boxes at least two: yellow item exactly one, only
black and yellow`. The thought begins with them, so that reading a sentence is one step and looking at the boxes others.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from recipes.nano.boxes import SIZES, Box, Item, is_tower, told_box, walls

PLACES = ("wall", "base", "top", "left wall", "right wall", "corner")
NO = "no"
MANY = 12  # more are not told apart: no sentence speaks of so many


def number(count: int) -> str:
    """A number in words."""
    return _NUMBERS[min(count, MANY)]


_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "many")


@dataclass(frozen=True)
class Quantity:
    """How many there have to be: "at least", "exactly" or "at most" `count`."""

    how: str
    count: int

    def __call__(self, found: int) -> bool:
        return {"at least": found >= self.count, "at most": found <= self.count}.get(self.how, found == self.count)

    @property
    def words(self) -> str:
        return f"{self.how} {number(self.count)}"


@dataclass(frozen=True)
class Condition:
    """What is asked of a box. marks: for each item in it, what that counts for. holds: whether the box has it."""

    words: str
    marks: Callable[[Box], list[str]]
    holds: Callable[[Box], bool]


@dataclass(frozen=True)
class Sort:
    """Which items are meant. shape: one of `SHAPES`, "item", or "block", which is a square. place: where they touch."""

    colour: str | None = None
    shape: str = "item"
    size: str | None = None
    place: str | None = None
    touching: bool = True

    def __call__(self, item: Item) -> bool:
        return (
            self.size in (None, SIZES[item.side])
            and self.colour in (None, item.colour)
            and self.shape in ("item", item.shape, "block" if item.shape == "square" else "")
            and (self.place is None or touches(item, self.place) == self.touching)
        )

    @property
    def words(self) -> str:
        place = f"{'' if self.touching else 'not '}touching {self.place}" if self.place else None
        return " ".join(filter(None, (self.size, self.colour, self.shape, place)))


@dataclass(frozen=True)
class Claim:
    """`quantity` boxes or towers of which all `conditions` hold; without conditions, as many items of a `sort`."""

    of: str
    quantity: Quantity
    conditions: tuple[Condition, ...] = ()
    sort: Sort | None = None

    @property
    def words(self) -> str:
        inner = self.sort.words if self.sort else ", ".join(one.words for one in self.conditions)
        return f"{self.of} {self.quantity.words}: {inner}"

    def thought(self, boxes: Sequence[Box]) -> tuple[str, bool]:
        """The thought about boxes, and whether the claim is true."""
        said, found = [], 0
        for at, box in enumerate(boxes, 1):
            if self.sort:
                marks = []
                for item in box:
                    found += (own := self.sort(item))
                    marks.append(number(found) if own else NO)
                said.append(f"[{at}] {marked(box, marks)}")
                continue
            steps, held = [], self.of == "boxes" or is_tower(box)
            for one in self.conditions if held else ():
                held = one.holds(box)
                steps.append(f"{one.words}: {marked(box, one.marks(box))}, {'yes' if held else NO}")
                if not held:
                    break
            found += held
            said.append(f"[{at}] {', '.join([*steps, number(found) if held else NO])}")
        true = self.quantity(found)
        return f"{self.words}; {'; '.join(said)}; {number(found)}, {self.quantity.words}", true


def marked(box: Box, marks: Sequence[str]) -> str:
    """Every item of a box with its mark behind it; a tower by its colours."""
    if not box:
        return "nothing"
    items = told_box(box).removeprefix("tower: ").split(", ")
    return ", ".join(f"{item} {mark}".rstrip() for item, mark in zip(items, marks, strict=True))


def touches(item: Item, place: str) -> bool:
    """Whether an item touches a wall of its box, the one that is named, or two that meet."""
    touched = set(walls(item))
    if place == "wall":
        return bool(touched)
    if place == "corner":
        return bool(touched & {"left", "right"} and touched & {"top", "bottom"})
    return {"base": "bottom"}.get(place, place.removesuffix(" wall")) in touched


def counted(sort: Sort, quantity: Quantity) -> Condition:
    """How many items of a sort there are."""

    def marks(box: Box) -> list[str]:
        found = itertools.accumulate(map(sort, box))
        return [number(so_far) if sort(item) else NO for item, so_far in zip(box, found, strict=True)]

    return Condition(f"{sort.words} {quantity.words}", marks, lambda box: quantity(sum(map(sort, box))))


def only(colours: Sequence[str]) -> Condition:
    """All of these colours, and no other one."""
    named = sorted(set(colours))
    return Condition(
        f"only {' and '.join(named)}", new_colours(named), lambda box: {item.colour for item in box} == set(named)
    )


def coloured(count: int) -> Condition:
    """So many different colours."""
    return Condition(
        f"colors {number(count)}", new_colours(None), lambda box: len({item.colour for item in box}) == count
    )


def new_colours(named: Sequence[str] | None) -> Callable[[Box], list[str]]:
    def marks(box: Box) -> list[str]:
        seen: list[str] = []
        found = []
        for item in box:
            if named is None or item.colour in named:
                seen += [item.colour] if item.colour not in seen else []
                found.append(number(len(seen)))
            else:
                found.append(NO)
        return found

    return marks


def at_end(colour: str, end: str, count: int = 1) -> Condition:
    """So many items of a colour at the top or at the base, which is the highest item, or the first one."""

    def chosen(box: Box) -> list[int]:
        if is_tower(box):
            return list(range(count) if end == "base" else range(len(box) - count, len(box)))
        return [min(range(len(box)), key=lambda at: box[at].top)] if box else []

    def holds(box: Box) -> bool:
        return len(box) >= count and all(box[at].colour == colour for at in chosen(box))

    def marks(box: Box) -> list[str]:
        own = chosen(box)
        return [("yes" if item.colour == colour else NO) if at in own else "" for at, item in enumerate(box)]

    return Condition(f"{colour} {number(count)} at {end}", marks, holds)


def stacked(colour: str, count: int) -> Condition:
    """So many blocks of a colour on one another."""

    def marks(box: Box) -> list[str]:
        run, found = 0, []
        for item in box:
            run = run + 1 if item.colour == colour else 0
            found.append(number(run) if run else NO)
        return found

    return Condition(f"{colour} {number(count)} stacked", marks, lambda box: number(count) in marks(box))


def over(upper: str, lower: str) -> Condition:
    """A block of one colour right on one of the other."""

    def marks(box: Box) -> list[str]:
        colours = [item.colour for item in box]
        pairs = zip(colours, [None, *colours], strict=False)
        return ["yes" if pair == (upper, lower) else NO for pair in pairs]

    return Condition(f"{upper} on {lower}", marks, lambda box: is_tower(box) and "yes" in marks(box))
