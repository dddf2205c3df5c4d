"""What it costs to hold a text to a form: the time of a token, beside that of the same model without.

    python benchmarks/forms.py [--language-model FOLDER] [--rounds 9] [--tokens 96] [--threads 1]

Prints medians of ratios, and ends with 1 where one is above the bar. In each round all ways take turns, on one prompt
and to the same number of tokens. A token's time is that of a text less that of a short one, over the tokens between: it
holds neither the prompt nor what is made once a request, which "ready" is. "control" is the free text beside itself:
how far the machine's other work moves a ratio. Sampled rows choose among all that a form allows, and leave short ways
to end it more often than greedy ones.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from parts import PERSON, paired_ratio, seconds_in_turn

import mmlm
from mmlm.generation.constraints import FormGrammar
from mmlm.generation.constraints.spelling import spelling_of
from mmlm.generation.options import GenerationOptions
from mmlm.generation.request import request

FORMS: dict[str, dict[str, Any]] = {  # each goes on for any number of tokens
    "regex": {"regex": "[a-z ]{400,}"},
    "JSON: a text": {"json_schema": {"type": "string", "minLength": 400}},
    "JSON: objects": {"json_schema": {"type": "array", "items": PERSON, "minItems": 12}},
}
PROMPT, LIMIT, FEW = "Some notes on a day at the sea:", 1500, 8  # tokens: the limit is far, so that no text is closed
BAR = 1.15


def write(model: Any, count: int, options: GenerationOptions) -> int:
    """Writes the first `count` tokens of a text; how many there were."""
    running = request(model, [[PROMPT]], options)
    if options.form is None:  # which would end before
        running = replace(running, stop_ids=[model.language_model.vocabulary.pad_id])
    steps = running.steps(options.sampler(model.device), running.constraints())
    return sum(1 for _ in itertools.islice(steps, count))


def measure(model: Any, tokens: int, rounds: int, **sampling: Any) -> dict[str, list[float]]:
    """Seconds of a token by way, in each round."""
    ways = {"free": {}, "control": {}, **FORMS}
    options = {name: GenerationOptions(max_new_tokens=LIMIT, **own, **sampling) for name, own in ways.items()}
    runs: dict[str, Callable[[], object]] = {}
    for name, count in itertools.product(ways, (FEW, tokens)):
        if write(model, count, options[name]) != count:
            raise RuntimeError(f"{name}: the text ended before {count} tokens")
        runs[f"{name}|{count}"] = lambda own=options[name], n=count: write(model, n, own)
    took = seconds_in_turn(runs, rounds)
    pairs = {name: zip(took[f"{name}|{tokens}"], took[f"{name}|{FEW}"], strict=True) for name in ways}
    return {name: [(long - short) / (tokens - FEW) for long, short in own] for name, own in pairs.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language-model", metavar="FOLDER", help="in place of nano")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model: Any = mmlm.assemble(args.language_model) if args.language_model else mmlm.load("nano")
    begun = time.perf_counter()
    spelling = spelling_of(model.processor)
    print(f"{len(spelling.bytes):,} ids, read once in {time.perf_counter() - begun:.2f} s", flush=True)
    worst = 0.0
    print("| way | form | ms a token | times free | ready, ms |\n| --- | --- | --- | --- | --- |")
    for label, sampling in {"greedy": {}, "sampled": {"do_sample": True, "seed": 0}}.items():
        found = measure(model, args.tokens, args.rounds, **sampling)
        for name, own in found.items():
            ratio, ready = paired_ratio(own, found["free"]), ready_in(model, FORMS[name]) if name in FORMS else 0.0
            print(
                f"| {label} | {name} | {1e3 * statistics.median(own):.2f} | {ratio:.3f} | {1e3 * ready:.1f} |",
                flush=True,
            )
            worst = max(worst, ratio if name in FORMS else 0.0)
    print(f"the most is {worst:.3f}; the bar is {BAR}")
    return int(worst > BAR)


def ready_in(model: Any, form: dict[str, Any]) -> float:
    """Seconds until a form is ready for a request."""
    begun = time.perf_counter()
    own = GenerationOptions(**form).form
    assert own is not None, "a form is given"
    FormGrammar.of(own, model.processor, model.language_model.stop_ids, LIMIT)
    return time.perf_counter() - begun


if __name__ == "__main__":
    raise SystemExit(main())
