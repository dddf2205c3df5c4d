"""Many users at once: the engine of `mmlm serve` beside the obvious server, which is a lock around `generate`.

    python benchmarks/serving.py [--clients 1 4 16 64] [--requests 64] [--rounds 3] [--threads 2] [--rate 4] [--packed]
        [--language-model FOLDER] [--kinds text picture five speech drawing shots]

Clients ask in turns, each again as soon as it has its answer (closed loop); with `--rate` requests come at random
moments instead, so many a second on average (open loop). Prompts are text, a picture, five pictures, a recording with a
question, and drawings, in turns; no two are the same. The model is nano, or its encoders with untrained adapters on
another language model. Both servers get the same requests in the same order; how many of them got the same tokens from
both is printed, too. First: seconds from asking to the first token; gap: between two tokens of a request; percentiles
are over all requests. The servers take turns, in rounds; ratios are of the same round, and the lines after the
rounds have their median, least and greatest.

With `--kinds text` and a language model, transformers' own continuous batching (`generate_batch`) writes the same
texts. `--kinds shots` asks about pictures behind the same five demonstrations, which the engine reads once.
"""

import argparse
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from parts import forget_peak, machine, peak
from PIL import Image

import mmlm
from encoders.media.sound import Audio, load_audio
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.generation.media import media_spans
from mmlm.generation.options import GenerationOptions
from mmlm.generation.request import Writing, request
from mmlm.serving.engine import Engine
from mmlm.serving.options import EngineOptions

ROOT = Path(__file__).parents[1]
KINDS = ("text", "picture", "five", "speech", "drawing", "shots")
NEW = 40  # tokens at most
WORDS = "red blue green yellow black small large circle star square ring heart".split()


@dataclass
class Asked:
    """One request: its parts, its options, what it writes; and when its tokens came, in seconds."""

    kind: str
    prompt: list[Any]
    options: GenerationOptions
    writing: Writing | None = None
    at: float = 0.0
    times: list[float] = field(default_factory=list)
    ids: tuple[int, ...] = ()


Server = Callable[[Asked], None]
"""Answers one request, in the thread of its client."""


def requests(model: MultimodalLM, kinds: list[str], count: int, seed: int = 0) -> list[Asked]:
    """Requests of the kinds in turns."""
    draw = random.Random(seed)
    sound = load_audio(ROOT / "demos" / "questions" / "order.wav")

    def picture() -> Image.Image:
        image = Image.new("RGB", (96, 96), draw.choice(["white", "gray", "beige"]))
        for _ in range(3):
            size, x, y = draw.randrange(12, 30), draw.randrange(60), draw.randrange(60)
            image.paste(draw.choice(WORDS[:5]), (x, y, x + size, y + size))
        return image

    shots = [part for _ in range(5) for part in (picture(), f"Output:{' '.join(draw.choices(WORDS, k=12))}\n")]

    def asked(kind: str) -> Asked:
        options = GenerationOptions(max_new_tokens=NEW)
        said = " ".join(draw.choices(WORDS, k=6))
        if kind == "text":
            return Asked(kind, [f"{said} Output:"], options)
        if kind == "picture":
            return Asked(kind, [picture(), f"{said} Output:"], options)
        if kind == "five":
            return Asked(kind, [*(picture() for _ in range(5)), f"{said} Output:"], options)
        if kind == "shots":
            return Asked(kind, [*shots, picture(), "Output:"], options)
        if kind == "speech":
            cut = sound.waveform[: len(sound.waveform) - draw.randrange(8000)]
            return Asked(kind, model.template.spoken_prompt([mmlm.Sound(Audio(cut, sound.sample_rate))], said), options)
        options = GenerationOptions(do_sample=True, temperature=0.5, seed=draw.randrange(1000))
        return Asked(
            kind, model.template.writing_prompt("image", f"a {said}"), options,
            Writing("image", media_spans(model, "image", 4.0)),
        )  # fmt: skip

    return [asked(kind) for kind in itertools.islice(itertools.cycle(kinds), count)]


def locked(model: MultimodalLM) -> Iterator[Server]:
    """The obvious server."""
    lock = threading.Lock()

    def answer(asked: Asked) -> None:
        with lock:
            running = request(model, [asked.prompt], asked.options, asked.writing)
            ids = []
            for step in running.steps(asked.options.sampler(model.device), running.constraints()):
                ids.append(int(step.tokens[0]))
                asked.times.append(time.monotonic())
            asked.ids = tuple(ids)

    yield answer


def engine(model: MultimodalLM) -> Iterator[Server]:
    """The engine, without the network around it."""
    with Engine(model, EngineOptions(max_waiting=10_000)) as running:

        def answer(asked: Asked) -> None:
            ticket = running.submit(
                asked.prompt, asked.options, asked.writing,
                listener=lambda token: token and asked.times.append(time.monotonic()),
            )  # fmt: skip
            (result,) = ticket.results()
            asked.ids = result.token_ids

        yield answer
        for slots in running._slots:
            rows, positions = slots.capacity
            print(
                f"{'':13s} keys and values: {slots.position_bytes:,} bytes a position, room for {rows} rows of "
                f"{positions} positions: {slots.position_bytes * rows * positions / 1e6:,.1f} MB"
            )


def transformers_peer(model: MultimodalLM, folder: str, asked: list[Asked]) -> float:
    """Prints how fast transformers writes the texts, all of them given at once; tokens per second."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    peer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = [model.processor.encode(one.prompt).input_ids for one in asked]
    ends = [token for token in model.language_model.stop_ids if token < model.language_model.vocabulary.offset]
    config = GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=ends, pad_token_id=ends[0])
    begun = time.monotonic()
    outputs = peer.generate_batch(prompts, generation_config=config, progress_bar=False)
    seconds, written = time.monotonic() - begun, [tuple(one.generated_tokens) for one in outputs.values()]
    same = sum(one in written for one in {one.ids for one in asked})
    tokens = sum(map(len, written))
    rates = f"{len(asked) / seconds:8.1f} {tokens / seconds:9.0f}"
    print(f"{'':13s}transformers {rates}   {same} of {len({one.ids for one in asked})} texts are the same")
    return tokens / seconds


def run(server: Server, asked: list[Asked], clients: int, rate: float | None) -> float:
    """Seconds in which all requests are answered: by so many clients in turns, or coming `rate` a second."""
    waiting, begun, lock = iter(asked), time.monotonic(), threading.Lock()
    draw = random.Random(1)
    arrivals = list(itertools.accumulate(draw.expovariate(rate) for _ in asked)) if rate else []

    def client() -> None:
        while True:
            with lock:
                one = next(waiting, None)
            if one is None:
                return
            if arrivals:
                time.sleep(max(0.0, begun + arrivals[asked.index(one)] - time.monotonic()))
                one.at = begun + arrivals[asked.index(one)]
            else:
                one.at = time.monotonic()
            server(one)

    threads = [threading.Thread(target=client) for _ in range(len(asked) if rate else clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - begun


def percentiles(values: list[float]) -> str:
    """The 50th, 95th and 99th, in milliseconds."""
    ordered = sorted(values)
    return " ".join(
        f"{1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))]:7.0f}" for share in (0.5, 0.95, 0.99)
    )


def measured(server: Server, asked: list[Asked], clients: int, rate: float | None) -> tuple[float, float]:
    """Prints a line; tokens per second, and the 95th percentile of seconds to the first token."""
    forget_peak()
    seconds = run(server, asked, clients, rate)
    tokens = sum(len(one.times) for one in asked)
    first = [one.times[0] - one.at for one in asked]
    gaps = [later - earlier for one in asked for earlier, later in itertools.pairwise(one.times)]
    rates = f"{len(asked) / seconds:8.1f} {tokens / seconds:9.0f} {tokens / len(asked):7.1f}"
    print(f"{rates}   {percentiles(first)}   {percentiles(gaps)}  {peak():6.2f}", flush=True)
    return tokens / seconds, sorted(first)[int(len(first) * 0.95)]


def build(args: argparse.Namespace) -> MultimodalLM:
    """nano, or its encoders on another language model."""
    if args.language_model is None:
        return mmlm.load("nano")
    nano = mmlm.load("nano")
    return mmlm.assemble(
        args.language_model, image_encoder=nano.encoders["image"], audio_encoder=nano.encoders["audio"],
        fusion=mmlm.FusionConfig(cross_attention_every=4),
    )  # fmt: skip


def round_of(model: MultimodalLM, args: argparse.Namespace, clients: int) -> dict[str, float]:
    """Prints a line for each server; their ratios, by what they are of."""
    found, ids = {}, {}
    for name, make in (("locked", locked), ("engine", engine)):
        for server in make(model):
            run(server, requests(model, args.kinds, len(args.kinds) * 2, seed=99), clients, None)  # warm up
            asked = requests(model, args.kinds, args.requests)
            print(f"{clients:3d} clients, {name:12s}", end="", flush=True)
            found[name] = measured(server, asked, clients, args.rate)
            ids[name] = [one.ids for one in asked]
    (slow, late), (fast, early) = found["locked"], found["engine"]
    same = sum(one == other for one, other in zip(ids["locked"], ids["engine"], strict=True))
    ratios = {
        "share of requests that got the same tokens": same / args.requests,
        "tokens, engine / locked": fast / slow,
        "95th first token, engine / locked": early / late,
    }
    if args.language_model and args.kinds == ["text"]:
        ratios["tokens, engine / transformers"] = fast / transformers_peer(model, args.language_model, asked)
    return ratios


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--packed", action="store_true")
    parser.add_argument("--language-model")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS[:-1]))
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print(machine("cpu", args.threads))
    model = build(args)
    if args.packed:
        model.pack()
    print(
        "                          requests    tokens    each   first token, ms          gap, ms                 peak"
    )
    print(
        "                          a second  a second  writes       50      95      99        50      95      99   GB"
    )
    for clients in args.clients:
        rounds = [round_of(model, args, clients) for _ in range(args.rounds)]
        for name in rounds[0]:
            ratios = sorted(one[name] for one in rounds)
            print(f"{'':13s}{name}: {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})", flush=True)


if __name__ == "__main__":
    main()
