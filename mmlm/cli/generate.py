"""Continue text and pictures in any order, written as it comes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from mmlm.cli.first_contact import Note
from mmlm.cli.loading import load_model, read_image
from mmlm.cli.options import (
    VIDEO_LIMITS,
    add_generation_options,
    add_model_options,
    add_reading_options,
    file_path,
    generation_options,
)
from mmlm.cli.output import described, print_result

EXAMPLES = """\
  mmlm generate --image photo.jpg --text "Output:a picture of"
  mmlm generate --image one.jpg --text "Output:a red circle" --image two.jpg --text "Output:" --num-beams 3
  mmlm generate --image photo.jpg --text "Output:" --temperature 0.8 --seed 1
  mmlm generate --text "Output:there is" --max-new-tokens 20"""


class AppendPart(argparse.Action):
    """Collects `--image` and `--text` in the order in which they were given."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:  # fmt: skip
        """Appends one part."""
        namespace.parts = (*namespace.parts, (self.dest, values))


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument(
        "--image", action=AppendPart, type=file_path, metavar="IMAGE", help="a picture at this place of the prompt"
    )
    verb.add_argument("--text", action=AppendPart, metavar="TEXT", help="text at this place of the prompt")
    verb.set_defaults(parts=())
    add_model_options(verb)
    add_reading_options(verb, *VIDEO_LIMITS)
    add_generation_options(verb)


def run(args: argparse.Namespace) -> None:
    """The text, piece by piece; at once as JSON or with beams."""
    if not args.parts:
        raise ValueError("the prompt is empty: give --image and --text in the order they should be read")
    options = generation_options(args)
    from mmlm.prompting.parts import Image

    parts = [Image(read_image(value, args)) if kind == "image" else value for kind, value in args.parts]
    from mmlm.tasks.rows import one_result

    model, note = load_model(args, "image", codecs=False), Note(args)
    for part in parts:
        if isinstance(part, Image):
            note.of_picture(part.source)
    if args.json or options.get("num_beams", 1) > 1:
        result = one_result(model.generate(parts, **options))
        print_result(args, {}, result.text, result)
        return
    stream = model.stream(parts, **options)
    for piece in stream:
        print(piece, end="", flush=True)
    print(f"\n  {described(stream.result)}" if args.details else "")
