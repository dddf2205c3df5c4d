"""Runs of every objective, killed at random moments and resumed; and their files with a bit flipped.

    python benchmarks/soak_kills.py --count 1000 --flips 1000

A killed run is resumed until it ends, and must then be the undisturbed run bit for bit: weights, moments, caches, saved
models, previews and metrics. A flipped bit must be noticed, or make no difference. Exit code 1 if anything else
happens. Each run is a process that is forked from this one, so that SIGKILL meets a run and not the imports.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import matplotlib.figure  # noqa: F401 - loaded before the processes fork
import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from mmlm.retrieval.rices import Rices  # noqa: E402
from support.training_objectives import CASES, Case, picture_folder, tiny_encoder, tiny_records  # noqa: E402

SETTINGS = dict(save_every=2, log_every=3)
STOPPED = 4  # the step that a run has reached whose files are damaged
STATES = ("noticed, made good", "noticed, refused", "harmless", "silently other", "noticed, yet other")


def forked(action: Callable[[], None], log: Path) -> int:
    """A process that does this, and writes its warnings and errors into a file; returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        tqdm.set_lock(threading.RLock())  # its own is shared with the parent, and one that is killed may hold it
        logging.basicConfig(filename=log, level=logging.WARNING, force=True)
        action()
        code = 0
    except BaseException:
        log.open("a").write(traceback.format_exc())
    finally:
        os._exit(code)


def ended(child: int, seconds: float | None = None) -> int | None:
    """The exit code of a process, minus the signal that ended it; None if it still runs after so many seconds."""
    until = None if seconds is None else time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, 0 if until is None else os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if until is not None and time.monotonic() >= until:
            return None
        time.sleep(0.001)


def train(case: Case, folder: Path, stop_at: int | None = None) -> None:
    """A run, or what is left of it; `stop_at`: SIGTERM comes in the step before this one."""
    if stop_at is not None:
        original = case.objective.parts

        def parts(self, step):  # noqa: ANN001, ANN202 - as the objective has it
            if step == stop_at - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(self, step)

        case.objective.parts = parts
    case.train(case.build(), folder, **SETTINGS)


def outcome(folder: Path) -> dict[str, str]:
    """A hash of each file of a finished run, without what is of this process alone: speeds, and unfinished files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or any(part.startswith(".") for part in Path(name).parts):
            continue
        data = path.read_bytes()
        if name == "metrics.jsonl":
            lines = [json.loads(line) for line in data.splitlines()]
            data = repr([{k: v for k, v in line.items() if "_per_second" not in k} for line in lines]).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of files that differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def kill_runs(name: str, work: Path, count: int, draw: np.random.Generator, tick: Callable[[], object]) -> Counter:
    """Kills runs of one objective `count` times, up to three times a run."""
    case, found = CASES[name], Counter()
    log = work / "log"
    started = time.monotonic()
    assert ended(forked(lambda: train(case, work / "undisturbed"), log)) == 0, log.read_text()
    seconds, expected = time.monotonic() - started, outcome(work / "undisturbed")
    while found["kills"] < count:
        folder = work / f"run-{found['runs']}"
        for _ in range(min(int(draw.integers(1, 4)), count - found["kills"])):
            child = forked(lambda folder=folder: train(case, folder), log)
            if ended(child, float(draw.uniform(0, seconds))) is None:
                os.kill(child, signal.SIGKILL)
                found["kills"] += ended(child) == -signal.SIGKILL
                tick()
        code = ended(forked(lambda folder=folder: train(case, folder), log))
        found["runs"] += 1
        different = differences(outcome(folder), expected)
        state = "failed" if code else "other" if different else "equal"
        found[state] += 1
        if state != "equal":
            tqdm.write(f"{name}, run {found['runs']}: {state} {different[:5]} {log.read_text()[-600:]}")
        shutil.rmtree(folder)
    return found


def flip_bits(name: str, work: Path, count: int, draw: np.random.Generator, tick: Callable[[], object]) -> Counter:
    """Flips a bit in a file of a stopped run, `count` times: of its newest checkpoint, or of its cache."""
    case, found, log = CASES[name], Counter(), work / "log"
    if not (work / "undisturbed").exists():
        assert ended(forked(lambda: train(case, work / "undisturbed"), log)) == 0, log.read_text()
    ended(forked(lambda: train(case, work / "stopped", STOPPED), log))
    expected = outcome(work / "undisturbed")
    for number in range(count):
        folder = work / f"flip-{number}"
        shutil.copytree(work / "stopped", folder)
        newest = max((folder / "checkpoints").iterdir())
        caches = (path for cache in ("features", "codes") for path in (folder / cache).rglob("*.safetensors"))
        files = sorted([*newest.iterdir(), *caches])
        flipped = flip(files[draw.integers(len(files))], draw)
        log.write_text("")
        code = ended(forked(lambda folder=folder: train(case, folder), log))
        different = differences(outcome(folder), expected)
        count_flip(found, code == 0, not different, log, f"{name}, {flipped}: {different[:5]}")
        shutil.rmtree(folder)
        tick()
    return found


def flip_index(work: Path, count: int, draw: np.random.Generator, tick: Callable[[], object]) -> Counter:
    """The same with the cache of an index of pictures."""
    found, encoder, records, log = Counter(), tiny_encoder(), tiny_records(12), work / "log"
    expected = Rices(encoder, records, cache=work / "whole").embeddings
    for number in range(count):
        folder = work / f"index-{number}"
        shutil.copytree(work / "whole", folder)
        flipped = flip(next(folder.rglob("*.safetensors")), draw)
        log.write_text("")

        def build(folder: Path = folder) -> None:
            torch.save(Rices(encoder, records, cache=folder).embeddings, folder / "found.pt")

        code = ended(forked(build, log))
        same = code == 0 and torch.equal(torch.load(folder / "found.pt", weights_only=True), expected)
        count_flip(found, code == 0, same, log, f"index, {flipped}")
        shutil.rmtree(folder)
        tick()
    return found


def flip(path: Path, draw: np.random.Generator) -> str:
    """Flips one bit of a file; returns which."""
    data = bytearray(path.read_bytes())
    place, bit = int(draw.integers(len(data))), int(draw.integers(8))
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"{path.name} byte {place} bit {bit}"


def count_flip(found: Counter, ran: bool, same: bool, log: Path, what: str) -> None:
    """Counts what came of a flipped bit, and prints what must not come of one."""
    state = state_of(ran, "damaged" in log.read_text(), same)
    found[state] += 1
    if state in STATES[3:]:
        tqdm.write(f"{state}: {what}")


def state_of(ran: bool, noticed: bool, same: bool) -> str:
    """One of STATES. A run that ends with an error has noticed the damage."""
    if not ran:
        return STATES[1]
    if same:
        return STATES[0] if noticed else STATES[2]
    return STATES[4] if noticed else STATES[3]


def main(argv: list[str] | None = None) -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="kills, over all objectives (default: 1000)")
    parser.add_argument("--flips", type=int, default=1000, help="flipped bits, over all of them (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--objectives", nargs="+", choices=list(CASES), default=list(CASES))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # threads do not outlive a fork
    kills, flips = {}, {}
    each, every = -(-args.count // len(args.objectives)), -(-args.flips // (len(args.objectives) + 1))
    with tempfile.TemporaryDirectory() as work, tqdm(desc="kills and flips", mininterval=5) as bar:
        for number, name in enumerate(args.objectives):
            own = Path(work, str(number))
            picture_folder(own)
            kills[name] = kill_runs(name, own, each, np.random.default_rng((args.seed, number)), bar.update)
            flips[name] = flip_bits(name, own, every, np.random.default_rng((args.seed, number, 1)), bar.update)
        own = Path(work, "index")
        own.mkdir()
        flips["index of pictures"] = flip_index(own, every, np.random.default_rng((args.seed, 99)), bar.update)
    print("| Objective | kills | runs | equal bit for bit | other | failed |\n|---|---|---|---|---|---|")
    for name, found in kills.items():
        print(f"| {name} |", " | ".join(f"{found[k]:,}" for k in ("kills", "runs", "equal", "other", "failed")), "|")
    print(f"\n| A bit flipped in files of | {' | '.join(STATES)} |\n|---|---|---|---|---|---|")
    for name, found in flips.items():
        print(f"| {name} |", " | ".join(f"{found[state]:,}" for state in STATES), "|")
    bad = sum(found["other"] + found["failed"] for found in kills.values())
    sys.exit(bool(bad + sum(found[state] for found in flips.values() for state in STATES[3:])))


if __name__ == "__main__":
    main()
