"""Messages on standard error, in the words of the command line.

The library's errors name its keywords ("raise max_seconds"). Where the verb has the option, it is named in place of the
keyword; where it has none, that remedy is left out.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Set
from contextlib import contextmanager

_KEYWORD = r"(?P<name>[a-z]+(?:_[a-z0-9]+)+|[a-z]+(?==))(?:=(?P<value>[\w.]+|'[^']*'|\"[^\"]*\")?)?(?![\w(/])"
_REMEDY = rf"(?:pass|passing|raise|set|give|use|leave) {_KEYWORD}(?: off| instead)?"
_LAST_REMEDY = re.compile(rf"(?:[,;:]? or|[,;:]?) (?:by )?{_REMEDY}")
_ASIDE = re.compile(rf" \([^()]*{_REMEDY}\)")
_QUOTED = re.compile(r"((?<![\w=])'[^']*'|(?<!=)\"[^\"]*\")")


def complain(args: argparse.Namespace, message: str) -> None:
    """One line on standard error."""
    print(f"mmlm {args.verb}: {on_the_command_line(message, args.flags)}", file=sys.stderr, flush=True)


@contextmanager
def interrupted(args: argparse.Namespace, message: str) -> Iterator[None]:
    """Says the message where Ctrl-C ends the block."""
    try:
        yield
    except KeyboardInterrupt:
        complain(args, message)
        raise


def on_the_command_line(message: str, flags: Set[str] | None) -> str:
    """A message of the library with a verb's `flags` ("--max-seconds") in place of keywords. What is quoted stays.

    flags: None for a verb whose arguments are the keywords themselves, `steps=200`.
    """
    message = " ".join(message.split())
    if flags is None:
        return message

    def remedy(found: re.Match[str]) -> str:
        return found[0] if _flag(found["name"]) in flags else ""

    def option(found: re.Match[str]) -> str:
        flag = _flag(found["name"])
        if flag not in flags:
            return found[0]
        value = found["value"]
        return flag if value in (None, "True", "False") else f"{flag} {value.removeprefix('torch.')}"

    pieces = _QUOTED.split(message)
    for index in range(0, len(pieces), 2):
        pieces[index] = re.sub(_KEYWORD, option, _LAST_REMEDY.sub(remedy, _ASIDE.sub(remedy, pieces[index])))
    return "".join(pieces)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
