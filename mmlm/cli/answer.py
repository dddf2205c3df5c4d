"""Answer a question about a picture, or about each of several."""

from __future__ import annotations

import argparse
from typing import Any

from mmlm.cli.batch import Batch
from mmlm.cli.inputs import inputs_of, labelled
from mmlm.cli.options import (
    VIDEO_LIMITS,
    add_batch_options,
    add_example_options,
    add_generation_options,
    add_model_options,
    add_reading_options,
)
from mmlm.cli.pictures import describe_pictures

EXAMPLES = """\
  mmlm answer photo.jpg "what color is the circle?"
  mmlm answer "photos/*.jpg" "is there a person?"  (a quoted pattern or a folder: each of its pictures)
  cat photo.jpg | mmlm answer - "how many shapes are there?" --json"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument("image", metavar="IMAGE", help="a picture, video, folder, pattern, or - for standard input")
    verb.add_argument("question", metavar="QUESTION")
    add_batch_options(verb)
    add_model_options(verb)
    add_example_options(verb)
    add_reading_options(verb, *VIDEO_LIMITS)
    add_generation_options(verb)


def run(args: argparse.Namespace) -> int:
    """The answer about each picture, in one line."""
    batch = Batch(args)
    inputs = inputs_of(args, batch, [args.image], "image")

    def prompt(model: Any, examples: Any, picture: Any) -> Any:
        if examples is None:
            return model.template.question_prompt(picture, args.question)
        return examples.question_prompt(picture, args.question, args.shots, model.template)

    return describe_pictures(args, batch, inputs, prompt, "answer", labelled([args.image], inputs))
