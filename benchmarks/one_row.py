"""Where a token's time goes at batch 1: how fast each kernel reads its weights, and how much of a token is products.

    python benchmarks/one_row.py [--rounds 7] [--threads 2] [--size small]

The first table has, for each shape of a block and for the head, the time to read the weights once over that of their
product with one row. Weights of 256 MB are multiplied one after the other, so that none is in a cache; the time to read
is that of a sum over as many bytes, measured in the same round. The second table has what torch's profiler tells of a
token's operations: the share of the products, of casts, and of all the rest.
"""

import argparse
import statistics
from collections import Counter
from collections.abc import Callable

import torch
from packing import READ, WAYS
from parts import SIZES, build, generate, progress, prompts, seconds_in_turn
from torch.profiler import ProfilerActivity, profile

from mmlm.acceleration import kernels

KERNELS = {  # the dtype of the weights, a kernel, and the bytes of a weight that it reads
    "fp32 torch": (torch.float32, kernels.TORCH, 4),
    "fp32 onednn": (torch.float32, kernels.ONEDNN, 4),
    "bf16 torch": (torch.bfloat16, kernels.TORCH, 2),
    "bf16 onednn": (torch.bfloat16, kernels.ONEDNN, 2),
    "fp16 FBGEMM": (torch.float16, kernels.FP16, 2),
    "int8": (torch.float32, kernels.INT8, 1),
}
PRODUCTS = ("linear", "addmm", "mm", "mv", "bmm")
CASTS = ("_to_copy", "copy_", "empty_strided", "to")


def shapes(size: str) -> list[tuple[int, int]]:
    """Rows and columns of a block's weights, and of the head's."""
    width, words = SIZES[size].width, SIZES[size].vocabulary
    return [(width, width), (3 * width, width), (4 * width, width), (width, 4 * width), (words, width)]


@torch.no_grad()
def reached(shape: tuple[int, int], amount: int, rounds: int) -> dict[str, float]:
    """By kernel the median of reading over multiplying; kernels that this processor lacks are left out."""
    runs: dict[str, Callable[[], object]] = {}
    held: dict[str, int] = {}
    for name, (dtype, kernel, size) in KERNELS.items():
        rows = (torch.randn(shape) / 8).to(dtype)
        if not kernel.fits(rows):
            continue
        count = max(1, amount // (rows.numel() * size))
        multiply = [kernel.make(rows.clone()) for _ in range(count)]
        row, held[name] = torch.randn(1, shape[1], dtype=dtype), count * rows.numel() * size
        runs[name] = lambda m=multiply, x=row: [product(x, None) for product in m]
    data = torch.ones(amount // 4)
    took = seconds_in_turn({"reading": data.sum, **runs}, rounds)
    return {
        name: statistics.median(held[name] / amount * read / own for read, own in zip(took["reading"], took[name]))
        for name in runs
    }


@torch.no_grad()
def shares(size: str, way: str, new: int) -> dict[str, float]:
    """Of a packed model's token, less the first one's operations: the shares of products, of casts, and of the rest."""
    dtype, weights = WAYS[way]
    model = build(size).to(dtype).pack(weights)
    batch, media = prompts(model, 1, 1)
    generate(model, batch, media, new)  # the steps are recorded here
    spent: Counter = Counter()
    for sign, count in ((1, new), (-1, 1)):
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
            generate(model, batch, media, count)
        for event in seen.key_averages():
            spent[event.key.split("::")[-1]] += sign * event.self_cpu_time_total
    products = sum(time for name, time in spent.items() if name in PRODUCTS or "linear" in name)
    casts, whole = sum(spent[name] for name in CASTS), sum(spent.values())
    return {"products": products / whole, "casts": casts / whole, "the rest": 1 - (products + casts) / whole}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--new", type=int, default=24, help="tokens of a text (default: 24)")
    parser.add_argument("--bytes", type=int, default=READ, help="of the weights of one kernel and shape")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print(f"{args.threads} threads, {torch.backends.cpu.get_cpu_capability()}; medians over {args.rounds} rounds\n")
    print(f"| weights | {' | '.join(KERNELS)} |\n|{' --- |' * (len(KERNELS) + 1)}")
    for shape in shapes(args.size):
        progress(f"{shape[0]} x {shape[1]}")
        found = reached(shape, args.bytes, args.rounds)
        cells = [f"{found[name]:.2f}" if name in found else "" for name in KERNELS]
        progress("")
        print(f"| {shape[0]} x {shape[1]} | {' | '.join(cells)} |", flush=True)
    print("\n| packed | products | casts | the rest |\n| --- | --- | --- | --- |")
    for way in ("fp32", "bf16", "fp32 as int8"):
        progress(way)
        found = shares(args.size, way, args.new)
        progress("")
        print(f"| {way} | {' | '.join(f'{share:.0%}' for share in found.values())} |", flush=True)


if __name__ == "__main__":
    main()
