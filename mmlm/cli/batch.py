"""Work on many inputs: one that cannot be used is named on standard error, and the others are done."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mmlm.cli.messages import complain

if TYPE_CHECKING:
    from mmlm.generation.result import GenerationResult

T = TypeVar("T")
UNUSABLE = (ValueError, OSError)
"""What bad input raises throughout the library."""


class Batch:
    """Counts what is done and what could not be. With `--fail-fast` or `--debug` the first error ends the work."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.done = self.failed = 0

    def attempt(self, name: str, action: Callable[[], T]) -> T | None:
        """What the action gives; None where the input of this name cannot be used, which is reported."""
        found = outcome(action)
        return self.report(name, found) if isinstance(found, Exception) else found

    def report(self, name: str, error: Exception) -> None:
        """Reports why the input of this name cannot be used."""
        if self.args.debug:
            raise error
        self.fail(name, str(error), error)

    def fail(self, name: str, reason: str, error: Exception | None = None) -> None:
        """Reports one input that could not be used."""
        said = reason if name in reason else f"{name}: {reason}"
        if self.args.fail_fast:
            raise ValueError(said) from error
        self.failed += 1
        complain(self.args, said)

    def code(self) -> int:
        """The exit code: 0 all done, 1 some of them, 2 none. A last line says how many could not be used."""
        total = self.done + self.failed
        if self.failed and total > 1:
            complain(self.args, f"{self.failed} of {total} could not be used; they are named above")
        return 0 if not self.failed else 1 if self.done else 2


def outcome(action: Callable[[], T], *others: type[Exception]) -> T | Exception:
    """What the action gives, or why its input cannot be used. others: errors of another fault, which are raised."""
    try:
        return action()
    except (BrokenPipeError, *others):  # the former: nobody reads the output any more
        raise
    except UNUSABLE as error:
        return error


def results_of_each(prompts: Sequence[Any], generate: Callable[[list[Any]], Any]) -> list[GenerationResult | Exception]:
    """A result for each prompt, from one call for all; where that fails, one by one, to find whose fault it is."""
    from mmlm.tasks.rows import one_result, results_of

    found = outcome(lambda: results_of(generate(list(prompts))))
    if not isinstance(found, Exception):
        return list(found)
    return [outcome(lambda prompt=prompt: one_result(generate([prompt])[0])) for prompt in prompts]
