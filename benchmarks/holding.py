"""What it costs to hold calls of tools and JSON, by the size of the vocabulary: the time of a token beside free text.

    python benchmarks/holding.py [--vocabularies 2048 32768 131072 262144] [--rounds 3] [--tokens 20] [--threads 1]

Prints medians of ratios, and ends with 1 where one is above the bar; xgrammar's, where it is installed, is beside
them and counts for nothing. The tokenizers are made here, of random pairs of letters; the language model is small and
random, so that little hides what the rest takes. "watched" is free text in which a call may be opened, "call" one that
was opened. A token's time is that of a text less that of a short one, over the tokens between; "more" is what it has
beyond the free text's. It is the process's own time on the processor, which on one thread is what a clock shows where
the machine has no other work. "control" is the free text beside itself: how far other work moves a ratio all the same.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import string
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import transformers
from parts import PERSON, paired_ratio, seconds_in_turn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from mmlm.assembly.assemble import assemble
from mmlm.assembly.encoders import load_encoders
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.generation.constraints.base import Constraint
from mmlm.generation.constraints.spelling import spelling_of
from mmlm.generation.options import GenerationOptions
from mmlm.generation.request import request
from mmlm.generation.result import FinishReason
from mmlm.model.language_model import LanguageModel
from mmlm.reasoning.tools.holding import Calls
from mmlm.reasoning.tools.offer import offered

NOTES = {"type": "array", "items": PERSON, "minItems": 12}  # goes on for any number of tokens
TOOL = {
    "type": "function",
    "function": {
        "name": "note", "description": "Keeps notes.",
        "parameters": {
            "type": "object", "properties": {"notes": NOTES}, "required": ["notes"], "additionalProperties": False
        },
    },
}  # fmt: skip
PROMPT, LIMIT, FEW = "Some notes on a day at the sea:", 1200, 4
BAR = 1.15


def tokenizer_of(size: int) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of `size` tokens: all bytes, marks of JSON, and words of random letters, each of two shorter ones."""
    draw = random.Random(size)
    known = dict.fromkeys(sorted(pre_tokenizers.ByteLevel.alphabet()))
    merges: list[tuple[str, str]] = []

    def merge(first: str, second: str) -> None:
        if first + second not in known and len(known) < size - 1:
            known[first + second] = None
            merges.append((first, second))

    short = [*string.ascii_letters, *string.digits]
    grown = [*short, "Ġ"]
    for mark in ('{"', '":', '",', ":Ġ", ",Ġ", '"}', "},"):
        merge(mark[0], mark[1])
    while len(known) < size - 1:
        first, second = draw.choice(grown), draw.choice(short)
        count = len(known)
        merge(first, second)
        if len(known) > count and len(first) < 10:
            grown.append(first + second)
            short += [first + second] * (len(first + second) == 2 and first != "Ġ")
    core = Tokenizer(models.BPE({token: number for number, token in enumerate(known)}, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")


def model_of(size: int, width: int, layers: int) -> MultimodalLM:
    """A random language model with a vocabulary of this size; nothing is looked at."""
    eyes = load_encoders("nano", encoders=["image"])["image"]
    torch.manual_seed(0)
    tokenizer = tokenizer_of(size)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=width // 64, max_position_embeddings=2048,
        tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    return assemble(LanguageModel(transformers.LlamaForCausalLM(config), tokenizer), eyes).eval()


@dataclass(eq=False)
class ByXgrammar:
    """A row that xgrammar holds. Its state changes, which no other row may see here: the least that it can take."""

    matcher: Any
    mask: torch.Tensor
    vocabulary: int
    finished: FinishReason | None = None
    guided: bool = False

    def allowed(self) -> torch.Tensor:
        """The ids that may come, bool `[V]`."""
        self.matcher.fill_next_token_bitmask(self.mask)
        bits = self.mask.view(torch.uint8).unsqueeze(-1).bitwise_and(_BITS)
        return bits.ne(0).flatten()[: self.vocabulary]

    def advance(self, token: int) -> Self:
        """The state itself, a token later."""
        if not self.matcher.accept_token(token):
            raise ValueError(f"id {token} may not follow")
        return self


_BITS = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)


def by_xgrammar(model: MultimodalLM) -> Callable[[], Constraint] | None:
    """Makes the state before JSON of `NOTES`; None where xgrammar is not installed."""
    try:
        import xgrammar
    except ImportError:
        return None
    spelling = spelling_of(model.processor)
    stops = list(model.language_model.stop_ids)
    info = xgrammar.TokenizerInfo(spelling.bytes, stop_token_ids=stops)
    compiled = xgrammar.GrammarCompiler(info).compile_json_schema(json.dumps(NOTES), any_whitespace=False)
    mask = xgrammar.allocate_token_bitmask(1, info.vocab_size)
    return lambda: ByXgrammar(xgrammar.GrammarMatcher(compiled), mask, info.vocab_size)


def write(model: MultimodalLM, count: int, options: GenerationOptions) -> int:
    """Writes the first `count` tokens of a text; how many there were."""
    running = request(model, [[PROMPT]], options)
    if options.form is None:  # which would end before
        running = replace(running, stop_ids=[model.language_model.vocabulary.pad_id])
    steps = running.steps(None, running.constraints())
    return sum(1 for _ in itertools.islice(steps, count))


def measure(model: MultimodalLM, tokens: int, rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of a token by way, in each round; and those until what holds is ready for a request."""
    begun = time.perf_counter()
    offer = offered(model.processor.tokenizer, [TOOL])
    held = Calls.of(model, offer)
    assert held is not None, "these calls can be held"
    ready = {"call": time.perf_counter() - begun}
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "free": dict,
        "control": dict,
        "watched": lambda: {"constraint": held.begin()},
        "call": lambda: {"constraint": held.begin(begun=True)},
        "JSON": lambda: {"json_schema": NOTES},
    }
    begun = time.perf_counter()
    other = by_xgrammar(model)
    if other is not None:
        ready["JSON, xgrammar"] = time.perf_counter() - begun
        ways["JSON, xgrammar"] = lambda: {"constraint": other()}
    begun = time.perf_counter()
    request(model, [[PROMPT]], GenerationOptions(max_new_tokens=LIMIT, json_schema=NOTES)).constraints()
    ready["JSON"] = time.perf_counter() - begun
    runs: dict[str, Callable[[], object]] = {}
    for name, count in itertools.product(ways, (FEW, tokens)):

        def run(own: Callable[[], dict[str, Any]] = ways[name], count: int = count, name: str = name) -> None:
            if write(model, count, GenerationOptions(max_new_tokens=LIMIT, **own())) != count:
                raise RuntimeError(f"{name}: the text ended before {count} tokens")

        runs[f"{name}|{count}"] = run
    took = seconds_in_turn(runs, rounds, time.process_time)
    pairs = {name: zip(took[f"{name}|{tokens}"], took[f"{name}|{FEW}"], strict=True) for name in ways}
    return {name: [(long - short) / (tokens - FEW) for long, short in own] for name, own in pairs.items()}, ready


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[2048, 32768, 131072, 262144], metavar="N")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    worst = 0.0
    print(
        "| vocabulary | way | ms a token | times free | more, ms | ready, ms |\n| --- | --- | --- | --- | --- | --- |"
    )
    for size in args.vocabularies:
        model = model_of(size, args.width, args.layers)
        begun = time.perf_counter()
        spelling_of(model.processor)
        print(f"| {size:,} | tokenizer, read once | | | | {1e3 * (time.perf_counter() - begun):.0f} |", flush=True)
        found, ready = measure(model, args.tokens, args.rounds)
        for name, own in found.items():
            ratio = paired_ratio(own, found["free"])
            more = statistics.median(one - free for one, free in zip(own, found["free"], strict=True))
            made = f"{1e3 * ready[name]:.0f}" if name in ready else ""
            took = 1e3 * statistics.median(own)
            print(f"| {size:,} | {name} | {took:.2f} | {ratio:.3f} | {1e3 * more:.2f} | {made} |", flush=True)
            worst = max(worst, ratio if name in ("watched", "call", "JSON") else 0.0)
    print(f"the most is {worst:.3f}; the bar is {BAR}")
    return int(worst > BAR)


if __name__ == "__main__":
    raise SystemExit(main())
