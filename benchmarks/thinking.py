"""What thinking and votes gain: word problems with two steps of arithmetic, answered at once and after thoughts.

python benchmarks/thinking.py MODEL [--problems N] [--votes N] [--budget N]
"""

from __future__ import annotations

import argparse
import random
import re
import time
from typing import Any

import mmlm
from mmlm.evaluation.metrics.measure import Measure, mean_of

NAMES = ("Anna", "Ben", "Carla", "David")
THINGS = ("apples", "books", "coins", "pencils")
ASK = " Answer with a number alone."


def problems(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """Questions and their answers: a number is added to another, and a third is taken away or added."""
    draw, found = random.Random(seed), []
    for _ in range(count):
        name, thing = draw.choice(NAMES), draw.choice(THINGS)
        have, more, last = draw.randint(5, 12), draw.randint(2, 9), draw.randint(1, 4)
        if draw.random() < 0.5:
            end, answer = f"gives away {last}", have + more - last
        else:
            end, answer = f"finds {last} more", have + more + last
        text = f"{name} has {have} {thing}, buys {more} more and then {end}. How many {thing} does {name} have now?"
        found.append((text + ASK, answer))
    return found


def number_in(text: str) -> int | None:
    """The last number in the first line of an answer: "3 + 4 = 7" is 7."""
    found = re.findall(r"\d+", text.strip().partition("\n")[0].replace(",", ""))
    return int(found[-1]) if found else None


def main(argv: list[str] | None = None) -> None:
    """Prints a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a chat model: a folder or a hub id")
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--votes", type=int, default=4)
    parser.add_argument("--budget", type=int, default=96)
    args = parser.parse_args(argv)
    model = mmlm.assemble(args.model, mmlm.load("nano").encoders["image"])
    asked = problems(args.problems)
    thought = dict(thinking=args.budget)
    ways: dict[str, dict[str, Any]] = {
        "at once": {}, "after a thought": thought,
        f"{args.votes} votes after thoughts": dict(thought, votes=args.votes, seed=0),
    }  # fmt: skip
    print(f"{'':24} right (95% interval)     tokens  agreement  seconds")
    for name, options in ways.items():
        began = time.perf_counter()
        results: Any = model.chat(
            [[{"role": "user", "content": text}] for text, _ in asked], max_new_tokens=32, details=True, **options
        )
        right = [number_in(result.answer) == answer for result, (_, answer) in zip(results, asked, strict=True)]
        found: Measure = mean_of("right", right)
        low, high = found.interval()
        tokens = sum(result.usage.generated_tokens for result in results) / len(results)
        agreed = [result.agreement for result in results if result.agreement is not None]
        agreement = f"{sum(agreed) / len(agreed):9.0%}" if agreed else " " * 9
        seconds = time.perf_counter() - began
        print(f"{name:24} {found.value:5.1%} ({low:5.1%} to {high:5.1%}) {tokens:9.0f}  {agreement}  {seconds:7.0f}")


if __name__ == "__main__":
    main()
