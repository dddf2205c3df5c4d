"""Regular expressions of a stranger: how long a search with one may take, told from its form.

A backtracking search tries all ways in which the parts of a pattern can share a text. In patterns that split words,
each alternative has at most one part repeated without an end before the last part that must match: a text of n
characters takes some n² steps at worst. Of `(a+)+b` the ways are 2ⁿ, and of `a*a*b` the steps n³.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MOST_CHARACTERS = 10_000  # of a pattern
MOST_WAYS = 1000  # beside those of one repeated part
FEW = 16  # repetitions whose number is counted; more count as without an end
BEYOND = 10**6  # ways, of which no more are counted
ENDLESS = 99  # the degree of ways whose number is no power of n
MOST_REPEATED = 1000  # times, of all that a pattern asks for one within the other

TOKEN = re.compile(
    r"(?P<escape>\\(?:[pPx]\{[^{}]*\}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[^\dkgKXR]))"
    r"|(?P<repeat>[*+?][?+]?|(?:\{\d+,?\d*\}|\{,\d+\})\??)"
    r"|(?P<open>\((?:\?(?:[:>=!]|<[=!]|[ims-]{1,4}[:)]|<[A-Za-z_]\w*>))?)"
    r"|(?P<plain>[^\\\[\]()*+?{}|]|[\]{}])"
)


class PatternError(ValueError):
    """A pattern that is not searched with."""


@dataclass(frozen=True)
class Ways:
    """In how many ways a part can match: `count` times n to the power of `degree`, for n characters."""

    count: int = 1
    degree: int = 0

    def __mul__(self, other: Ways) -> Ways:
        return Ways(min(self.count * other.count, BEYOND), self.degree + other.degree)

    def __add__(self, other: Ways) -> Ways:
        return Ways(min(self.count + other.count, BEYOND), max(self.degree, other.degree))


ONE = Ways()


@dataclass(frozen=True)
class Part:
    """A part of a pattern: its ways, those that are tried in vain before it fails, and whether it must match."""

    ways: Ways = ONE
    cost: Ways = ONE
    must: bool = True
    times: int = 1


def check_pattern(pattern: str) -> None:
    """PatternError for a pattern (Oniguruma's) whose search may take far longer than the text is long."""
    if len(pattern) > MOST_CHARACTERS:
        raise PatternError(f"it has more than {MOST_CHARACTERS:,} characters")
    try:
        cost = _Reader(pattern).read().cost
    except RecursionError:
        raise PatternError("its groups are nested without an end") from None
    if cost.degree > 1 or cost.count > MOST_WAYS:
        raise PatternError("its parts can share a text in too many ways")


class _Reader:
    def __init__(self, pattern: str) -> None:
        self.pattern, self.place = pattern, 0

    def read(self) -> Part:
        """The whole pattern."""
        found = self._alternatives()
        if self.place < len(self.pattern):
            raise PatternError(f"it cannot be read at character {self.place + 1}")
        return found

    def _alternatives(self) -> Part:
        choices = [_sequence(self._parts())]
        while self._next("|"):
            choices.append(_sequence(self._parts()))
        ways, cost = choices[0].ways, choices[0].cost
        for choice in choices[1:]:
            ways, cost = ways + choice.ways, cost + choice.cost
        return Part(ways, cost, all(choice.must for choice in choices), max(choice.times for choice in choices))

    def _parts(self) -> Iterator[Part]:
        """The parts up to the next `|` or `)`, each with its repetitions."""
        last: Part | None = None
        while self.place < len(self.pattern) and self.pattern[self.place] not in "|)":
            if self.pattern[self.place] == "[":
                found, part = None, self._set()
            elif found := TOKEN.match(self.pattern, self.place):
                self.place = found.end()
            else:
                raise PatternError(f"it has parts that are not followed, at character {self.place + 1}")
            if found and found["repeat"]:
                if last is None:
                    raise PatternError("it repeats nothing")
                last = _repeated(last, found["repeat"])
                continue
            if found:
                part = self._group(found["open"]) if found["open"] else Part()
            if last is not None:
                yield last
            last = part
        if last is not None:
            yield last

    def _group(self, opening: str) -> Part:
        if opening.endswith(")"):  # flags for what follows
            return Part(must=False)
        inner = self._alternatives()
        if not self._next(")"):
            raise PatternError("a group has no end")
        if opening in ("(?=", "(?!", "(?<=", "(?<!", "(?>"):  # which match in one way, or not at all
            return Part(ONE, inner.cost, True, inner.times)
        return inner

    def _set(self) -> Part:
        """A set of characters, with others in it."""
        depth, start = 0, self.place
        while self.place < len(self.pattern):
            character = self.pattern[self.place]
            self.place += 2 if character == "\\" else 1
            if character == "[":
                depth += 1
                self._next("^")
                self._next("]")  # first in a set, it is one of its characters
            elif character == "]":
                depth -= 1
                if depth == 0:
                    return Part()
        raise PatternError(f"a set of characters has no end, from character {start + 1} on")

    def _next(self, character: str) -> bool:
        found = self.pattern.startswith(character, self.place)
        self.place += found
        return found


def _sequence(parts: Iterator[Part]) -> Part:
    """Parts after one another.

    One that must match, and does not, is tried after all ways of those before it. What follows the last of these is
    tried once.
    """
    found = list(parts)
    last = max((place for place, part in enumerate(found) if part.must), default=-1)
    ways = cost = ONE
    for place, part in enumerate(found):
        tried = ways * part.cost if place <= last else part.cost
        cost = Ways(max(cost.count, tried.count), max(cost.degree, tried.degree))
        ways = ways * part.ways
    return Part(ways, cost, last >= 0, max((part.times for part in found), default=1))


def _repeated(part: Part, repeat: str) -> Part:
    """A part with what follows it: `*`, `+`, `?`, `{n,m}`; after the first three, a `+` makes it match in one way."""
    least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(repeat[0]) or _numbers(repeat)
    times = part.times * max(most or 1, 1)
    if times > MOST_REPEATED:
        raise PatternError(f"it repeats more than {MOST_REPEATED:,} times")
    cost = part.cost
    if most is None or most - least > FEW:
        ways = Ways(1, 1 if part.ways == ONE else ENDLESS)
        cost = cost if cost == ONE else Ways(cost.count, cost.degree + 1)
    else:
        # {n}? is n times or never
        numbers = {0, most} if least == most and repeat.endswith("?") else range(least, most + 1)
        ways = Ways(min(sum(part.ways.count**number for number in numbers), BEYOND), part.ways.degree * most)
    if repeat in ("*+", "++", "?+"):
        ways = ONE
    return Part(ways, cost, least > 0 and part.must, times)


def _numbers(repeat: str) -> tuple[int, int | None]:
    least, comma, most = repeat.strip("{}?").partition(",")
    return int(least or 0), int(most) if most else None if comma else int(least)
