"""Measure a model beside the same model given wrong pictures or recordings."""

from __future__ import annotations

import argparse

from mmlm.cli.loading import load_model
from mmlm.cli.options import (
    add_device_option,
    add_dtype_option,
    add_generation_options,
    add_pack_option,
    add_part_options,
    file_path,
    generation_options,
)
from mmlm.cli.output import print_record

EXAMPLES = """\
  mmlm eval nano pairs.jsonl
  mmlm eval my-model photos/ --limit 200 --num-beams 3 --json
  mmlm eval my-model speech.jsonl                  (hearing: answers, transcripts, labels)"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument("model", type=file_path, metavar="MODEL", help="preset, folder or hub id")
    verb.add_argument(
        "data", type=file_path, metavar="DATA", help="JSONL manifest, folder with metadata.jsonl, tars, or COCO JSON"
    )
    verb.add_argument("--limit", type=int, metavar="N", help="measure on the first N records")
    verb.add_argument("--batch-size", type=int, default=32, metavar="N")
    add_part_options(verb)
    add_device_option(verb)
    add_dtype_option(verb)
    add_pack_option(verb)
    add_generation_options(verb)


def run(args: argparse.Namespace) -> None:
    """The table of all figures, or the report as JSON."""
    options = generation_options(args)
    from mmlm.data import read_records
    from mmlm.evaluation import evaluate
    from mmlm.evaluation.trials import media_of

    records = read_records(args.data)
    report = evaluate(
        lambda: load_model(args, *media_of(records)),
        records,
        limit=args.limit,
        batch_size=args.batch_size,
        **options,
    )
    print_record(args, report.to_dict(), str(report))
