"""What verbs print: a line for people, or the whole result as JSON; bars on a terminal."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from mmlm.cli.messages import complain
from mmlm.cli.thoughts import print_thought

if TYPE_CHECKING:
    from mmlm.generation.result import GenerationResult
    from mmlm.training.reporting import Counter


def print_record(args: argparse.Namespace, record: dict[str, Any], line: str) -> None:
    """The record as JSON with `--json`, else the line."""
    print(json.dumps(record, ensure_ascii=False) if args.json else line, flush=True)


def print_result(args: argparse.Namespace, record: dict[str, Any], line: str, result: GenerationResult) -> None:
    """The same for a generation: JSON holds all of the result, and `--details` adds a line about it."""
    if result.thinking is not None and not args.json:
        print_thought(args, [result.thinking])
    print_record(args, record | result.to_dict(), line)
    if args.details and not args.json:
        print(f"  {described(result)}", flush=True)


def described(result: GenerationResult) -> str:
    """A result's end, usage and likelihood in one line."""
    usage, count = result.usage, len(result.log_probs)
    parts = [
        f"ended by {result.finish_reason}",
        f"{usage.generated_tokens} tokens after {usage.prompt_tokens} of the prompt",
        *([f"{usage.thinking_tokens} of them for thinking"] if usage.thinking_tokens else []),
        *([f"{max(result.votes.values())} of {sum(result.votes.values())} votes"] if result.votes else []),
        f"{usage.media_items} media in {usage.media_latents} latents",
        f"mean log-probability {sum(result.log_probs) / max(1, count):.3f}",
    ]
    return "; ".join([*parts, *([] if result.score is None else [f"score {result.score:.3f}"])])


def tell_cut(args: argparse.Namespace, result: GenerationResult, name: str = "") -> None:
    """A line on standard error where an answer was cut off by the limit of tokens; JSON says so itself."""
    if result.finish_reason == "length" and not args.json:
        count = result.usage.generated_tokens
        complain(args, f"{name and f'{name}: '}cut off after {count} tokens: raise max_new_tokens")


def marked(line: str, channel: int | None) -> str:
    """A line that is said, with its speaker where channels are speakers."""
    return line if channel is None else f"Speaker {channel}: {line}"


def one_line(text: str) -> str:
    """A text with its line breaks and repeated spaces as one space each."""
    return " ".join(text.split())


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on the terminal, over codes and then over the decoder's steps; nothing elsewhere."""
    from tqdm import tqdm

    with tqdm(disable=not sys.stderr.isatty()) as bar:

        def show(what: str, done: int, total: int) -> None:
            bar.set_description(what, refresh=False)
            bar.total, bar.n = total, done
            bar.refresh()

        yield show


class Told:
    """Shows how far a long piece of work is, which calls it with the number of pieces done and of all."""

    def __init__(self, title: str) -> None:
        self.title, self.stack = title, ExitStack()
        self.counter: Counter | None = None

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def __call__(self, done: int, total: int) -> None:
        """So many are done."""
        from mmlm.training.reporting import Counter

        if self.counter is None:
            self.counter = self.stack.enter_context(Counter(total, self.title, progress=True))
        self.counter.update(done - self.counter.done)
