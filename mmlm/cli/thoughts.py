"""Thoughts and votes on the command line: their options, and how a thought is shown."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def add_thinking_options(verb: argparse.ArgumentParser) -> None:
    """Whether a thought comes before an answer, and how many attempts vote."""
    group = verb.add_argument_group("thinking")
    group.add_argument(
        "--thinking", nargs="?", const=True, type=budget, metavar="BUDGET",
        help="a thought before the answer, of so many tokens at most (default: 1,024, as far as there is room)",
    )  # fmt: skip
    group.add_argument("--show-thinking", action="store_true", help="print the thought, too, on standard error")
    group.add_argument("--votes", type=int, metavar="N", help="sample N answers; the one given most often wins")


def budget(text: str) -> int:
    """A number of tokens, as an argument's type."""
    try:
        return int(text)
    except ValueError:
        message = f"{text!r} is no number of tokens: give --thinking after the other arguments, or as --thinking=256"
        raise argparse.ArgumentTypeError(message) from None


def thinking_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword `thinking`, where it was given; ValueError for votes of nobody."""
    votes, thinking = vars(args).get("votes"), vars(args).get("thinking")
    if votes is not None and votes < 1:
        raise ValueError(f"--votes must be at least 1, not {votes}")
    if vars(args).get("show_thinking") and thinking is None:
        raise ValueError("--show-thinking: nothing is thought without --thinking")
    return {} if thinking is None else {"thinking": thinking}


def print_thought(args: argparse.Namespace, pieces: Iterable[str]) -> None:
    """A thought on standard error, piece by piece, dimmed on a terminal; nothing where it was not asked for."""
    if not vars(args).get("show_thinking"):
        return
    before, after = (DIM, PLAIN) if sys.stderr.isatty() else ("", "")
    shown = False
    for piece in filter(None, pieces):
        print(piece if shown else before + piece, end="", file=sys.stderr, flush=True)
        shown = True
    if shown:
        print(after, file=sys.stderr, flush=True)
