"""Caption pictures."""

from __future__ import annotations

import argparse
from typing import Any

from mmlm.cli.batch import Batch
from mmlm.cli.inputs import check_given, inputs_of, labelled
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
  mmlm caption photo.jpg
  mmlm caption photos/ --json                      (all pictures of a folder)
  mmlm caption "2024/**/*.jpg" --num-beams 3       (a pattern; quoted, it may stand for any number of files)
  mmlm caption --data "shards/*.tar" --json        (tars, a manifest, COCO: what train reads)
  mmlm caption --data "shards/*.tar" --output captions/     (millions: ended at any time, it is gone on with)
  mmlm caption --data "s3://bucket/x-{000..199}.tar" --output captions/
  mmlm caption clip.mp4
  cat photo.jpg | mmlm caption -
  mmlm caption photo.jpg --model my-model --examples captioned/ --shots 4"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument(
        "images",
        nargs="*",
        default=[],
        metavar="IMAGE",
        help="pictures, videos, folders, patterns, - for standard input",
    )
    verb.add_argument(
        "--data", type=file_path, metavar="DATA",
        help="tars (here, s3://…, https://…), manifest or COCO file: its pictures",
    )  # fmt: skip
    add_batch_options(verb)
    add_job_options(verb, shard_size=1000, batch_size=32)
    add_model_options(verb)
    add_example_options(verb)
    add_reading_options(verb, *VIDEO_LIMITS)
    add_generation_options(verb)


def run(args: argparse.Namespace) -> int:
    """A caption of each picture, a line each; several pictures at once."""
    check_given(args.images, args.data, "IMAGE")
    if is_job(args):
        return run_job(args, "image", work_of)
    if args.output is not None:
        raise ValueError("--output is for --data: name a manifest, tars or a COCO file with it")
    batch = Batch(args)
    inputs = inputs_of(args, batch, args.images, "image", args.data)
    return describe_pictures(args, batch, inputs, prompt_of, "caption", labelled(args.images, inputs))


def work_of(args: argparse.Namespace, rank: int) -> Work:
    """Captions in a job."""
    return picture_work(args, rank, prompt_of, "caption")


def prompt_of(args: argparse.Namespace, model: Any, examples: Any, picture: Any, _: str | None) -> Any:
    """What asks for a picture's caption."""
    if examples is None:
        return model.template.caption_prompt(picture)
    return examples.caption_prompt(picture, args.shots, model.template)
