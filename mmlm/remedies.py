"""Errors in the words of the place where they are read.

The library's errors name its keywords ("raise max_seconds"). Elsewhere a keyword has another name, which is put in its
place, or none: then a remedy that names it is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_KEYWORD = (
    r"(?<![\w./-])(?P<name>[a-z]+(?:_[a-z0-9]+)+|[a-z]+(?==))(?:=(?P<value>[\w.]+|'[^']*'|\"[^\"]*\")?)?(?![\w(/])"
)
_REMEDY = rf"(?:pass|passing|raise|set|give|use|leave) {_KEYWORD}(?: off| instead)?"
_LAST_REMEDY = re.compile(rf"(?:[,;:]? or|[,;:]?) (?:by )?{_REMEDY}")
_ASIDE = re.compile(rf" \([^()]*{_REMEDY}\)")
_QUOTED = re.compile(r"((?<![\w=])'[^']*'|(?<!=)\"[^\"]*\")")

Word = Callable[[str, str | None], str | None]
"""A keyword, and the value given with it → what stands in its place; None where there is nothing of the kind."""


def reworded(message: str, word: Word) -> str:
    """A message of the library, as one line, with other words for its keywords. What is quoted stays."""

    def remedy(found: re.Match[str]) -> str:
        return found[0] if word(found["name"], found["value"]) is not None else ""

    def keyword(found: re.Match[str]) -> str:
        return word(found["name"], found["value"]) or found[0]

    pieces = _QUOTED.split(" ".join(message.split()))
    for index in range(0, len(pieces), 2):
        pieces[index] = re.sub(_KEYWORD, keyword, _LAST_REMEDY.sub(remedy, _ASIDE.sub(remedy, pieces[index])))
    return "".join(pieces)
