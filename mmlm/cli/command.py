"""The parser of all verbs, and the function that runs one."""

from __future__ import annotations

import argparse
import difflib
import gc
import io
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from mmlm import __version__
from mmlm.cli import (
    answer,
    ask,
    caption,
    chat,
    convert,
    data,
    draw,
    evaluate,
    generate,
    index,
    init,
    inspect,
    models,
    probe,
    serve,
    speak,
    train,
    transcribe,
    ui,
)
from mmlm.cli.messages import complain

VERBS = {
    "caption": caption,
    "answer": answer,
    "generate": generate,
    "transcribe": transcribe,
    "ask": ask,
    "chat": chat,
    "draw": draw,
    "speak": speak,
    "serve": serve,
    "ui": ui,
    "init": init,
    "train": train,
    "data": data,
    "index": index,
    "eval": evaluate,
    "probe": probe,
    "convert": convert,
    "models": models,
    "inspect": inspect,
}
"""Each verb's module: its docstring is the purpose, `EXAMPLES` end its help, `add_arguments` and `run` do the rest."""

FIRST_TRY = """\
`mmlm VERB --help` shows examples. A first try:
  mmlm draw "in the middle a large red circle, on a white background" -o first.png
  mmlm caption first.png"""


class Verb(argparse.ArgumentParser):
    """The parser of a verb. Options may stand between its arguments: `mmlm train recipe.yaml --dry-run steps=3`."""

    _halfway = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse has it for options and arguments in turn, which calls this again for each of the two.

        It loses what `--` says: that all behind it are arguments.
        """
        if self._halfway or "--" in (args or ()):
            return super().parse_known_args(args, namespace)
        self._halfway = True
        try:
            found, unknown = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._halfway = False
        if unknown:
            near = difflib.get_close_matches(unknown[0].partition("=")[0], self._option_string_actions, 1, 0.75)
            if unknown[0].startswith("-") and os.path.exists(unknown[0]):
                near = [f"./{unknown[0]}"]  # a file, whose name argparse takes for that of an option
            self.error(f"unknown: {' '.join(unknown)}" + (f" (did you mean {near[0]}?)" if near else ""))
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """One line, as of every other fault."""
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs; the chosen one's name is `verb` in its namespace."""
    parser = argparse.ArgumentParser(
        prog="mmlm",
        description="Caption pictures, answer questions about them, written or spoken, draw, speak, and train.",
        epilog=FIRST_TRY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mmlm {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Verb)
    for name, module in VERBS.items():
        purpose = (module.__doc__ or "").strip()
        verb = verbs.add_parser(
            name,
            help=purpose[0].lower() + purpose[1:].rstrip("."),
            description=purpose,
            epilog=f"examples:\n{module.EXAMPLES.rstrip()}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
        module.add_arguments(verb)
        flags = frozenset(re.findall(r"--[a-z][a-z0-9-]+", verb.format_help()))
        verb.set_defaults(flags=None if module is train else flags)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb. Returns the exit code: 0 done; 1 where some of several inputs could not be used; 2 where nothing
    could; 130 interrupted.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # of a character that the terminal's encoding lacks
    args = build_parser().parse_args(argv)
    code = 0
    # torch and transformers make a million objects while they are imported, and looking through these for garbage every
    # 700 of them takes a fifth of the time.
    gc.set_threshold(100_000, 20, 20)
    if not sys.stderr.isatty():  # transformers and open_clip draw their bars through huggingface_hub
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: complain(args, str(message))
            code = VERBS[args.verb].run(args) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (`| head`) has enough; the interpreter's own last flush must not complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, TypeError, OSError, ImportError) as error:  # what bad input raises throughout the library
        if args.debug:
            raise
        complain(args, str(error))
        return 2
    except (RuntimeError, MemoryError) as error:  # what torch raises where a device or a type cannot do what is asked
        if args.debug:
            raise
        complain(args, f"{type(error).__name__}: {error}"[:500])
        return 2
    except KeyboardInterrupt:
        return 130
    return code
