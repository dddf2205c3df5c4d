"""Text of tokens as they come: each token costs the same, however long the text is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer decodes part of a character to
WINDOW = 16  # tokens, from which on the earlier ones are left out of the next decoding
CONTEXT = 6  # tokens, at least, that stay: how a token is spelled may depend on those before it
LONGEST = 256  # tokens without a whole character, after which what they decode to is taken as it is


@dataclass(frozen=True)
class PartialText:
    """The end of a text that is being written: `decode` turns ids into text, `window` holds the last ids.

    shown: how many characters of the window's text have been given out. A state never changes: `push` gives the next.
    """

    decode: Callable[[Sequence[int]], str]
    window: tuple[int, ...] = ()
    shown: int = 0

    def push(self, token: int) -> tuple[PartialText, str]:
        """The state after one more token, and the text that it settles.

        Characters at the end that may be incomplete are held back until a later token settles them.
        """
        window = (*self.window, token)
        text = self.decode(window)
        whole = len(text.rstrip(INCOMPLETE)) if len(window) < LONGEST else len(text)
        state = replace(self, window=window, shown=max(self.shown, whole))
        if len(window) >= WINDOW and whole == len(text):
            state = state._shortened()
        return state, text[self.shown : whole]

    def rest(self) -> str:
        """What is left to give out when no more tokens come."""
        return self.decode(self.window)[self.shown :]

    def _shortened(self) -> PartialText:
        """The same with fewer ids, cut where a character ends; unchanged where no such place is found."""
        for start in range(len(self.window) - CONTEXT, 0, -1):
            kept = self.decode(self.window[start:])
            if not kept.startswith(INCOMPLETE) and not self.decode(self.window[:start]).endswith(INCOMPLETE):
                return replace(self, window=self.window[start:], shown=len(kept))
        return self


def cut_at(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop string, and whether there is one."""
    places = [place for place in (text.find(string) for string in stop) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


def held_back(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end may be the beginning of a stop string."""
    starts = [n for string in stop for n in range(1, min(len(string), len(text) + 1)) if text.endswith(string[:n])]
    return max(starts, default=0)


class Pieces:
    """The text of a row, piece by piece: joined, the pieces are the whole text, which ends before a stop string.

    decode: turns ids into text. stopped: whether a stop string has come, after which nothing is given.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._text, self._stop, self._waiting = PartialText(decode), stop, ""
        self.stopped = False

    def push(self, token: int) -> str:
        """What may be given out after one more token, which is no end token."""
        if self.stopped:
            return ""
        self._text, piece = self._text.push(token)
        self._waiting, self.stopped = cut_at(self._waiting + piece, self._stop)
        kept = 0 if self.stopped else held_back(self._waiting, self._stop)  # what may be the beginning of a stop string
        ready = self._waiting[: len(self._waiting) - kept]
        self._waiting = self._waiting[len(ready) :]
        return ready

    def rest(self) -> str:
        """What is left to give out when no more tokens come."""
        return "" if self.stopped else cut_at(self._waiting + self._text.rest(), self._stop)[0]
