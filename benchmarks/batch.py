"""Captions of many pictures: a job of `mmlm caption --data --output` beside the loops that a user would write.

    python benchmarks/batch.py '../shared/data/flickr8k/dev-*.tar' [--count 64] [--width 500] [--rounds 5] [--threads 1]

The pictures are written into a folder with a manifest, `--width` pixels wide. nano captions all of them, in turns: one
after the other as files (`for line in manifest: model.caption(path)`), as one list (`model.caption(paths)`), and as a
job, which survives kills and writes its rows to the disk. All give the same captions. The model is loaded once before.
Seconds and CPU seconds (of all threads) are medians, for one picture; ratios are medians of the ratios within a round.
"""

import argparse
import io
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from parts import machine, paired_ratio, progress
from PIL import Image

import mmlm
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.cli import build_parser, caption
from mmlm.cli.inputs import suffixes_of
from mmlm.cli.picture_job import PictureRows
from mmlm.data.find import media_in
from mmlm.data.records import BadRecord
from mmlm.jobs import Job, Ranks, open_job, work
from mmlm.jobs.leases import Leases
from mmlm.jobs.parts import Parts


def written(data: str, count: int, width: int, folder: Path) -> Path:
    """A manifest of the first pictures of a data source, which are written beside it."""
    places = [found[1] for found in media_in(data, "image", suffixes_of("image")) if not isinstance(found, BadRecord)]
    with open(folder / "pictures.jsonl", "w", encoding="utf-8") as manifest:
        for number, place in enumerate(itertools.islice(places, count)):
            with Image.open(io.BytesIO(place.read())) as image:
                size = (width, round(image.height * width / image.width))
                image.convert("RGB").resize(size).save(folder / f"{number:05d}.jpg", quality=90)
            manifest.write(json.dumps({"image": f"{number:05d}.jpg"}) + "\n")
    return folder / "pictures.jsonl"


def one_by_one(model: MultimodalLM, manifest: Path) -> list[str]:
    """The obvious loop."""
    with open(manifest, encoding="utf-8") as lines:
        return [str(model.caption(manifest.parent / json.loads(line)["image"])) for line in lines]


def at_once(model: MultimodalLM, manifest: Path) -> list[str]:
    """The obvious call, for what fits into memory."""
    with open(manifest, encoding="utf-8") as lines:
        return list(map(str, model.caption([manifest.parent / json.loads(line)["image"] for line in lines])))


def as_job(model: MultimodalLM, manifest: Path, output: Path) -> list[str]:
    """The command, after its model is loaded."""
    args = build_parser().parse_args(["caption", "--data", str(manifest), "--output", str(output)])
    rows = PictureRows(args, 1, caption.prompt_of, "caption")
    vars(rows)["loaded"] = model, None
    job = Job(args.data, "image", {"verb": args.verb}, args.shard_size)
    with Leases(output / "leases") as leases:
        plan = open_job(output, job, leases, dict)
        work(plan, Parts(output), leases, lambda shard: plan.items(shard, "image", ("jpg",)), rows.rows_of, Ranks())
    lines = [line for part in sorted(output.glob("part-*")) for line in part.read_text(encoding="utf-8").splitlines()]
    return [json.loads(line)["caption"] for line in lines]


def costs(ways: dict[str, Callable[[], list[str]]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds and CPU seconds of each way in each round, after one that warms; exits where the captions differ."""
    took: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(rounds + 1):
        texts = []
        for way, run in ways.items():
            progress(way)
            began, before = time.perf_counter(), time.process_time()
            texts.append([" ".join(text.split()) for text in run()])
            took[way].append((time.perf_counter() - began, time.process_time() - before))
        if not texts[0] == texts[1] == texts[2]:
            sys.exit(f"the captions differ: {texts}")
    return {way: own[1:] for way, own in took.items()}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--width", type=int, nargs="+", default=[500, 4000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    model = mmlm.load("nano")
    print(f"{machine('cpu', args.threads)}; {args.count} pictures\n")
    print("| width | way | ms | CPU ms | CPU, the loop's to this |\n| --- | --- | --- | --- | --- |")
    for width in args.width:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            manifest = written(args.data, args.count, width, folder)
            outputs = (folder / f"run-{number}" for number in itertools.count())
            ways = {
                "a loop": lambda file=manifest: one_by_one(model, file),
                "a list": lambda file=manifest: at_once(model, file),
                "a job": lambda file=manifest, new=outputs: as_job(model, file, next(new)),
            }
            took = costs(ways, args.rounds)
            for way, own in took.items():
                seconds, computed = zip(*own, strict=True)
                cells = [f"{1000 * statistics.median(values) / args.count:.0f}" for values in (seconds, computed)]
                ratio = paired_ratio([cpu for _, cpu in took["a loop"]], computed)
                print(f"| {width} | {way} | {cells[0]} | {cells[1]} | {ratio:.2f}x |", flush=True)


if __name__ == "__main__":
    main()
