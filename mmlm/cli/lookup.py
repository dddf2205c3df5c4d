"""What an index has for an answer, on the command line: options of looking up, and the sources behind the answer."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from mmlm.cli.index import place_of
from mmlm.cli.options import add_index_options, add_least_option, where_of
from mmlm.cli.output import one_line

if TYPE_CHECKING:
    from mmlm.assembly.multimodal_lm import MultimodalLM
    from mmlm.generation.result import GenerationResult
    from mmlm.retrieval.index import Index
    from mmlm.retrieval.lookup import Lookup


def add_lookup_options(verb: argparse.ArgumentParser) -> None:
    """Which index, what of it, and how much."""
    add_index_options(verb, required=False)
    verb.add_argument("--sources", type=int, default=4, metavar="K", help="look up so many at most (default: 4)")
    add_least_option(verb)


def check_lookup(args: argparse.Namespace) -> None:
    """ValueError for options of an index where none is given."""
    if args.index is None and (args.where or args.least):
        raise ValueError("--where and --least are for what is looked up: give --index")


def lookup_of(args: argparse.Namespace, index: Index) -> Lookup:
    """How an open index is asked."""
    from mmlm.retrieval.lookup import Lookup

    return Lookup(index, k=args.sources, where=where_of(args), least=dict(args.least) or None)


def opened_lookup(args: argparse.Namespace, model: MultimodalLM, stack: ExitStack) -> Lookup | None:
    """How the index of `--index` is asked, open until `stack` closes; None without one."""
    if args.index is None:
        return None
    from mmlm.retrieval.index import Index

    return lookup_of(args, stack.enter_context(Index(args.index, model)))


def print_sources(args: argparse.Namespace, result: GenerationResult) -> None:
    """The sources of an answer, those that it names marked; a line on standard error where nothing was found."""
    if args.json or result.sources is None:
        return
    if not result.sources:
        print(f"nothing relevant was found in {args.index}", file=sys.stderr)
    for number, source in enumerate(result.sources, start=1):
        mark = "cited" if number in result.citations.cited else "     "
        print(f"  [{number}] {mark} {one_line(place_of(source))}", flush=True)
