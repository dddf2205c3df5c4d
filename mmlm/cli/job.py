"""Work on a data source of any size, into a folder: by one process or many, ended and gone on with at any time."""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmlm.cli.batch import Batch
from mmlm.cli.inputs import Kind, suffixes_of
from mmlm.cli.messages import complain, interrupted, on_the_command_line
from mmlm.cli.options import file_path

if TYPE_CHECKING:
    from mmlm.jobs import Job, Ranks, Totals
    from mmlm.jobs.work import RowsOf

OFTEN = 10.0  # seconds between lines about the progress
# What decides neither which rows there are nor what is in them, and the names of what is told by its content.
ELSEWHERE = """
    verb debug flags data output shard_size batch_size ray device fail_fast details examples
    model language_model image_encoder audio_encoder image_codec audio_codec
""".split()


@dataclass(frozen=True)
class Work:
    """What a verb does in a job. model: what identifies its model, which is loaded by then. rows_of: rows of a shard.

    examples: what identifies the examples that are shown to the model.
    """

    model: Callable[[], Mapping[str, Any]]
    rows_of: RowsOf
    examples: str | None = None


def add_job_options(verb: argparse.ArgumentParser, shard_size: int, batch_size: int | None = None) -> None:
    """How a data source becomes a folder of rows. batch_size: for verbs that have batches."""
    group = verb.add_argument_group(
        "many inputs",
        "--data with --output: a row for each input, in order, in FOLDER/part-00000.jsonl and on. The same command,\n"
        "given again after any end, goes on; given several times at once (torchrun), it shares the work. Tars may lie\n"
        "at addresses (s3://bucket/x-{000..199}.tar, https://…), of which pieces are read",
    )
    if batch_size is not None:
        group.add_argument("--output", type=file_path, metavar="FOLDER", help="where the rows go, with --data")
        group.add_argument(
            "--batch-size", type=int, default=batch_size, metavar="N",
            help=f"inputs at once (default: {batch_size})",
        )  # fmt: skip
    group.add_argument(
        "--shard-size", type=int, default=shard_size, metavar="N",
        help=f"inputs in a part; what a kill loses at most (default: {shard_size})",
    )  # fmt: skip
    group.add_argument(
        "--ray", nargs="?", const="auto", metavar="ADDRESS",
        help="on all nodes or GPUs of a Ray cluster (extra ray; default: the one that this machine belongs to)",
    )  # fmt: skip


def is_job(args: argparse.Namespace) -> bool:
    """Whether a data source goes into a folder. ValueError for --ray without these."""
    found = None not in (args.data, args.output)
    if args.ray is not None and not found:
        raise ValueError("--ray is for --data with --output")
    return found


def run_job(args: argparse.Namespace, kind: Kind, work_of: Callable[[argparse.Namespace, int], Work]) -> int:
    """All of a job; returns the exit code. work_of: given the arguments and the rank, may load examples but no model.

    It must be a function of a module, for Ray.
    """
    from mmlm.jobs.work import Ranks
    from mmlm.training.checks import check_output

    for name in ("shard_size", "batch_size"):
        if vars(args).get(name, 1) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {vars(args)[name]}")
    check_output(args.output)
    if args.ray is None:
        return _run_rank(Ranks.of_environment(), args, kind, work_of)
    from mmlm.jobs.cluster import on_ray
    from mmlm.jobs.plan import check_job

    check_job(Path(args.output), _job(args, kind, work_of(args, 0)))  # before tasks are begun
    codes = on_ray(
        functools.partial(_run_rank, args=args, kind=kind, work_of=work_of), args.ray, args.device.startswith("cuda")
    )
    return max(codes)


def _run_rank(
    ranks: Ranks, args: argparse.Namespace, kind: Kind, work_of: Callable[[argparse.Namespace, int], Work]
) -> int:
    """The part of one process."""
    from mmlm.jobs import open_job, work
    from mmlm.jobs.leases import Leases
    from mmlm.jobs.parts import Parts
    from mmlm.jobs.plan import check_job
    from mmlm.training.ranks import own_device

    if args.ray is None:
        args.device = own_device(args.device)
    folder, own = Path(args.output), work_of(args, ranks.rank)
    job = _job(args, kind, own)
    check_job(folder, job)  # before anything is made
    stopped = "stopped; the same command goes on"
    with interrupted(args, stopped) if ranks.rank == 0 else nullcontext(), Leases(folder / "leases") as leases:
        progress = _Progress(args)
        plan = open_job(folder, job, leases, own.model, progress.indexed)
        items_of = functools.partial(plan.items, modality=kind, suffixes=suffixes_of(kind))
        told = functools.partial(progress.tell, plan.total) if ranks.rank == 0 else lambda totals: None
        totals = work(plan, Parts(folder), leases, items_of, own.rows_of, ranks, told)
    if ranks.rank == 0:
        failed = f", of which {totals.failed:,} could not be used: their rows say why" if totals.failed else ""
        complain(args, f"{totals.rows:,} rows in {folder}{failed}")
    return 0 if not totals.failed else 1 if totals.failed < totals.rows else 2


def _job(args: argparse.Namespace, kind: Kind, own: Work) -> Job:
    from mmlm.jobs import Job

    options = {name: value for name, value in vars(args).items() if name not in ELSEWHERE}
    given = {name: value for name, value in options.items() if not (value is None or value is False or value == [])}
    if own.examples is not None:
        given["examples"] = own.examples
    return Job(args.data, kind, {"verb": args.verb, "options": given}, args.shard_size)


class _Progress:
    """Lines on standard error about how far a job is."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.first: Totals | None = None
        self.began = self.last = 0.0

    def indexed(self, done: int, total: int) -> None:
        """A line now and then about the tars at addresses, which are read once before the job begins."""
        now = time.monotonic()
        if now - self.last >= OFTEN and done < total:
            self.last = now
            complain(self.args, f"{done:,} of {total:,} tars are indexed")

    def tell(self, total: int, totals: Totals) -> None:
        """A line at the beginning of a job that is gone on with, and one now and then."""
        now, done = time.monotonic(), f"{totals.done:,} of {totals.shards:,} shards are done"
        if self.first is None:
            self.first, self.began, self.last = totals, now, now
            if totals.done:
                complain(self.args, done + ("; going on" if totals.done < totals.shards else ""))
        elif now - self.last >= OFTEN and totals.done < totals.shards:
            self.last, speed = now, (totals.rows - self.first.rows) / (now - self.began)
            left = f", {(total - totals.rows) / speed / 60:,.0f} min left" if speed else ""
            complain(self.args, f"{done}: {totals.rows:,} rows, {totals.failed:,} failed; {speed:.1f} a second{left}")


def error_row(args: argparse.Namespace, key: str, error: Exception | str) -> dict[str, Any]:
    """The row of an input that cannot be used. With `--fail-fast` or `--debug`, the error itself ends the work."""
    if args.debug and isinstance(error, Exception):
        raise error
    if args.fail_fast:
        Batch(args).fail(key, str(error), error if isinstance(error, Exception) else None)
    return {"key": key, "error": on_the_command_line(str(error), args.flags)}
