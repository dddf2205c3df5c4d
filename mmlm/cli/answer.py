"""Answer a question about a picture, or about each of several."""

from __future__ import annotations

import argparse
from typing import Any

from mmlm.cli.batch import Batch
from mmlm.cli.inputs import inputs_of, labelled
from mmlm.cli.job import Work, add_job_options, is_job, run_job
from mmlm.cli.options import (
    VIDEO_LIMITS,
    add_batch_options,
    add_example_options,
    add_generation_options,
    add_model_options,
    add_reading_options,
    file_path,
)
from mmlm.cli.picture_job import picture_work
from mmlm.cli.pictures import describe_pictures

EXAMPLES = """\
  mmlm answer photo.jpg "what color is the circle?"
  mmlm answer "photos/*.jpg" "is there a person?"  (a quoted pattern or a folder: each of its pictures)
  mmlm answer --data questions.jsonl --output answers/    (lines with "image" and "question"; ended, it is gone on with)
  mmlm answer "is there a person?" --data "shards/*.tar" --output answers/
  cat photo.jpg | mmlm answer - "how many shapes are there?" --json"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument(
        "image", nargs="?", metavar="IMAGE", help="a picture, video, folder, pattern, or - for standard input"
    )
    verb.add_argument("question", nargs="?", metavar="QUESTION", help="with --data: of all; else each has its own")
    verb.add_argument("--data", type=file_path, metavar="DATA", help="tars or manifest with pictures and questions")
    add_batch_options(verb)
    add_job_options(verb, shard_size=1000, batch_size=32)
    add_model_options(verb)
    add_example_options(verb)
    add_reading_options(verb, *VIDEO_LIMITS)
    add_generation_options(verb)


def run(args: argparse.Namespace) -> int:
    """The answer about each picture, in one line."""
    if is_job(args):
        if args.question is not None:
            raise ValueError("with --data, give no IMAGE: a question alone is asked about each picture")
        args.image, args.question = None, args.image
        return run_job(args, "image", work_of)
    if args.data is not None or args.output is not None:
        raise ValueError("--data and --output go together: pictures with their questions, and a folder for the answers")
    if args.question is None:
        raise ValueError("give a picture and a question, or --data and --output")
    batch = Batch(args)
    inputs = inputs_of(args, batch, [args.image], "image")
    return describe_pictures(args, batch, inputs, prompt_of, "answer", labelled([args.image], inputs))


def work_of(args: argparse.Namespace, rank: int) -> Work:
    """Answers in a job."""
    return picture_work(args, rank, prompt_of, "answer")


def prompt_of(args: argparse.Namespace, model: Any, examples: Any, picture: Any, question: str | None) -> Any:
    """What asks a question about a picture."""
    if examples is None:
        return model.template.question_prompt(picture, question)
    return examples.question_prompt(picture, question, args.shots, model.template)
