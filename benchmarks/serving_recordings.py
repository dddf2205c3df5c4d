"""Recordings of many users at once: the engine of `mmlm serve` beside one after the other, and a thread for each.

    python benchmarks/serving_recordings.py [--clients 1 4 8] [--recordings 8] [--seconds 45] [--threads 2]
        [--whisper FOLDER] [--packed]

All clients bring their recordings together; the recordings are made of the questions that come with the demos, in
another order each. Beside them one client asks the model for a text, again and again: by the engine, or with a lock
around `generate`. Rate: seconds of recordings written down in a second. First: seconds until the first window of a
recording has been written down, over all recordings. Gap: between two tokens of the text, in milliseconds, at the 50th
and 95th percentile. How many recordings got the same text and times in every way is printed, too.
"""

import argparse
import itertools
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parts import machine

import mmlm
from encoders.media.sound import SAMPLE_RATE, load_audio
from encoders.transcription.transcript import Segment
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.generation.options import GenerationOptions
from mmlm.generation.request import request
from mmlm.serving.engine import Engine
from mmlm.serving.options import EngineOptions

ROOT = Path(__file__).parents[1]
PROMPT, NEW = ["in the middle a large red circle Output:"], 40
WAYS = ("one by one", "threads", "engine")


@dataclass
class Heard:
    """A recording: its samples, its segments, when the first window was done and when all of it, in seconds."""

    samples: np.ndarray
    segments: list[Segment] = field(default_factory=list)
    first: float = 0.0

    def done(self, segments: Any, began: float) -> None:
        """A window is written down."""
        self.first = self.first or time.monotonic() - began
        self.segments += segments


def recordings(count: int, seconds: float) -> list[Heard]:
    """So many recordings of at least so many seconds, of spoken questions with a second of silence between them."""
    draw = random.Random(0)
    said = [
        load_audio(file, sample_rate=SAMPLE_RATE).waveform for file in sorted((ROOT / "demos/questions").glob("*.wav"))
    ]

    def made() -> np.ndarray:
        pieces: list[np.ndarray] = []
        while sum(map(len, pieces)) < seconds * SAMPLE_RATE:
            pieces += [np.asarray(draw.choice(said), np.float32), np.zeros(SAMPLE_RATE, np.float32)]
        return np.concatenate(pieces)

    return [Heard(made()) for _ in range(count)]


def times_of_text(model: MultimodalLM, engine: Engine | None, ended: threading.Event) -> list[float]:
    """Seconds between the tokens of texts that are written until the event is set."""
    gaps: list[float] = []
    options = GenerationOptions(max_new_tokens=NEW)
    while not ended.is_set():
        times: list[float] = []
        if engine is not None:
            noted = times.append
            engine.submit(
                PROMPT, options, listener=lambda token, note=noted: token and note(time.monotonic())
            ).results()
        else:
            running = request(model, [PROMPT], options, None)
            for _ in running.steps(options.sampler(model.device), running.constraints()):
                times.append(time.monotonic())
        gaps += [later - earlier for earlier, later in itertools.pairwise(times)]
    return gaps


def run(model: MultimodalLM, way: str, heard: list[Heard], clients: int) -> tuple[float, list[float]]:
    """Writes down the recordings in a way; seconds that it took, and those between the tokens of the text beside."""
    with ExitStack() as stack:
        engine = stack.enter_context(Engine(model, EngineOptions())) if way == "engine" else None
        lock, ended = threading.Lock() if way == "one by one" else nullcontext(), threading.Event()
        beside = stack.enter_context(ThreadPoolExecutor(1)).submit(times_of_text, model, engine, ended)
        stack.callback(ended.set)
        began = time.monotonic()

        def write_down(one: Heard) -> None:
            source = one.samples, SAMPLE_RATE
            if engine is not None:
                engine.transcribe(source, listener=lambda window: window and one.done(window.segments, began)).results()
                return
            with lock:
                for segment in model.transcriber.stream(source):
                    one.done([segment], began)

        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(write_down, heard))
        seconds = time.monotonic() - began
        ended.set()
        return seconds, beside.result()


def percentiles(values: list[float], scale: float) -> str:
    """The 50th and the 95th."""
    ordered = sorted(values)
    return " ".join(f"{scale * ordered[min(len(ordered) - 1, int(len(ordered) * at))]:7.1f}" for at in (0.5, 0.95))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--recordings", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=45.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--whisper", help="a Whisper in place of nano's: its file or folder")
    parser.add_argument("--packed", action="store_true")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print(machine("cpu", args.threads))
    model: MultimodalLM = mmlm.load("nano")
    if args.whisper is not None:
        from encoders.transcription.transcriber import Transcriber
        from encoders.whisper import load_whisper

        model.transcriber = Transcriber(load_whisper(args.whisper), model.language_model.accelerated)
    if args.packed:
        model.pack()
    print("                          rate    first, s            gap, ms")
    print("                                       50      95      50      95")
    for clients in args.clients:
        found: dict[str, list[Any]] = {}
        for way in WAYS:
            run(model, way, recordings(1, 1.0), clients)  # warm up
            heard = recordings(args.recordings, args.seconds)
            seconds, gaps = run(model, way, heard, clients)
            rate = sum(len(one.samples) for one in heard) / SAMPLE_RATE / seconds
            first = percentiles([one.first for one in heard], 1.0)
            print(f"{clients:3d} clients, {way:10s} {rate:7.1f} {first} {percentiles(gaps or [0.0], 1e3)}", flush=True)
            found[way] = [[(one.start, one.end, one.text) for one in each.segments] for each in heard]
        same = sum(len(set(map(repr, each))) == 1 for each in zip(*found.values(), strict=True))
        print(f"{'':13s}{same} of {args.recordings} got the same text and times in every way")


if __name__ == "__main__":
    main()
