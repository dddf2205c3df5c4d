"""Talk with a model: questions in turn, about pictures and recordings too."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmlm.cli.conversation import Conversation, check_there
from mmlm.cli.loading import check_folder_of, check_index, load_model
from mmlm.cli.lookup import add_lookup_options, check_lookup, opened_lookup
from mmlm.cli.options import (
    SOUND_LIMITS,
    add_generation_options,
    add_hearing_options,
    add_model_options,
    add_reading_options,
    file_path,
    generation_options,
)
from mmlm.cli.thoughts import add_thinking_options
from mmlm.cli.tools import add_tool_options, opened_tools

EXAMPLES = """\
  mmlm chat --language-model HuggingFaceTB/SmolLM2-360M-Instruct --audio-encoder whisper/base
  mmlm chat "what color is the circle?" --image first.png
  mmlm chat "what is 17 * 23?" --model chat-small --tool calculator --tool clock
  mmlm chat "what is 17 times 3?" --language-model Qwen/Qwen3-0.6B --audio-encoder whisper/base --thinking
  mmlm chat "who is called Bo?" --index notes.index        (made by mmlm index add)
  mmlm chat --messages talk.json --json            (answers the last message of a conversation)
  printf 'hello\\nand in French?\\n' | mmlm chat --model chat-small --system "Answer in one word." --save talk.json"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument(
        "text", nargs="?", metavar="TEXT",
        help="one question, which is answered; without it, lines of standard input are answered in turn",
    )  # fmt: skip
    verb.add_argument("--image", action="append", default=[], type=file_path, metavar="IMAGE", help="with the first")
    verb.add_argument("--audio", action="append", default=[], type=file_path, metavar="AUDIO", help="with the first")
    verb.add_argument("--system", metavar="TEXT", help="how to answer, where the chat template has a place for it")
    verb.add_argument(
        "--messages", type=file_path, metavar="FILE", help="a conversation to go on with: JSON as OpenAI's API has it"
    )
    verb.add_argument("--save", type=file_path, metavar="FILE", help="keep the conversation there after each answer")
    add_hearing_options(verb)
    verb.add_argument(
        "--chat-template-kwargs", type=json_object, metavar="JSON", help="""such as '{"date": "1 May"}'"""
    )
    add_tool_options(verb)
    add_lookup_options(verb)
    add_thinking_options(verb)
    add_model_options(verb)
    add_reading_options(verb, *SOUND_LIMITS, "max_pixels")
    add_generation_options(verb)


def run(args: argparse.Namespace) -> int:
    """Answers in turn. The exit code is 1 where a question could not be answered."""
    options = generation_options(args)
    check_lookup(args)
    if args.index is not None:
        check_index(args)
        if args.tool or args.mcp:
            raise ValueError("--index is looked up before an answer without tools: leave out --tool and --mcp")
    before = _read_messages(args)
    if args.system is not None:
        before.insert(0, {"role": "system", "content": args.system})
    for name, kind in [*((name, "image") for name in args.image), *((name, "audio") for name in args.audio)]:
        check_there(name, f"--{kind} {name}")
    if args.save is not None:
        check_folder_of(Path(args.save))
    model = load_model(args, *_needed(args), codecs=not {"draw", "speak"}.isdisjoint(args.tool))
    with contextlib.ExitStack() as stack:
        tools, lookup = opened_tools(args, model, stack), opened_lookup(args, model, stack)
        return _talk(args, Conversation(args, model, options, tools, lookup), before)


def _talk(args: argparse.Namespace, talk: Conversation, before: list[dict[str, Any]]) -> int:
    for message in before:
        talk.add(message)
    talk.attach("image", args.image)
    talk.attach("audio", args.audio)
    failed = 0
    if args.text is None and before and before[-1].get("role") != "system":
        failed += not talk.attempt(None)
    if args.text is not None:
        return 2 if not talk.attempt(args.text) else failed
    if sys.stdin.isatty():
        print(f"{args.model or args.language_model or 'nano'}: /help lists what can be typed", file=sys.stderr)
    for line in lines():
        with contextlib.suppress(EOFError):
            failed += not talk.entered(line)
            continue
        break
    return 1 if failed else 0


def lines() -> Iterator[str]:
    """What is typed, line by line, or between lines of three quotes; with a mark where it is typed by a person."""
    person = sys.stdin.isatty()
    if person:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # arrow keys and a history, for `input`
    block: list[str] | None = None
    while True:
        try:
            line = input(("… " if block is not None else "> ") if person else "")
        except EOFError:
            if block:
                yield "\n".join(block)
            return
        if line.strip() == '"""':
            if block:
                yield "\n".join(block)
            block = [] if block is None else None
        elif block is not None:
            block.append(line)
        else:
            yield line


def _needed(args: argparse.Namespace) -> tuple[str, ...]:
    """The encoders that one question needs; all of them where more may come."""
    if args.text is None or args.messages is not None or args.tool or args.mcp or args.index is not None:
        return ()
    return tuple(kind for kind, given in (("image", args.image), ("audio", args.audio)) if given)


def _read_messages(args: argparse.Namespace) -> list[dict[str, Any]]:
    if args.messages is None:
        return []
    from encoders.media.source import MAX_BYTES, read_bytes

    try:
        found = json.loads(read_bytes(Path(args.messages), args.messages, MAX_BYTES, allow_url=False))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{args.messages}: no JSON ({error})") from error
    if not isinstance(found, list):
        raise ValueError(f"{args.messages}: messages are a list, not {type(found).__name__}")
    return found


def json_object(text: str) -> dict[str, Any]:
    """A dictionary that is written as JSON, as an argument's type."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"no JSON: {error}") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"a JSON object is needed, not {text}")
    return found
