"""Answer a question about a picture."""

from __future__ import annotations

import argparse

from mmlm.cli.loading import examples_of, load_model, read_image
from mmlm.cli.options import add_example_options, add_generation_options, add_model_options, generation_options
from mmlm.cli.output import one_line, print_result

EXAMPLES = """\
  mmlm answer photo.jpg "what color is the circle?"
  cat photo.jpg | mmlm answer - "how many shapes are there?" --json"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument("image", metavar="IMAGE", help="a picture file; - reads it from standard input")
    verb.add_argument("question", metavar="QUESTION")
    add_model_options(verb)
    add_example_options(verb)
    add_generation_options(verb)


def run(args: argparse.Namespace) -> None:
    """The answer, in one line."""
    options, image = generation_options(args), read_image(args.image)
    from mmlm.tasks.rows import one_result

    model = load_model(args)
    examples = examples_of(args, model)
    if examples is None:
        prompt = model.template.question_prompt(image, args.question)
    else:
        prompt = examples.question_prompt(image, args.question, args.shots, model.template)
    result = one_result(model.generate(prompt, **options))
    text = one_line(result.answer)
    print_result(args, {"image": args.image, "question": args.question, "answer": text}, text, result)
