"""Measure a model beside the same model given wrong media, or by what each job is judged by."""

from __future__ import annotations

import argparse
from typing import Any

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
from mmlm.cli.suites import JUDGED, SUITES, judge_model, judge_predictions

EXAMPLES = """\
  mmlm eval nano pairs.jsonl
  mmlm eval my-model photos/ --limit 200 --num-beams 3 --json
  mmlm eval my-model speech.jsonl                  (hearing: answers, transcripts, labels)
  mmlm eval my-model captions_val2014.json --suite captions --images val2014/ --output captions/
  mmlm eval my-model questions.json --references annotations.json --suite vqa --images val2014/
  mmlm eval whisper/base speech.jsonl --suite asr --output whisper-base/
  mmlm eval --predictions results.json --references captions_val2014.json --suite captions"""
SUITE_HELP = (
    "captions: CIDEr, BLEU, ROUGE-L, METEOR; vqa: VQA accuracy, exact match; asr: WER and CER of Whisper; spoken: "
    "exact match of answers to spoken questions; retrieval: R@1, 5, 10 of CLIP; drawing: FID and CLIP score of "
    "drawings; auto: of the first four those that the data have texts for. Without it, right, wrong and no media are "
    "compared"
)


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument(
        "model", nargs="?", type=file_path, metavar="MODEL", help="preset, folder or hub id; for asr also a Whisper"
    )
    verb.add_argument(
        "data", nargs="?", type=file_path, metavar="DATA",
        help="JSONL manifest, folder with metadata.jsonl, tars, Parquet or COCO captions; conversations and documents "
        "are left out. Of a suite also VQAv2 questions, with their annotations in --references",
    )  # fmt: skip
    verb.add_argument("--limit", type=int, metavar="N", help="measure on the first N records")
    verb.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="records that the model reads at once (default: 32)"
    )
    verb.add_argument("--images", type=file_path, metavar="FOLDER", help="where paths of pictures start from")
    group = verb.add_argument_group("suites", "figures with 95% intervals, from files in official form")
    group.add_argument("--suite", choices=("auto", *SUITES), help=SUITE_HELP)
    group.add_argument(
        "--references", type=file_path, metavar="FILE",
        help="COCO captions, VQAv2 annotations, or transcripts (lines ID and words, or JSON with id and text)",
    )  # fmt: skip
    group.add_argument(
        "--predictions", type=file_path, metavar="FILE",
        help='judge these in place of a model: JSON [{"image_id", "caption"}], [{"question_id", "answer"}], '
        '[{"id", "text"}]',
    )  # fmt: skip
    group.add_argument(
        "--output", type=file_path, metavar="FOLDER", help="scores, items, predictions, a page to look at"
    )
    group.add_argument(
        "--clip", type=file_path, metavar="NAME", help="the CLIP of captions' CLIP score, retrieval, FID"
    )
    group.add_argument(
        "--language", metavar="NAME", help="of transcripts, for Whisper and its normaliser (default: en)"
    )
    add_part_options(verb)
    add_device_option(verb)
    add_dtype_option(verb)
    add_pack_option(verb)
    add_generation_options(verb)


def run(args: argparse.Namespace) -> None:
    """The table of all figures, or the report as JSON."""
    check_usage(args)
    options = generation_options(args)
    if args.output is not None:
        from mmlm.evaluation.results import check_results

        check_results(args.output)
    if args.suite is None:
        compare(args, options)
    elif args.predictions is not None:
        judge_predictions(args)
    else:
        judge_model(args, options)


def check_usage(args: argparse.Namespace) -> None:
    """ValueError for arguments that do not go together."""
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit must be at least 1, not {args.limit}")
    given = {name for name in ("references", "predictions", "output", "clip", "language") if vars(args)[name]}
    if args.suite is None and given:
        raise ValueError(f"--{sorted(given)[0]} is of a suite: give --suite, one of auto, {', '.join(SUITES)}")
    if args.predictions is None:
        if args.model is None or args.data is None:
            raise ValueError("give MODEL and DATA, or --predictions and --references with --suite")
        if args.references is not None and args.suite != "vqa":
            raise ValueError("--references beside DATA are VQAv2's annotations: give --suite vqa, or --predictions")
    elif args.suite not in JUDGED:
        raise ValueError(f"--predictions are judged by --suite {', '.join(JUDGED[:-1])} or {JUDGED[-1]}")
    elif args.references is None or args.model is not None:
        raise ValueError("--predictions need --references, and neither MODEL nor DATA")


def compare(args: argparse.Namespace, options: dict[str, Any]) -> None:
    """The figures of a model beside those with wrong media and with none."""
    from mmlm.data import read_records
    from mmlm.evaluation import evaluate
    from mmlm.evaluation.trials import media_of

    records = read_records(args.data, images=args.images)
    report = evaluate(
        lambda: load_model(args, *media_of(records), codecs=False),
        records,
        limit=args.limit,
        batch_size=args.batch_size,
        **options,
    )
    print_record(args, report.to_dict(), str(report))
