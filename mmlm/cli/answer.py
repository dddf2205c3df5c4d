"""Answer a question about a picture, about each of several, or from an index."""

from __future__ import annotations

import argparse
from typing import Any

from mmlm.cli.batch import Batch
from mmlm.cli.inputs import Input, inputs_of, labelled
from mmlm.cli.job import Work, add_job_options, is_job, run_job
from mmlm.cli.loading import check_index, load_model, read_image
from mmlm.cli.lookup import add_lookup_options, check_lookup, lookup_of, print_sources
from mmlm.cli.options import (
    VIDEO_LIMITS,
    add_batch_options,
    add_example_options,
    add_generation_options,
    add_model_options,
    add_reading_options,
    file_path,
    generation_options,
)
from mmlm.cli.output import one_line, print_result, tell_cut
from mmlm.cli.picture_job import picture_work
from mmlm.cli.pictures import describe_pictures
from mmlm.cli.thoughts import add_thinking_options

EXAMPLES = """\
  mmlm answer photo.jpg "what color is the circle?"
  mmlm answer "photos/*.jpg" "is there a person?"  (a quoted pattern or a folder: each of its pictures)
  mmlm answer --data questions.jsonl --output answers/    (lines with "image" and "question"; ended, it is gone on with)
  mmlm answer photo.jpg "how many people wear a hat?" --thinking=200 --votes 8 --details
  mmlm answer "is there a person?" --data "shards/*.tar" --output answers/
  mmlm answer "when does the library open?" --index notes.index   (made by mmlm index add)
  cat photo.jpg | mmlm answer - "how many shapes are there?" --json"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument(
        "image", nargs="?", metavar="IMAGE", help="a picture, video, folder, pattern, or - for standard input"
    )
    verb.add_argument("question", nargs="?", metavar="QUESTION", help="with --data: of all; else each has its own")
    verb.add_argument(
        "--data", type=file_path, metavar="DATA",
        help="tars (here, s3://…, https://…) or manifest with pictures and questions",
    )  # fmt: skip
    add_batch_options(verb)
    add_job_options(verb, shard_size=1000, batch_size=32)
    add_model_options(verb)
    add_example_options(verb)
    add_lookup_options(verb)
    add_thinking_options(verb)
    add_reading_options(verb, *VIDEO_LIMITS)
    add_generation_options(verb)


def run(args: argparse.Namespace) -> int:
    """The answer about each picture, in one line; of an index with what it was looked up in."""
    check_lookup(args)
    if args.index is not None:
        return from_index(args)
    if is_job(args):
        if args.question is not None:
            raise ValueError("with --data, give no IMAGE: a question alone is asked about each picture")
        args.image, args.question = None, args.image
        return run_job(args, "image", work_of)
    if args.data is not None or args.output is not None:
        raise ValueError("--data and --output go together: pictures with their questions, and a folder for the answers")
    if args.question is None:
        raise ValueError("give a picture and a question, or --data and --output")
    if not args.question.strip():
        raise ValueError("the question is empty")
    batch = Batch(args)
    inputs = inputs_of(args, batch, [args.image], "image")
    return describe_pictures(args, batch, inputs, prompt_of, "answer", labelled([args.image], inputs))


def from_index(args: argparse.Namespace) -> int:
    """Answers from an index, to a question alone or about pictures."""
    if args.data is not None or args.output is not None or args.examples is not None:
        raise ValueError("--index goes with a question, and pictures: leave out --data, --output and --examples")
    if args.image is None:
        raise ValueError("give a question, or a picture and a question")
    options = generation_options(args)
    check_index(args)
    batch, names = Batch(args), [] if args.question is None else [args.image]
    question = args.image if args.question is None else args.question
    inputs = inputs_of(args, batch, names, "image")
    if names and not inputs:
        return batch.code()
    model = load_model(args, codecs=False)
    from mmlm.retrieval import Index
    from mmlm.tasks.rows import one_result

    with Index(args.index, model) as index:
        lookup = lookup_of(args, index)

        def answer(one: Input | None) -> bool:
            picture = None if one is None else read_image(one, args)
            found = model.answer(picture, question, index=lookup, votes=args.votes, details=True, **options)
            result = one_result(found)
            print_answer(args, result, "" if one is None else one.name, bool(names) and labelled(names, inputs))
            return True

        for one in inputs or [None]:
            if batch.attempt(question if one is None else one.name, lambda one=one: answer(one)):
                batch.done += 1
    return batch.code()


def print_answer(args: argparse.Namespace, result: Any, name: str, label: bool) -> None:
    """An answer and its sources, those that it names marked."""
    from mmlm.tasks.rows import answers_of

    text = one_line(str(answers_of([result], False, False)))
    record = {**({"image": name} if name else {}), "question": args.question or args.image, "answer": text}
    print_result(args, record, f"{name}\t{text}" if label else text, result)
    print_sources(args, result)
    tell_cut(args, result, name if label else "")


def work_of(args: argparse.Namespace, rank: int) -> Work:
    """Answers in a job."""
    return picture_work(args, rank, prompt_of, "answer")


def prompt_of(args: argparse.Namespace, model: Any, examples: Any, picture: Any, question: str | None) -> Any:
    """What asks a question about a picture."""
    from mmlm.tasks.thinking import thinking_prompt

    if examples is None:
        prompt = model.template.question_prompt(picture, question)
    else:
        prompt = examples.question_prompt(picture, question, args.shots, model.template)
    return thinking_prompt(model, prompt, False if args.thinking is None else args.thinking)
