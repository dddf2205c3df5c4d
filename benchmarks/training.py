"""A training step of the adapters, beside OpenFlamingo's own: the same weights, captions and losses.

    python benchmarks/peers/setup.py                # once: the peer's environment
    python benchmarks/training.py [--rounds 5] [--threads 2] [--size small] [--only NAME ...]
    python benchmarks/training.py --alone [--device cuda]     # without the peer

A step is forward, loss on the captions, backward, the gradient's clipping and AdamW over what was added. There is one
picture a caption; lengths are drawn from those of flickr8k's captions. mmlm takes the steps of its trainer: pictures
encoded anew, as features from the cache, or these with several captions in a row of `--row-length` positions. "bf16"
computes in bfloat16 and keeps weights in float32, as `precision="bfloat16"` does, but for the frozen ones of the
language model, which lie in bfloat16; with "autocast" these are cast in each pass. The peer pads captions to the
longest of the batch, as it does with LAION's (open_flamingo/train/data.py, 63-70), and to 256 tokens, as it does with
interleaved documents (the same, 113-122). Before anything is timed, three steps of both must have the same losses to
1e-4, and all of mmlm's ways to compute in float32 the same loss.

Ratios are medians of paired ratios; "control" is the peer beside the peer again. Memory is the most that a process held
in a step, its own weights and optimizer included. GFLOP are the operations of a step's products, of the first batch:
where both sides reach the same speed in them, their quotient is the ratio of the times. A CPU's fused
attention is not among them, so rows of bfloat16, which do without it, have a few more. Without the peer the
language model's random weights are rounded to bfloat16, as most published ones are.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from parts import SIZES, build, forget_peak, machine, paired_ratio, peak, progress
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mmlm.acceleration.hardware import multiplies
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.prompting.parts import Image
from mmlm.prompting.processor import IGNORE_INDEX, Batch, Example
from mmlm.training.config import TrainConfig
from mmlm.training.gradient import Gradient
from mmlm.training.objectives.base import Part
from mmlm.training.optimizer import hidden_matrices, make_optimizers
from mmlm.training.precision import computing
from mmlm.training.resting import resting
from mmlm.training.rows import Ready, batch_of, in_rows, room_in

# How many of 8005 captions of flickr8k have so many tokens, by CLIP's tokenizer; the longest 1 in 50 are left out.
LENGTHS = {
    4: 41, 5: 96, 6: 222, 7: 510, 8: 658, 9: 678, 10: 842, 11: 811, 12: 814, 13: 712, 14: 677, 15: 487, 16: 395,
    17: 276, 18: 234, 19: 171, 20: 105, 21: 81, 22: 50,
}  # fmt: skip
RATE = 1e-4  # the peer's default
STEPS, BATCHES = 3, 3  # whose losses are compared; that take turns
FULL = 256  # to which the peer pads documents
CLOSE = 1e-4  # nats, between losses in float32
BARS = {"fp32": 3.0, "fp32, cached": 4.0, "fp32, cached, packed": 6.0}
PEERS = {"peer": (None, "float32"), f"peer, {FULL}": (FULL, "float32"), "peer, bf16": (None, "bfloat16")}


@dataclass(frozen=True)
class Way:
    """How mmlm takes a step."""

    precision: str = "float32"
    cached: bool = False
    packed: bool = False
    checkpointing: bool = False
    autocast: bool = False  # casts the frozen weights in each pass


WAYS = {
    "fp32": Way(),
    "fp32, checkpointing": Way(checkpointing=True),
    "fp32, cached": Way(cached=True),
    "fp32, cached, packed": Way(cached=True, packed=True),
    "bf16": Way("bfloat16"),
    "bf16, cached, autocast": Way("bfloat16", cached=True, autocast=True),
    "bf16, cached": Way("bfloat16", cached=True),
    "bf16, cached, packed": Way("bfloat16", cached=True, packed=True),
    "bf16, cached, packed, checkpointing": Way("bfloat16", cached=True, packed=True, checkpointing=True),
}


class Training:
    """mmlm's model, batches and optimizer."""

    def __init__(self, model: MultimodalLM, batch: int, row_length: int) -> None:
        self.model, self.room = model.train(), room_in(model, row_length)
        config = TrainConfig(learning_rate=RATE, weight_decay=0.0, betas=(0.9, 0.999), gate_learning_rate_scale=1.0)
        parameters = dict(model.added_parameters())
        model.requires_grad_(False)
        self.trained = [parameter.requires_grad_() for parameter in parameters.values()]
        self.optimizers = make_optimizers(parameters, hidden_matrices(model), config)
        self.batches = [self._draw(batch, seed) for seed in range(BATCHES)]

    @torch.no_grad()
    def _draw(self, count: int, seed: int) -> list[Ready]:
        """Captions with one picture before each, and the pictures' features."""
        draw = torch.Generator().manual_seed(seed)
        vocabulary = self.model.language_model.vocabulary
        weights = torch.tensor(list(LENGTHS.values()), dtype=torch.float32)
        lengths = torch.tensor(list(LENGTHS))[weights.multinomial(count, True, generator=draw)]
        size = self.model.encoders["image"].image_size
        found = []
        for length in lengths.tolist():
            text = torch.randint(4, vocabulary.offset, (length,), generator=draw).tolist()
            ids = [vocabulary.image_id, *text, vocabulary.end_of_chunk_id]
            picture = Image(torch.randn(3, *size, generator=draw))
            found.append(Ready(Example(ids, [IGNORE_INDEX, *ids[1:]], [picture]), self.model.encode_media([picture])))
        return found

    def part(self, number: int, way: Way) -> Part:
        """What the trainer makes of batch `number`."""
        rows = in_rows(self.model, self.batches[number % BATCHES], self.room if way.packed else None)
        batch, media = batch_of(self.model.processor, rows)
        given: list[list[Any]] = (
            list(media) if way.cached else [[p for one in r for p in one.example.media] for r in rows]
        )
        return Part(int((batch.labels[:, 1:] >= 0).sum()), lambda: self.model(batch, given).loss)

    @torch.no_grad()
    def loss(self, way: Way) -> float:
        with computing(way.precision, self.model.device):
            return float(self.part(0, way).loss())

    def step(self, number: int, way: Way) -> float:
        """The loss before the step."""
        gradient = Gradient(self.trained, way.precision, self.model.device, 1.0)
        with checkpointing(self.model) if way.checkpointing else nullcontext():
            found = gradient.of([self.part(number, way)])
        for optimizer in self.optimizers:
            optimizer.step()
        for parameter in self.trained:
            parameter.grad = None
        return found.loss

    def save(self, folder: Path, width: int | None) -> list[Path]:
        """The batches as the peer takes them, a file each, padded to `width` or to the longest caption."""
        paths = []
        for number, ready in enumerate(self.batches):
            batch, _ = batch_of(self.model.processor, [[one] for one in ready])
            paths.append(folder / f"batch-{number}-{width}.pt")
            pixels = torch.stack([torch.stack([part.source for part in one.example.media]) for one in ready])
            torch.save({"pixels": pixels, **self._padded(batch, width or batch.input_ids.shape[1])}, paths[-1])
        return paths

    def _padded(self, batch: Batch, width: int) -> dict[str, Tensor]:
        empty = {"ids": self.model.language_model.vocabulary.pad_id, "mask": 0, "labels": IGNORE_INDEX}
        tensors = {"ids": batch.input_ids, "mask": batch.attention_mask, "labels": batch.labels}
        return {
            name: torch.nn.functional.pad(own, (0, width - own.shape[1]), value=empty[name])
            for name, own in tensors.items()
        }


@contextmanager
def checkpointing(model: MultimodalLM) -> Iterator[None]:
    own = model.language_model.model
    kind = "activation" if hasattr(own, "activation_checkpointing_enable") else "gradient"  # as older transformers say
    getattr(own, f"{kind}_checkpointing_enable")()
    yield
    getattr(own, f"{kind}_checkpointing_disable")()


@dataclass(frozen=True)
class Taken:
    """Seconds of a step, the GB held at most, and operations of its products where they were counted."""

    seconds: float
    gigabytes: float
    operations: float


Run = Callable[[int], Taken]
"""Takes a step on batch `number`; counts operations at number 0, which warms up."""


def ours(training: Training, way: Way) -> Run:
    rests = way.precision == "bfloat16" and not way.autocast

    def run(number: int) -> Taken:
        counter = FlopCounterMode(display=False)
        with resting(training.model.language_model) if rests else nullcontext():  # once in a run
            forget_peak()
            start = time.perf_counter()
            with nullcontext() if number else counter:
                training.step(number, way)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            return Taken(time.perf_counter() - start, peak(), counter.get_total_flops())

    return run


def theirs(peer: Any, paths: list[Path], precision: str) -> Run:
    def run(number: int) -> Taken:
        forget_peak(peer.process.pid)
        reply = peer.ask(step=paths[number % BATCHES], precision=precision, lr=RATE, count=not number)
        return Taken(reply["seconds"], peak(peer.process.pid), reply["operations"])

    return run


def compare(training: Training, peer: Any | None, paths: list[Path]) -> None:
    """AssertionError where losses differ by CLOSE: of mmlm's ways in float32, and of the first steps of both sides."""
    expected = training.loss(Way())
    for name, way in WAYS.items():
        if way.precision == "float32":
            found = training.loss(way)
            assert abs(found - expected) < CLOSE, f"{name}: the loss is {found}, not {expected}"
    print("| step | peer's loss | mmlm's loss |\n| --- | --- | --- |")
    for number in range(STEPS if peer else 0):
        progress(f"step {number + 1} of {STEPS} of both sides")
        found = training.step(number, Way())
        expected = peer.ask(step=paths[number], precision="float32", lr=RATE)["loss"]
        print(f"| {number + 1} | {expected:.6f} | {found:.6f} |", flush=True)
        assert abs(found - expected) < CLOSE, f"step {number + 1}: the loss is {found}, and the peer's {expected}"


def measure(runs: dict[str, Run], rounds: int) -> dict[str, list[Taken]]:
    """What each run took, first while it was counted and warmed up, then in each round; all have the same batches."""
    found: dict[str, list[Taken]] = {name: [] for name in runs}
    for done in range(rounds + 1):
        for name, run in runs.items():
            progress(f"round {done} of {rounds}: {name}" if done else f"warming up: {name}")
            found[name].append(run(done))
    progress("")
    return found


def table(took: dict[str, list[Taken]]) -> None:
    """Prints seconds, memory, operations, and ratios to the peer's two ways to pad, or to mmlm's first way."""
    bases = [name for name in (*list(PEERS)[:2], next(iter(took))) if name in took]
    bases = list(dict.fromkeys(bases))[:2]
    seconds = {name: [one.seconds for one in own[1:]] for name, own in took.items()}
    print("\n| step | seconds | GB | GFLOP |" + "".join(f" to {base} |" for base in bases))
    print("| --- " * (4 + len(bases)) + "|")
    for name, own in took.items():
        cells = [f"{paired_ratio(seconds[base], seconds[name]):.2f}x" for base in bases]
        if name in BARS and bases[0] == "peer":
            cells[0] += f" (bar {BARS[name]:g}x)"
        memory, operations = max(one.gigabytes for one in own[1:]), own[0].operations / 1e9
        median = statistics.median(seconds[name])
        print(f"| {name} | {median:.3f} | {memory:.2f} | {operations:.4g} | {' | '.join(cells)} |")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--row-length", type=int, default=64)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--only", nargs="+", choices=WAYS, help="all that the processor multiplies")
    parser.add_argument("--alone", action="store_true")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    slow = not multiplies(torch.bfloat16, args.device)
    only = args.only or [name for name, way in WAYS.items() if not (slow and way.precision == "bfloat16")]
    with tempfile.TemporaryDirectory() as temporary:
        folder, peer = Path(temporary), None
        if args.alone:
            model = build(args.size).to(args.device)
            with torch.no_grad():
                for own in model.language_model.model.parameters():
                    own.copy_(own.bfloat16())
        else:
            peer, model = both(folder, args.size, args.threads)
        training = Training(model, args.batch, args.row_length)
        paths = {width: training.save(folder, width) for width in (None, FULL)}
        compare(training, peer, paths[None])
        runs = {}
        if peer is not None:
            chosen = {name: own for name, own in PEERS.items() if not (slow and own[1] == "bfloat16")}
            runs = {name: theirs(peer, paths[width], precision) for name, (width, precision) in chosen.items()}
            runs["control"] = runs["peer"]
        runs |= {name: ours(training, WAYS[name]) for name in only}
        took = measure(runs, args.rounds)
        if peer is not None:
            peer.close()
    tokens = sum(len(one.example.input_ids) for batch in training.batches for one in batch) / BATCHES / args.batch
    print(
        f"\n{machine(args.device, args.threads)}, batch {args.batch}, {tokens:.1f} tokens a text, {args.rounds} rounds"
    )
    table(took)


def both(folder: Path, size: str, threads: int) -> tuple[Any, MultimodalLM]:
    """The peer and mmlm's model with the same weights, on a CPU."""
    sys.path.append(str(Path(__file__).parent / "peers"))
    import open_flamingo as peers  # the file beside this one
    import setup

    if not isinstance(SIZES[size].vision, str):
        raise SystemExit(f"the peer has no image encoder as small as that of {size}: add --alone")
    peer = peers.Peer(setup.python_of(setup.FOLDER), threads, "cpu")
    progress("writing the checkpoint")
    peers.write_parts(folder, SIZES[size])
    peer.ask(load=folder, dtype="float32")
    return peer, peers.read(folder, torch.float32, "cpu")


if __name__ == "__main__":
    main()
