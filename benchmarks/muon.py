"""A step of Muon beside torch's own, which computes in bfloat16 whatever the processor multiplies.

    python benchmarks/muon.py [--widths 192 384] [--rounds 5] [--threads 1] [--device cuda]

Of each width four square matrices and one of a feed-forward layer; medians, and the median of the rounds' ratios.
Both change the weights alike, to the rounding of bfloat16 (tests/test_training.py).
"""

import argparse
import statistics

import torch
from parts import machine, paired_ratio, seconds_in_turn
from torch.nn import Parameter
from torch.optim import Muon as TorchMuon

from mmlm.training.muon import Muon


def matrices(width: int, device: str) -> list[Parameter]:
    """With gradients."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for shape in (*[(width, width)] * 4, (4 * width, width)):
        found.append(Parameter(torch.randn(shape, generator=draw).to(device)))
        found[-1].grad = torch.randn(shape, generator=draw).to(device)
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[192, 384])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print(machine(args.device, args.threads))
    print("\n| width | mmlm | torch | times as fast |\n| --- | --- | --- | --- |")
    for width in args.widths:
        ours = Muon([{"params": matrices(width, args.device)}], 1e-3, 0.1)
        theirs = TorchMuon(matrices(width, args.device), 1e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        seconds = seconds_in_turn({"mmlm": ours.step, "torch": theirs.step}, args.rounds)
        own, other = (f"{statistics.median(seconds[name]) * 1e3:.1f} ms" for name in ("mmlm", "torch"))
        print(f"| {width} | {own} | {other} | {paired_ratio(seconds['torch'], seconds['mmlm']):.2f} |", flush=True)


if __name__ == "__main__":
    main()
