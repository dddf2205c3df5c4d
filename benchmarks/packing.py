"""The laws of `pack`: what is packed is never slower, and a model of 16 bits never slower than the same in float32.

    python benchmarks/packing.py [--rounds 5] [--threads 2] [--size small tiny] [--only NAME ...]

Prints a table of medians of ratios, and ends with 1 if a law does not hold. In each round plain, plain again, packed
and, for 16 bits, packed float32 take turns on the same weights. "control" is plain beside plain again: how far the
machine's other work moves a ratio. A token's time is that of a text less that of its first token, over the others;
the first token's begins at pixels. "reached" is the time to read all weights of a token once, at the bandwidth measured
in the same round, over the time of a token: of the size "small", at batch 1.

Other processors can be emulated:

    MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python benchmarks/packing.py
    MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 ATEN_CPU_CAPABILITY=default python benchmarks/packing.py
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable

import torch
from parts import (
    SIZES,
    build,
    bytes_read_a_token,
    generate,
    paired_ratio,
    peak_memory,
    progress,
    prompts,
    seconds_in_turn,
    sharing,
    unaccelerated,
)

from mmlm.acceleration.kernels import Weights
from mmlm.assembly.multimodal_lm import MultimodalLM

WAYS: dict[str, tuple[torch.dtype, Weights]] = {  # the dtype of the weights, and how they are packed
    "fp32": (torch.float32, "exact"),
    "bf16": (torch.bfloat16, "exact"),
    "fp16": (torch.float16, "exact"),
    "fp32 as fp16": (torch.float32, "fp16"),
    "fp32 as int8": (torch.float32, "int8"),
}
BYTES = {"fp32 as fp16": 2.0, "fp32 as int8": 1.0}  # of a packed weight, where they are not those of its dtype
SLOWEST, REACHED = 0.95, 0.8  # the laws
READ = 256 * 2**20  # bytes that tell the bandwidth of memory


def measure(models: dict[str, MultimodalLM], way: str, new: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of a token and of the first by side, and the seconds that reading all weights takes, by round.

    models: packed; that of `way`, and that of "fp32" if it is to be compared.
    """
    runs: dict[str, Callable[[], object]] = {}
    for name, model in models.items():
        batch, media = prompts(model, 1, 1)
        for count in (1, new):
            run = lambda m=model, b=batch, i=media, n=count: generate(m, b, i, n)  # noqa: E731
            if name == way:
                runs |= {f"plain {count}": plain(model, run), f"again {count}": plain(model, run)}
            runs[f"{'packed' if name == way else 'fp32'} {count}"] = run
    data = torch.ones(READ // 4)
    took = seconds_in_turn(runs | {"reading": data.sum}, rounds)
    share = bytes_read_a_token(models[way], BYTES.get(way)) / READ
    found = {"limit": [share * seconds for seconds in took["reading"]]}
    for side in dict.fromkeys(name.split()[0] for name in runs):
        first, whole = took[f"{side} 1"], took[f"{side} {new}"]
        found[f"{side}, first"] = first
        found[side] = [max(all_ - one, 1e-9) / (new - 1) for all_, one in zip(whole, first, strict=True)]
    return found


def plain(model: MultimodalLM, run: Callable[[], object]) -> Callable[[], object]:
    def without() -> object:
        with unaccelerated(model):
            return run()

    return without


def row(size: str, way: str, took: dict[str, list[float]]) -> tuple[str, bool]:
    """A line of the table, and whether all laws hold in it."""
    cells, holds = [size, way, f"{1000 * statistics.median(took['packed']):.2f}"], True

    def cell(ratio: float | None, law: float) -> None:
        nonlocal holds
        broken = ratio is not None and ratio < law
        cells.append("" if ratio is None else f"{ratio:.2f}{' (!)' if broken else ''}")
        holds = holds and not broken

    for part in ("", ", first"):
        cells.append(f"{paired_ratio(took[f'plain{part}'], took[f'again{part}']):.2f}")
        cell(paired_ratio(took[f"plain{part}"], took[f"packed{part}"]), SLOWEST)
        same = f"fp32{part}"
        cell(paired_ratio(took[same], took[f"packed{part}"]) if same in took else None, SLOWEST)
    cell(paired_ratio(took["limit"], took["packed"]) if size == "small" else None, REACHED)
    return f"| {' | '.join(cells)} |", holds


def main(argv: list[str] | None = None) -> bool:
    """Whether all laws hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--new", type=int, default=33, help="tokens of a text")
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["small", "tiny"])
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print(f"{args.threads} threads, {torch.backends.cpu.get_cpu_capability()}")
    print(f"ratios are medians over {args.rounds} rounds; (!) is under {SLOWEST}, or {REACHED} of the limit\n")
    titles = "size | weights | packed, ms a token | control | to plain | to fp32 | first: control | to plain | to fp32"
    print(f"| {titles} | reached |\n" + "| --- " * 10 + "|", flush=True)
    holds = []
    for size in args.size:
        single = build(size)
        fp32 = sharing(single).pack()
        for way in args.only:
            dtype, weights = WAYS[way]
            progress(f"packing {size} as {way}")
            start = time.perf_counter()
            model = fp32 if way == "fp32" else sharing(single) if dtype == torch.float32 else build(size, dtype)
            model = model if way == "fp32" else model.pack(weights)
            progress(f"packed in {time.perf_counter() - start:.1f} s\n{model.language_model.acceleration}")
            compared = {way: model} if dtype == torch.float32 else {way: model, "fp32": fp32}
            line, held = row(size, way, measure(compared, way, args.new, args.rounds))
            print(line, flush=True)
            holds.append(held)
            del model, compared
            gc.collect()  # modules and their hooks refer to each other
    print(f"\n{peak_memory()}")
    return all(holds)


if __name__ == "__main__":
    raise SystemExit(not main())
