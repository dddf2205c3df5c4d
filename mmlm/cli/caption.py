"""Caption pictures."""

from __future__ import annotations

import argparse

from mmlm.cli.loading import check_files, examples_of, load_model, read_image
from mmlm.cli.options import add_example_options, add_generation_options, add_model_options, generation_options
from mmlm.cli.output import one_line, print_result

EXAMPLES = """\
  mmlm caption photo.jpg
  mmlm caption *.jpg --json --num-beams 3
  mmlm caption clip.mp4
  cat photo.jpg | mmlm caption -
  mmlm caption photo.jpg --model my-model --examples captioned/ --shots 4"""
BATCH = 8  # pictures that are decoded and captioned at once


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument("images", nargs="+", metavar="IMAGE", help="pictures, videos, or - for standard input")
    add_model_options(verb)
    add_example_options(verb)
    add_generation_options(verb)


def run(args: argparse.Namespace) -> None:
    """A caption of each picture, a line each; several pictures at once."""
    check_files(args.images)
    options, model, examples = generation_options(args), None, None
    from mmlm.tasks.rows import results_of

    for start in range(0, len(args.images), BATCH):
        names = args.images[start : start + BATCH]
        images = [read_image(name) for name in names]
        if model is None:
            model = load_model(args)
            examples = examples_of(args, model)
        if examples is None:
            prompts = [model.template.caption_prompt(image) for image in images]
        else:
            prompts = [examples.caption_prompt(image, args.shots, model.template) for image in images]
        drawn = {**options, "seed": options["seed"] + start} if "seed" in options else options
        for name, result in zip(names, results_of(model.generate(prompts, **drawn)), strict=True):
            text = one_line(result.answer)
            line = text if len(args.images) == 1 else f"{name}\t{text}"
            print_result(args, {"image": name, "caption": text}, line, result)
