"""Messages on standard error, in the words of the command line.

Where the verb has an option for a keyword that a message names, it is named in its place; where it has none, that
remedy is left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Set
from contextlib import contextmanager

from mmlm.remedies import reworded


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
    if flags is None:
        return " ".join(message.split())

    def option(name: str, value: str | None) -> str | None:
        flag = "--" + name.replace("_", "-")
        if flag not in flags:
            return None
        if value in (None, "True", "False"):
            return flag
        return flag + " " + value.removeprefix("torch.").strip("'")

    return reworded(message, option)
