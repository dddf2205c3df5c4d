"""Pictures of many texts: a list of them in one call of `model.draw`, beside a call for each.

    python benchmarks/drawing.py [--count 32] [--rounds 5] [--threads 1] [--device cpu]

nano draws as many scenes, one call for each and in lists of several sizes, in turns. All draw the same pictures, which
is checked. Milliseconds are of one picture, and medians; ratios are medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Sequence

import torch
from parts import machine, paired_ratio, seconds_in_turn
from PIL import Image

import mmlm

PLACES = ("at the top", "on the left", "in the middle", "on the right")
COLORS = ("red", "green", "blue", "yellow", "black", "orange", "brown", "gray")
SIZES = (1, 4, 16, 32)  # texts that are drawn at once
ALONE = "one by one"


def scenes(count: int) -> list[str]:
    """Texts of scenes with one thing, all different up to 256."""
    things = [f"a {size} {color} {shape}" for shape in ("circle", "star", "heart", "square") for color in COLORS
              for size in ("large", "small")]  # fmt: skip
    told = [f"{place} {thing}, on a white background" for thing in things for place in PLACES]
    return [told[index % len(told)] for index in range(count)]


def drawn(model: mmlm.MultimodalLM, texts: Sequence[str], at_once: int) -> list[Image.Image]:
    """The pictures of texts, in lists of so many; with 1, in a call for each."""
    if at_once == 1:
        return [model.draw(text, seed=seed, temperature=0.1) for seed, text in enumerate(texts)]
    return model.draw(list(texts), seed=0, temperature=0.1, batch_size=at_once)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print(machine(args.device, args.threads))
    model, texts = mmlm.load("nano", device=args.device), scenes(args.count)
    alone = drawn(model, texts, 1)
    ways = {ALONE if size == 1 else f"{size} at once": size for size in SIZES if size <= args.count}
    found = {name: alone if size == 1 else drawn(model, texts, size) for name, size in ways.items()}
    same = {
        name: sum(one.tobytes() == other.tobytes() for one, other in zip(own, alone, strict=True))
        for name, own in found.items()
    }
    took = seconds_in_turn(
        {name: functools.partial(drawn, model, texts, own) for name, own in ways.items()}, args.rounds
    )
    print("\n| drawn | ms a picture | one by one ÷ this | the same pictures |\n| --- | --- | --- | --- |")
    for name, seconds in took.items():
        each, ratio = 1000 * statistics.median(seconds) / args.count, paired_ratio(took[ALONE], seconds)
        print(f"| {name} | {each:.0f} | {ratio:.2f} | {same[name]} of {args.count} |")


if __name__ == "__main__":
    main()
