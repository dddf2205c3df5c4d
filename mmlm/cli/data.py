"""Check paired data, convert it, or look at what a model will see of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmlm.cli.loading import load_model
from mmlm.cli.messages import interrupted
from mmlm.cli.options import PARTS, add_json_option, add_part_options, file_path
from mmlm.cli.output import Told, print_record

EXAMPLES = """\
  mmlm data check pairs.jsonl
  mmlm data check "train-*.tar" --media --json     (decodes every picture, film and recording)
  mmlm data check questions.jsonl --prompts        (for the rewards of grpo and ppo)
  mmlm data convert llava.json --images coco/ --output llava-tars --shard-size 1000
  mmlm data convert "train-*.tar" --to jsonl --output photos
  mmlm data preview pairs.jsonl --model nano --output sheet.html --first 12"""

SOURCE = (
    "JSONL manifest, folder with metadata.jsonl, WebDataset tars, COCO captions, VQAv2 questions, LLaVA conversations, "
    "Parquet; lines, rows and tars may also hold conversations and interleaved documents (docs/data.md)"
)
# Which action an option is for; the others have no use for it.
OWN = {"media": "check", "prompts": "check", "to": "convert", "shard_size": "convert", "model": "preview",
       "first": "preview", "seed": "preview", **dict.fromkeys(PARTS, "preview")}  # fmt: skip


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument(
        "action", choices=("check", "convert", "preview"),
        help="count and name what is bad; write in another format (needs -o); make a page of examples (needs -o)",
    )  # fmt: skip
    verb.add_argument("source", nargs="+", metavar="SOURCE", help=SOURCE)
    verb.add_argument("--images", type=file_path, metavar="FOLDER", help="where paths of pictures start from")
    verb.add_argument(
        "--bad-limit", type=float, default=0.01, metavar="X",
        help="share of bad records that is borne; where there are more, a check ends with code 1 and nothing is "
        "converted or shown (default: 0.01)",
    )  # fmt: skip
    verb.add_argument(
        "-o", "--output", type=file_path, metavar="PATH", help="convert: a new folder. preview: a page, NAME.html"
    )
    check = verb.add_argument_group("check")
    check.add_argument("--media", action="store_true", help="decode every picture, film and recording")
    check.add_argument(
        "--prompts", action="store_true", help="for rewards (grpo, ppo): what asks for nothing, as a document, is bad"
    )
    convert = verb.add_argument_group(
        "convert",
        "until it is complete, the folder is FOLDER.partial; a conversion that was ended goes on with it when the\n"
        "same command is given again",
    )
    convert.add_argument("--to", choices=("tar", "jsonl"), help="WebDataset tars (default), or metadata.jsonl")
    convert.add_argument("--shard-size", type=int, metavar="N", help="records of a tar (default: 1000)")
    preview = verb.add_argument_group("preview")
    preview.add_argument("--model", type=file_path, metavar="MODEL", help="preset, folder or hub id (default: nano)")
    preview.add_argument("--first", type=int, metavar="N", help="how many examples (default: 12)")
    preview.add_argument("--seed", type=int, metavar="N", help="of the run whose first examples they are (default: 0)")
    add_part_options(verb)
    verb.set_defaults(device="cpu", dtype="float32", pack=None)
    add_json_option(verb)


def run(args: argparse.Namespace) -> int | None:
    """The report, the folder or the page. A check exits with 1 where files are damaged, or too many records are bad."""
    check_usage(args)
    reading = dict(images=args.images, bad_limit=args.bad_limit)
    if args.action == "check":
        from mmlm.data.check import check_data

        with Told("decoding records") as told:
            report = check_data(args.source, images=args.images, media=args.media, prompts=args.prompts, told=told)
        print_record(args, report.to_dict(), str(report))
        return 0 if report.within(args.bad_limit) else 1
    if args.action == "convert":
        from mmlm.data.convert import convert_data

        size = 1000 if args.shard_size is None else args.shard_size
        with interrupted(args, "stopped; the same command goes on"), Told("converting records") as told:
            done = convert_data(args.source, args.output, form=args.to or "tar", shard_size=size, told=told, **reading)
        print_record(args, {**vars(done), "output": str(done.output)}, str(done.output))
        return None
    from mmlm.data import read_records
    from mmlm.training.preview import preview_data

    records = read_records(args.source, **reading)
    first = 12 if args.first is None else args.first
    path = preview_data(load_model(args), records, args.output, first=first, seed=args.seed or 0)
    print_record(args, {"output": str(path)}, str(path))
    return None


def check_usage(args: argparse.Namespace) -> None:
    """ValueError or OSError for arguments that do not go together, before anything is read."""
    for name, action in OWN.items():
        if action != args.action and vars(args)[name] not in (None, False):
            raise ValueError(f"{args.action} has no --{name.replace('_', '-')}, which is for {action}")
    if args.action == "check":
        if args.output is not None:
            raise ValueError("check writes nothing: leave out --output, or give convert or preview")
        return
    if args.output is None:
        raise ValueError(f"{args.action} needs --output")
    if args.first is not None and args.first < 1:
        raise ValueError(f"--first must be at least 1, not {args.first}")
    if args.action == "preview" and Path(args.output).is_dir():
        raise ValueError(f"--output: {args.output} is a folder: give the name of a page, NAME.html")
    from mmlm.training.checks import check_output

    check_output(Path(args.output).parent)
