"""Check paired data, convert it, or look at what a model will see of it."""

from __future__ import annotations

import argparse

from mmlm.cli.loading import load_model
from mmlm.cli.options import add_json_option, add_part_options, file_path
from mmlm.cli.output import print_record

EXAMPLES = """\
  mmlm data check pairs.jsonl
  mmlm data check "train-*.tar" --media --json     (decodes every picture, film and recording)
  mmlm data convert llava.json --images coco/ --output llava-tars --shard-size 1000
  mmlm data convert "train-*.tar" --to jsonl --output photos
  mmlm data preview pairs.jsonl --model nano --output sheet.html --first 12"""

# Which action an option is for; the others have no use for it.
OWN = {"media": "check", "to": "convert", "shard_size": "convert", "model": "preview", "first": "preview",
       "seed": "preview"}  # fmt: skip


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument("action", choices=("check", "convert", "preview"), help="what to do")
    verb.add_argument("source", nargs="+", metavar="SOURCE", help="what `mmlm train` takes as data; see docs/data.md")
    verb.add_argument("--images", type=file_path, metavar="FOLDER", help="where paths of pictures start from")
    verb.add_argument("--bad-limit", type=float, metavar="X", help="share of bad records that is borne (default: 0.01)")
    verb.add_argument(
        "-o", "--output", type=file_path, metavar="PATH", help="a new folder; of preview a page, NAME.html"
    )
    check = verb.add_argument_group("check")
    check.add_argument("--media", action="store_true", help="decode every picture, film and recording")
    convert = verb.add_argument_group("convert")
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
    """The report, the folder or the page. A check exits with 1 where records are bad."""
    for name, action in OWN.items():
        if action != args.action and getattr(args, name):
            raise ValueError(f"{args.action} has no --{name.replace('_', '-')}, which is for {action}")
    if args.action != "check" and args.output is None:
        raise ValueError(f"{args.action} needs --output")
    limit = 0.01 if args.bad_limit is None else args.bad_limit
    if args.action == "check":
        from mmlm.data.check import check_data

        report = check_data(args.source, images=args.images, media=args.media)
        print_record(args, report.to_dict(), str(report))
        total = report.records + len(report.bad)
        return 1 if args.bad_limit is not None and len(report.bad) > limit * total else None
    if args.action == "convert":
        from mmlm.data.convert import convert_data

        reading = dict(images=args.images, bad_limit=limit)
        size = 1000 if args.shard_size is None else args.shard_size
        done = convert_data(args.source, args.output, form=args.to or "tar", shard_size=size, **reading)
        print_record(args, {**vars(done), "output": str(done.output)}, str(done.output))
        return None
    from mmlm.data import read_records
    from mmlm.training.preview import preview_data

    records = read_records(args.source, images=args.images, bad_limit=limit)
    first = 12 if args.first is None else args.first
    path = preview_data(load_model(args), records, args.output, first=first, seed=args.seed or 0)
    print_record(args, {"output": str(path)}, str(path))
    return None
