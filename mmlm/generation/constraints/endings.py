"""How a text that was begun in a form can be ended soon: short endings, found by trying.

An ending is a witness and need not be the shortest. That of choices is; that of an expression has the fewest
characters; that of a schema is found by a greedy walk that closes what is open, and bettered where it branches.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmlm.generation.constraints.spelling import byte_tokens
from mmlm.generation.forms import Form, limits, regex_terminal

ORDERS = (b'}]",:0123456789-.', b'}]",:9876543210-.')
"""What closes what is open in JSON comes first. Two orders, since a number may have to be high or low."""

CLOSING = 5  # so many bytes of an order close something
FREE = 90  # so many bytes may come next: a text, in which each is as good as another
STEPS = 4_000  # of all walks that better an ending before the text, a tenth of it within


@dataclass(frozen=True, eq=False)
class Endings:
    """Looks for what ends texts of a form. start: a matcher of bytes before the text."""

    form: Form
    start: Any

    @classmethod
    def of(cls, form: Form) -> Endings:
        """Those of a form. ValueError for one that takes too much to be looked for."""
        from llguidance import LLMatcher

        start = LLMatcher(byte_tokens(), form.grammar, limits=limits(), log_level=0)
        start.compute_bitmask()
        if error := start.get_error():
            raise ValueError(f"the form is too large to be looked for ({' '.join(error.split())[:200]}): simplify it")
        return cls(form, start)

    def after(self, text: bytes, most: int) -> Iterator[bytes]:
        """Endings of at most `most` bytes for what was written so far, each better than the one before, if any."""
        if self.form.choices:
            yield from self._choices(text)
            return
        matcher = self.start.deep_copy()
        if matcher.try_consume_tokens(list(text)) != len(text):
            return
        quoted = None if self.form.schema is None else is_quoted(text)
        walks = [walk for order in ORDERS if (walk := walked(matcher, b"", order, quoted, most)) is not None]
        best = min(walks, key=lambda walk: len(walk.ending), default=None)
        if best is not None:
            yield best.ending
        if self.form.regex is not None:
            shortest = _shortest(self.form.regex, text, most if best is None else len(best.ending))
            yield from () if shortest is None else (shortest,)
        elif best is not None:
            yield _bettered(matcher, best, quoted, STEPS // 10 if text else STEPS).ending

    def _choices(self, text: bytes) -> Iterator[bytes]:
        whole = [form for choice in self.form.choices for form in (choice.encode(), b" " + choice.encode())]
        yield from (one[len(text) :] for one in whole if one.startswith(text))


@dataclass(frozen=True)
class Walk:
    """An ending, and where other bytes might have come: how much of it goes before, and which."""

    ending: bytes
    branches: tuple[tuple[int, bytes], ...]
    steps: int


def walked(matcher: Any, begun: bytes, order: bytes, quoted: bool | None, most: int) -> Walk | None:
    """The ending that takes the first byte of `order` wherever there is a choice; None beyond `most` bytes.

    quoted: whether what was written ends within a string of JSON; None for what is no JSON.
    """
    matcher, ending, branches, used = matcher.deep_copy(), bytearray(begun), [], Counter[int]()
    if matcher.try_consume_tokens(list(begun)) != len(begun):
        return None
    for steps in range(most + 1):
        if matcher.is_accepting():
            return Walk(bytes(ending), tuple(branches), steps)
        piece = matcher.compute_ff_bytes()
        if not piece:
            allowed = _bytes_of(matcher.compute_bitmask())
            if not allowed:
                return None
            inside = quoted is not None and is_quoted(ending, quoted)
            piece = _chosen(allowed, b"" if quoted is None else b'"' if inside else order, used)
            used[piece[0]] += 1
            if len(allowed) < FREE:
                branches.append((len(ending), _others(allowed, piece[0])))
        if len(ending) + len(piece) > most or not matcher.consume_tokens(list(piece)):
            return None
        ending += piece
    return None


def is_quoted(text: bytes | bytearray, begun: bool = False) -> bool:
    """Whether JSON ends within a string; `begun`: whether what went before it does."""
    return begun ^ bool(len(_QUOTE.findall(text)) % 2)


_QUOTE = re.compile(rb'(?<!\\)(?:\\\\)*"')


def _chosen(allowed: bytes, order: bytes, used: Counter[int]) -> bytes:
    """The byte of those allowed that comes first in `order`, then any printable one: those that were not used before,
    since what is used again and again may lead nowhere.
    """

    def place(byte: int) -> tuple[bool, int, bool, int]:
        return byte not in order[:CLOSING], used[byte], byte not in order, order.find(byte) if byte in order else byte

    return bytes([min(allowed, key=place)])


def _others(allowed: bytes, chosen: int) -> bytes:
    """Of the bytes that were not chosen those that may matter: of letters and digits a few stand for all."""
    signs, alike = [], []
    for byte in allowed:
        if byte != chosen:
            (alike if chr(byte).isalnum() or byte > 127 else signs).append(byte)
    return bytes(signs + alike[:: max(1, len(alike) // 6)])


def _bytes_of(packed: bytes) -> bytes:
    return bytes(
        8 * place + bit for place, byte in enumerate(packed[:32]) if byte for bit in range(8) if byte >> bit & 1
    )


def _bettered(matcher: Any, best: Walk, quoted: bool | None, left: int) -> Walk:
    """The walk with other turns where they are shorter, as far as so many steps lead."""
    place = 0
    while place < len(best.branches) and left > 0:
        at, others = best.branches[place]
        place += 1
        for byte in others:
            begun = best.ending[:at] + bytes([byte])
            for order in ORDERS:
                found = walked(matcher, begun, order, quoted, len(best.ending) - 1)
                left -= len(best.ending) - at if found is None else found.steps
                if found is not None:  # its branches begin behind `begun`; those before stay as they were
                    kept = tuple(branch for branch in best.branches if branch[0] < at)
                    best, place = Walk(found.ending, kept + found.branches, found.steps), len(kept)
                    break
            else:
                continue
            break
    return best


def _shortest(regex: str, text: bytes, most: int) -> bytes | None:
    """The ending with the fewest characters, less than `most`; None where there is none, or none can be told."""
    try:
        begun = text.decode()
    except UnicodeDecodeError:
        return None
    low, high, found = 0, most, None
    while low < high:
        count = (low + high) // 2
        walk = _within(regex, begun, count)
        if walk is None:
            low = count + 1
        else:
            high, found = count, walk
    return found


def _within(regex: str, begun: str, count: int) -> bytes | None:
    """An ending of at most `count` characters."""
    from llguidance import LLMatcher

    own, short = f"/ ?/ {regex_terminal(regex)}", f"/{re.escape(begun).replace('/', chr(92) + '/')}(?s:.{{0,{count}}})/"
    grammar = f"start: FORM\nFORM: OWN & SHORT\nOWN: {own}\nSHORT: {short}"
    matcher = LLMatcher(byte_tokens(), grammar, limits=limits(), log_level=0)
    if matcher.try_consume_tokens(list(begun.encode())) != len(begun.encode()):
        return None
    walk = walked(matcher, b"", ORDERS[0], None, 4 * count)
    return None if walk is None else walk.ending
