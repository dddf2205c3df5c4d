"""What a run tells the user while it goes, on standard error: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import torch
from tqdm import tqdm

SECONDS = 30.0  # between two lines, at least

log = logging.getLogger("mmlm.training")

T = TypeVar("T")


def say(message: str, progress: bool, level: int = logging.INFO) -> None:
    """A line beside the bar, if there is one; without `progress`, to the log at this level."""
    if not progress:
        log.log(level, message)
    elif sys.stderr.isatty():
        tqdm.write(message, file=sys.stderr)
    else:
        print(message, file=sys.stderr, flush=True)


def resumed(step: int, steps: int, output: Path, threads: int, device: torch.device) -> Iterator[str]:
    """What a run says that goes on from a checkpoint. threads: that it was made with."""
    now = torch.get_num_threads()
    if step == steps:
        yield (
            f"the run in {output} is finished, all {steps} steps of it: nothing is trained, and the model gets its "
            "weights. To train longer, give more steps and extend=True (extend=true in recipes)"
        )
        return
    yield f"going on from step {step} of {steps} in {output}"
    if threads != now and device.type == "cpu":
        yield (
            f"the run used {threads} threads until here, and now {now}: sums are rounded in another order, so bits may "
            f"differ from those of the undisturbed run. OMP_NUM_THREADS={threads} keeps them"
        )


class Counter:
    """Counts a long piece of work. `progress=False` shows nothing.

    total, initial: of pieces. title: what is done, "encoding pictures". Lines come once in half a minute, and with the
    first and the last `note`.
    """

    def __init__(self, total: int, title: str, progress: bool, *, initial: int = 0) -> None:
        self.total, self.title, self.done, self.initial = total, title, initial, initial
        self.lines = progress and not sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=initial, desc=title, disable=self.lines or not progress or not total)
        self.noted, self.told = "", False
        self.started = self.last = time.monotonic()

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.close()

    def update(self, count: int = 1) -> None:
        """So many more pieces are done."""
        self.done += count
        self.bar.update(count)
        if self.lines and time.monotonic() - self.last >= SECONDS:
            self._tell()

    def note(self, **figures: str) -> None:
        """Figures to show from now on."""
        self.bar.set_postfix(figures)
        self.noted = "".join(f", {name} {value}" for name, value in figures.items())
        if self.lines and (not self.told or self.done == self.total):
            self._tell()

    def _tell(self) -> None:
        self.told, self.last = True, time.monotonic()
        done, left = self.done - self.initial, self.total - self.done
        seconds = (self.last - self.started) / max(1, done) * left
        remaining = f", {timedelta(seconds=round(seconds))} left" if left else ""
        print(f"{self.title}: {self.done:,} of {self.total:,}{self.noted}{remaining}", file=sys.stderr, flush=True)


def counted(items: Sequence[T], title: str, progress: bool = True) -> Iterator[T]:
    """The items in turn; a `Counter` of this title tells how many are done."""
    with Counter(len(items), title, progress) as counter:
        for item in items:
            yield item
            counter.update()
