"""mmlm beside OpenFlamingo's own package: the same checkpoint, the same tokens, and the time that each takes.

    python benchmarks/peers/setup.py                # once: the peer's environment
    python benchmarks/peers/open_flamingo.py [--rounds 3] [--threads 2] [--device cpu] [--only NAME ...]

Weights are random: one checkpoint in upstream's layout, of an OPT with ViT-B-32 and a gated block before every block,
is read by both. First come logits and tokens, greedy and 3 beams, which must agree in float32, but for texts that are
equally likely. Then both write the same texts in turn; a table shows medians of paired ratios. The time of a token is
that of a whole text less that of its first token, over the others. On a CPU the peer computes in float32, and mmlm's
linear layers are packed, also rounded to fp16 and int8; on a GPU both compute in float32, then both in bfloat16. GB/s
is the bandwidth of memory, measured in each round, which tells the hours apart. `--plain` leaves mmlm unpacked.
"""

import argparse
import gc
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import open_clip
import setup
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from encoders.clip import ClipImageEncoder
from mmlm.acceleration.kernels import Weights
from mmlm.assembly.assemble import assemble
from mmlm.assembly.interop import open_flamingo
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.generation.beams import beam_search
from mmlm.generation.decoder import Decoder
from mmlm.generation.loop import decode
from mmlm.generation.options import GenerationOptions
from mmlm.model.language_model import LanguageModel
from mmlm.prompting.parts import Image
from mmlm.prompting.processor import Batch

sys.path.append(str(Path(__file__).parents[1]))
from parts import SIZES, Size, bandwidth, causal_lm, peak_memory, progress, sharing  # noqa: E402

PROMPT, NEW = 32, 64
TIE = 1e-3  # nats, between two texts of which rounding decides
NEVER = [-1]  # no token ends a text


@dataclass(frozen=True)
class Workload:
    """So many rows of so many pictures, and the ratios that are asked of a token, and of the first, by weights."""

    size: str
    batch: int
    pictures: int
    bars: dict[str, float] = field(default_factory=dict)
    first_bars: dict[str, float] = field(default_factory=dict)


WORKLOADS = {
    "1 picture": Workload("small", 1, 1, {"fp32": 2.5, "bf16": 4.5}),
    "5 pictures": Workload("small", 1, 5, {"fp32": 4.0, "bf16": 6.5}),
    "batch 8, 1 picture": Workload("small", 8, 1, first_bars={"fp32": 2.0}),
    "tiny, batch 8, 5 pictures": Workload("tiny", 8, 5, {"fp32": 10.0}, {"fp32": 2.0}),
}


class Peer:
    """OpenFlamingo in a process of its own, which stays, since it needs another transformers."""

    def __init__(self, python: Path, threads: int, device: str):
        if not python.exists():
            raise SystemExit(f"there is no {python}: run benchmarks/peers/setup.py first")
        self.log = (python.parents[1] / "worker.log").open("w")
        worker = Path(__file__).with_name("worker.py")
        self.process = subprocess.Popen(
            # -I: nothing of this project on its path, where this file would hide the package of its name.
            [python, "-I", worker, str(threads), device],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
        )  # fmt: skip

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request of `worker.py`."""
        self.process.stdin.write(json.dumps(request, default=str) + "\n")
        self.process.stdin.flush()
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"the peer ended without an answer to {request}: what it said is in {self.log.name}")
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


@torch.no_grad()
def write_parts(folder: Path, size: Size) -> None:
    """A random language model with its tokenizer, a random CLIP, and a checkpoint of what joins them, open gates."""
    torch.manual_seed(0)
    language_model = folder / "language_model"
    causal_lm(size).save_pretrained(language_model)
    tokenizer = Tokenizer(models.WordLevel({f"t{i}": i for i in range(size.vocabulary)}, "t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(language_model / "tokenizer.json"))  # and a config that transformers of 2023 reads, too
    (language_model / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    torch.save(open_clip.create_model("ViT-B-32").state_dict(), folder / "clip.pt")

    host = LanguageModel(
        transformers.AutoModelForCausalLM.from_pretrained(language_model),
        transformers.AutoTokenizer.from_pretrained(language_model),
    )
    model = assemble(host, eyes(folder))
    for layer in model.fusion.layers:
        layer.attn_gate.uniform_(0.5, 1.0)
        layer.ff_gate.uniform_(0.5, 1.0)
    host.added.head.copy_(host.added.embedding)  # OPT's head is its embedding
    open_flamingo.save(model, folder / "checkpoint.pt")


def eyes(folder: Path, dtype: torch.dtype = torch.float32) -> ClipImageEncoder:
    return ClipImageEncoder.load(f"ViT-B-32/{folder / 'clip.pt'}", final_norm=False, dtype=dtype)


def read(folder: Path, dtype: torch.dtype, device: str) -> MultimodalLM:
    """mmlm's model of the same files."""
    model = open_flamingo.load(
        folder / "checkpoint.pt", folder / "language_model", eyes(folder, dtype), dtype=dtype
    ).eval()
    model.encoders["image"].preprocess = lambda pixels: pixels.to(dtype)  # both sides start from the same pixels
    return model.to(device, dtype)  # all of it, as the peer's: adapters are loaded in float32


def sides(folder: Path, device: str, packed: bool) -> Iterator[tuple[str, dict[str, MultimodalLM]]]:
    """The dtype that the peer has, and mmlm's models beside it by their names: two at a time, to take less memory."""

    def made(model: MultimodalLM, name: str, weights: Weights = "exact") -> MultimodalLM:
        if packed:
            progress(f"packing {name}")
            model.pack(weights)
        return model

    def fresh(name: str, dtype: torch.dtype) -> MultimodalLM:
        return made(read(folder, dtype, device), name)

    if device == "cuda":
        yield "float32", {"fp32": fresh("fp32", torch.float32)}
        yield "bfloat16", {"bf16": fresh("bf16", torch.bfloat16)}
        return
    yield "float32", {"fp32": fresh("fp32", torch.float32), "bf16": fresh("bf16", torch.bfloat16)}
    if packed:
        whole = read(folder, torch.float32, device)
        yield "float32", {"fp16": made(sharing(whole), "fp16", "fp16"), "int8": made(sharing(whole), "int8", "int8")}


def write_inputs(path: Path, model: MultimodalLM, work: Workload) -> dict[str, Tensor]:
    """Pictures [B, N, 3, H, W], and prompts [B, PROMPT] in which each picture is followed by some text."""
    draw = torch.Generator().manual_seed(work.batch * 10 + work.pictures)
    ids = torch.randint(4, len(model.language_model.tokenizer), (work.batch, PROMPT), generator=draw)
    ids[:, torch.arange(work.pictures) * (PROMPT // work.pictures)] = model.language_model.vocabulary.image_id
    inputs = {"ids": ids, "pixels": torch.randn(work.batch, work.pictures, 3, 224, 224, generator=draw)}
    torch.save(inputs, path)
    return inputs


def prompt(inputs: dict[str, Tensor]) -> tuple[Batch, list[list[Image]]]:
    """Batch and pictures."""
    ids = inputs["ids"]
    return Batch(ids, torch.ones_like(ids)), [[Image(pixels) for pixels in row] for row in inputs["pixels"]]


@torch.no_grad()
def generate(model: MultimodalLM, inputs: dict[str, Tensor], new: int, beams: int = 1) -> Tensor:
    """New ids [B, new], from pixels on."""
    batch, media = prompt(inputs)
    batch = batch.to(model.device)
    decoder = Decoder(model.language_model, model.media_context(batch, media), batch, new)
    options = GenerationOptions(max_new_tokens=new, num_beams=beams)
    if beams > 1:
        return torch.tensor([beams[0].ids for beams in beam_search(decoder, options, NEVER)])
    return torch.stack([step.tokens for step in decode(decoder, options, NEVER)], dim=1).cpu()


def timed(model: MultimodalLM, inputs: dict[str, Tensor], new: int) -> tuple[float, Tensor]:
    start = time.perf_counter()
    ids = generate(model, inputs, new)
    return time.perf_counter() - start, ids


@torch.no_grad()
def compare(peer: Peer, folder: Path, model: MultimodalLM, name: str, work: Workload) -> None:
    """Prints how far logits and tokens agree; AssertionError where logits differ by 1e-4 of the largest, or texts that
    are not tied do."""
    inputs = write_inputs(folder / "inputs.pt", model, work)
    peer.ask(logits=folder / "inputs.pt", to=folder / "logits.pt")
    theirs = torch.load(folder / "logits.pt")
    ours = model(*prompt(inputs)).logits.cpu()
    apart = (ours - theirs).abs().max() / theirs.abs().max()
    assert apart < 1e-4, f"{name}: logits differ by {apart:.1e} of the largest"
    cells = []
    for beams, new in ((1, NEW), (3, 20)):
        reply = peer.ask(generate=folder / "inputs.pt", options={"max_new_tokens": new, "num_beams": beams})
        pair = generate(model, inputs, new, beams), torch.tensor(reply["tokens"])
        gaps = (score(model, inputs, pair[0]) - score(model, inputs, pair[1])).abs()
        assert gaps.max() < TIE, f"{name}: {beams} beams write other tokens than the peer's"
        tied = int((pair[0] != pair[1]).any(1).sum())
        cells.append("equal" if not tied else f"equal but for {tied} tied")
    print(f"| {name} | {apart:.1e} of the largest | {' | '.join(cells)} |", flush=True)


def score(model: MultimodalLM, inputs: dict[str, Tensor], new: Tensor) -> Tensor:
    """Log-probabilities [B] of the texts that new ids [B, n] make."""
    ids = torch.cat([inputs["ids"], new], dim=1)
    _, media = prompt(inputs)
    logits = model(Batch(ids, torch.ones_like(ids)), media).logits[:, PROMPT - 1 : -1].cpu().double()
    return logits.log_softmax(-1).gather(-1, new.unsqueeze(-1)).sum((1, 2))


def measure(
    peer: Peer, folder: Path, mine: dict[str, MultimodalLM], work: Workload, rounds: int
) -> tuple[list[dict[str, tuple[float, float]]], dict[str, Tensor], float]:
    """Seconds of the first token and of a whole text, of "peer" and of each of `mine`, by round; tokens of each; bytes
    a second that were read from memory meanwhile."""
    path = folder / "inputs.pt"
    inputs = write_inputs(path, next(iter(mine.values())), work)
    inputs["pixels"] = inputs["pixels"].to(next(iter(mine.values())).device)  # where the peer has them, too
    found, tokens, rates = [], {}, []
    for done in range(rounds + 1):
        progress(f"round {done} of {rounds}" if done else "warming up")
        rates.append(bandwidth(str(inputs["pixels"].device)))
        theirs = [peer.ask(generate=path, options={"max_new_tokens": new})["seconds"] for new in (1, NEW)]
        seconds = {"peer": (theirs[0], theirs[1])}
        for name, model in mine.items():
            first, _ = timed(model, inputs, 1)
            whole, tokens[name] = timed(model, inputs, NEW)
            seconds[name] = first, whole
        found.append(seconds)
    return found[1:], tokens, statistics.median(rates[1:])  # the first round warms everything


def row(
    title: str, rate: float, name: str, seconds: list[dict[str, tuple[float, float]]], work: Workload, agree: float
) -> str:
    """One line of the table: the peer and one of ours; rate: bytes a second that memory gave meanwhile."""
    pairs = [(took["peer"], took[name]) for took in seconds]
    tokens = [tuple((whole - first) / (NEW - 1) for first, whole in pair) for pair in pairs]
    firsts = [tuple(first for first, _ in pair) for pair in pairs]

    def cells(times: list[tuple[float, ...]], bar: float | None) -> str:
        theirs, ours = (1000 * statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(a / b for a, b in times)
        return f"{theirs:.1f} | {ours:.1f} | {ratio:.2f}x" + ("" if bar is None else f" (bar {bar:g}x)")

    bar, first_bar = work.bars.get(name), work.first_bars.get(name)
    head = f"| {title} | {rate / 1e9:.0f} | {name}"
    return f"{head} | {cells(tokens, bar)} | {cells(firsts, first_bar)} | {100 * agree:.0f}% |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--python", type=Path, default=setup.python_of(setup.FOLDER))
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    chosen = {name: WORKLOADS[name] for name in args.only}
    if args.device == "cuda":  # the bars are a CPU's
        chosen = {name: replace(work, bars={}, first_bars={}) for name, work in chosen.items()}
    peer = Peer(args.python, args.threads, args.device)
    lines: dict[str, list[str]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory() as temporary:
        print("| workload | logits differ by | greedy tokens | 3 beams |\n| --- | --- | --- | --- |")
        for size in dict.fromkeys(work.size for work in chosen.values()):
            folder = Path(temporary, size)
            write_parts(folder, SIZES[size])
            works = {name: work for name, work in chosen.items() if work.size == size}
            agreed: dict[str, Tensor] = {}
            for dtype, models in sides(folder, args.device, packed=not args.plain):
                peer.ask(load=folder, dtype=dtype)
                for name, work in works.items():
                    if "fp32" in models:
                        compare(peer, folder, models["fp32"], name, work)
                    seconds, tokens, rate = measure(peer, folder, models, work, args.rounds)
                    agreed.setdefault(name, next(iter(tokens.values())))
                    for weights, ids in tokens.items():
                        agree = (ids == agreed[name]).float().mean().item()
                        lines[name].append(row(name, rate, weights, seconds, work, agree))
                models.clear()
                gc.collect()  # modules and their hooks refer to each other
    peer.close()
    print(f"\n{peak_memory()}, beside the peer's")
    place = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.threads} threads"
    print(f"\n{place}; times in ms; ratios are medians of paired ratios over {args.rounds} rounds\n")
    print("| workload | GB/s | weights | peer, a token | mmlm | ratio | peer, first token | mmlm | ratio | as fp32 |")
    print("| --- " * 10 + "|\n" + "\n".join(chain.from_iterable(lines.values())))


if __name__ == "__main__":
    main()
