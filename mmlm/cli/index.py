"""Make an index of texts, pictures and recordings, and search it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from mmlm.cli.batch import Batch
from mmlm.cli.loading import check_index, load_parts, read_image
from mmlm.cli.messages import interrupted
from mmlm.cli.options import (
    add_batch_options,
    add_encoder_options,
    add_index_options,
    add_json_option,
    add_least_option,
    file_path,
    key_and_value,
    where_of,
)
from mmlm.cli.output import Told, one_line, print_record

if TYPE_CHECKING:
    from mmlm.prompting.sources import Source
    from mmlm.retrieval.index import Index

EXAMPLES = """\
  mmlm index add notes/ photos/ talk.mp3 --index notes.index   (again: what is new or has changed)
  mmlm index add minutes/ --index notes.index --metadata year=2026
  mmlm index search "the red boat" --index notes.index
  mmlm index search "boat" --index notes.index --by words --where year=2026   (no model is loaded)
  mmlm index search --picture photo.jpg --index notes.index
  mmlm index show --index notes.index
  mmlm index remove photos/old --index notes.index"""

# Which action an option is for; the others have no use for it.
OWN = {"metadata": "add", "picture": "search", "k": "search", "by": "search", "least": "search", "missing": "remove"}


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument(
        "action", choices=("add", "search", "show", "remove"),
        help="put files in; find the best for words or a picture; list what is in it; take files out",
    )  # fmt: skip
    verb.add_argument(
        "sources", nargs="*", default=[], metavar="SOURCE", help="add, remove: files and folders. search: words"
    )
    add_index_options(verb, required=True)
    add_batch_options(verb)
    verb.add_argument(
        "--metadata", action="append", type=key_and_value, metavar="KEY=VALUE", help="add: what --where can ask for"
    )
    verb.add_argument("--picture", type=file_path, metavar="IMAGE", help="search: what pictures are to be like")
    verb.add_argument("-k", type=int, metavar="K", help="search: how many (default: 5)")
    verb.add_argument(
        "--by", choices=("words", "vectors", "both"), help="search: words alone need no model (default: both)"
    )
    add_least_option(verb)
    verb.add_argument("--missing", action="store_true", default=None, help="remove: the files that are gone")
    add_encoder_options(verb)
    add_json_option(verb)


def run(args: argparse.Namespace) -> int:
    """What was done or found."""
    for name, action in OWN.items():
        if action != args.action and vars(args)[name] not in (None, []):
            raise ValueError(f"{args.action} has no {'-k' if name == 'k' else f'--{name}'}, which is for {action}")
    if args.where and args.action in ("add", "remove"):
        raise ValueError(f"{args.action} has no --where, which is for search and show")
    if args.action == "show" and args.sources:
        raise ValueError("show lists all: leave out the files, or give --where")
    if args.action != "add":
        check_index(args)
    return {"add": add, "search": search, "show": show, "remove": remove}[args.action](args)


def add(args: argparse.Namespace) -> int:
    """Puts files in; what cannot be used is named."""
    if not args.sources:
        raise ValueError("add needs files or folders")
    from mmlm.retrieval.adding import Added, adding
    from mmlm.retrieval.items import items_of

    batch, items = Batch(args), []
    metadata = None if args.metadata is None else dict(args.metadata)
    for source in args.sources:
        items += batch.attempt(source, lambda source=source: list(items_of(source, metadata))) or []
    if not items:
        return batch.code()
    done = Added()
    hears = any(item.modality == "audio" for item in items)
    with (
        opened(args, "image", *(["audio"] if hears else [])) as index,
        interrupted(args, "stopped; what was added is kept, and the same command goes on"),
        Told("adding") as told,
    ):
        for number, (item, outcome) in enumerate(adding(index, items), start=1):
            told(number, len(items))
            done.count(item, outcome)
            if isinstance(outcome, Exception):
                batch.report(item.path, outcome)
            else:
                batch.done += 1
    print_record(args, vars(done) | {"index": args.index}, f"{args.index}: {done}")
    return batch.code()


def search(args: argparse.Namespace) -> int:
    """Prints what is found, the best first."""
    words = " ".join(args.sources) or None
    if words is None and args.picture is None:
        raise ValueError("search needs words, or --picture")
    if args.picture is not None and args.by == "words":
        raise ValueError("--by words: a picture is looked for by vectors; leave out one of the two")
    picture = None if args.picture is None else read_image(args.picture, args)
    by: Any = (args.by,) if args.by in ("words", "vectors") else ("words", "vectors")
    with opened(args, *([] if args.by == "words" else ["image"])) as index:
        k = 5 if args.k is None else args.k
        least = dict(args.least) or None
        found = index.search(words, picture=picture, k=k, by=by, where=where_of(args), least=least)
    for source in found:
        print_record(args, source.to_dict(), one_line(place_of(source)))
    if not found and not args.json:
        print(f"nothing relevant was found in {args.index}", file=sys.stderr)
    return 0


def opened(args: argparse.Namespace, *needed: str) -> Index:
    """The index, with the encoders of the model that are needed: its CLIP ("image"), its Whisper ("audio")."""
    encoders = load_parts(args, *needed) if needed else {}
    from mmlm.retrieval.index import Index

    clip: Any = encoders.get("image")
    ears: Any = encoders.get("audio")
    transcriber = None
    if ears is not None and ears.transcribes:
        from encoders.transcription.transcriber import Transcriber

        transcriber = Transcriber(ears.model)
    return Index(args.index, clip=clip, transcriber=transcriber)


def show(args: argparse.Namespace) -> int:
    """Lists what is in the index."""
    from mmlm.retrieval.index import Index

    with Index(args.index) as index:
        for place in index.places(where_of(args)):
            print_record(args, vars(place), f"{place.modality}\t{place.path}\t{place.pieces}")
    return 0


def remove(args: argparse.Namespace) -> int:
    """Takes files out; what is not there is named."""
    if bool(args.sources) == bool(args.missing):
        raise ValueError("remove needs either files or folders, or --missing")
    from mmlm.retrieval.index import Index

    batch, count = Batch(args), 0
    with Index(args.index) as index:
        if args.missing:
            count = index.remove_missing()
        for source in args.sources:
            found = batch.attempt(source, lambda source=source: index.remove(source))
            count, batch.done = count + (found or 0), batch.done + (found is not None)
    print_record(args, {"removed": count, "index": args.index}, f"{args.index}: {count:,} removed")
    return batch.code()


def place_of(source: Source) -> str:
    """Where a source is from, and what it says."""
    at = "" if source.start is None else f" ({source.start:.1f} to {source.end:.1f} s)"
    return f"{source.path}{at}{source.quote and f': {source.quote}'}"
