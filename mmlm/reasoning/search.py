"""A tree of thoughts: each step has several ways to go on, and the best ones do (Yao et al. 2023, arXiv 2305.10601)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from decoders.values import check_kinds, check_least
from mmlm.generation.decoder import Decoder, KeysValues
from mmlm.generation.options import GenerationOptions
from mmlm.generation.request import request
from mmlm.generation.result import GenerationResult
from mmlm.generation.thoughts import opened_rows
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.parts import Image, Sound, as_part
from mmlm.prompting.thinking import ThinkingMarks


@dataclass(frozen=True)
class SearchOptions:
    """How a tree of thoughts grows.

    breadth: thoughts that are kept after each step. branches: ways in which each of them goes on.
    depth: steps, at most. step_tokens: tokens of a step, at most; `step_end` ends it before, and so does the closing
        mark.
    temperature, top_p, seed: of the steps, which are sampled. max_new_tokens: of the answer, the most likely one.
    """

    breadth: int = 3
    branches: int = 3
    depth: int = 4
    step_tokens: int = 48
    step_end: str = "\n"
    temperature: float = 0.8
    top_p: float | None = None
    seed: int | None = None
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        check_kinds(self)
        check_least(self, breadth=1, branches=1, depth=1, step_tokens=1, max_new_tokens=1)
        if not self.step_end:
            raise ValueError("step_end must not be empty: it tells where a step of the thought ends")


@dataclass(frozen=True)
class Thought:
    """A thought, perhaps half-way: its ids, their log-probabilities, its text without a mark, and whether it ended."""

    ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    text: str = ""
    ended: bool = False

    @property
    def mean_log_prob(self) -> float:
        """Of its tokens."""
        return sum(self.log_probs) / max(1, len(self.log_probs))


def search(
    model: MultimodalNetwork,
    prompt: Sequence[Any],
    score: Callable[[str], float] | None = None,
    options: SearchOptions = SearchOptions(),
    *,
    marks: ThinkingMarks | None = None,
) -> GenerationResult:
    """The answer after the best thought that a tree search finds, as a result with this thought.

    prompt: parts, such as those of `model.chat_prompt(messages, thinking=True)`.
    score: of the text of a thought so far, higher is better; None takes the mean log-probability of its tokens.
    marks: as `thinking_marks` of `generate`.
    Media are encoded once, and the prompt is read once where caches hold a key for each position: then a step reads in
    one pass the thought before it, and else the prompt as well. `usage` counts all tokens that were written.
    """
    tokenizer = model.processor.tokenizer
    (row,), marks = opened_rows(tokenizer, [prompt], GenerationOptions(thinking=0, thinking_marks=marks))
    tree = _Tree(model, [_encoded(model, part) for part in row], marks, options)
    kept, written = [Thought()], 0
    for _ in range(options.depth):
        grown = [thought for own in kept if not own.ended for thought in tree.grown(own)]
        if not grown:
            break
        written += tree.written
        found = [*grown, *(own for own in kept if own.ended)]
        rated = [thought.mean_log_prob if score is None else float(score(thought.text)) for thought in found]
        order = sorted(range(len(found)), key=lambda place: -rated[place])
        kept = [found[place] for place in order[: options.breadth]]
    return tree.answered(kept[0], written)


class _Tree:
    """The steps after one prompt. written: tokens of the last growth."""

    def __init__(self, model: MultimodalNetwork, row: list[Any], marks: ThinkingMarks, options: SearchOptions) -> None:
        self.model, self.row, self.marks, self.options = model, row, marks, options
        self.close = tuple(model.processor.markup_ids(marks.close))
        self.generation = GenerationOptions(
            max_new_tokens=options.step_tokens, do_sample=True, temperature=options.temperature, top_p=options.top_p,
            num_return_sequences=options.branches, stop=(options.step_end, marks.close), seed=options.seed,
            stop_token_ids=self.close if len(self.close) == 1 else (),
        )  # fmt: skip
        self.generator = self.generation.sampler(model.device)
        self.known: list[KeysValues | None] | None = None
        self.written = 0

    def grown(self, thought: Thought) -> list[Thought]:
        """The thought with each of its next steps; those that are the same count once."""
        results = self._results(thought.ids, self.generation)
        self.written = sum(len(result.token_ids) for result in results)
        return list({after.ids: after for after in (self._after(thought, result) for result in results)}.values())

    def _after(self, thought: Thought, result: GenerationResult) -> Thought:
        stops = self.model.language_model.stop_ids
        ids = result.token_ids
        is_over = bool(ids) and ids[-1] in stops and ids[-1] not in self.close
        kept = ids[:-1] if is_over else ids
        step = self.model.processor.decode_marked(kept)
        before, mark, _ = step.partition(self.marks.close)
        return Thought(
            (*thought.ids, *kept), (*thought.log_probs, *result.log_probs[: len(kept)]), thought.text + before,
            is_over or bool(mark),
        )  # fmt: skip

    def answered(self, thought: Thought, written: int) -> GenerationResult:
        """The result of a thought: what the model answers after it."""
        closed = self.marks.close in self.model.processor.decode_marked(thought.ids)
        options = GenerationOptions(max_new_tokens=self.options.max_new_tokens)
        if not closed:  # a further thought of no tokens: the mark is written by force
            options = replace(options, thinking=0, thinking_marks=self.marks)
        (answer,) = self._results(thought.ids, options)
        usage = replace(
            answer.usage, prompt_tokens=answer.usage.prompt_tokens - len(thought.ids),
            thinking_tokens=written + answer.usage.thinking_tokens,
            generated_tokens=written + len(answer.token_ids),
        )  # fmt: skip
        return replace(
            answer, token_ids=(*thought.ids, *answer.token_ids), log_probs=(*thought.log_probs, *answer.log_probs),
            thinking=thought.text.strip(), answer_start=0, usage=usage,
        )  # fmt: skip

    def _results(self, ids: Sequence[int], options: GenerationOptions) -> list[GenerationResult]:
        """What follows the prompt and ids."""
        made = request(self.model, [self.row], options, written=[ids])
        if made.decoder.keeps_all:
            if self.known is None:
                self.known = _read(made.decoder, made.decoder.length - len(ids) - 1)
            else:
                made.decoder.skip(self.known)
        return made.results(self.generator)[0]


@torch.no_grad()
def _read(decoder: Decoder, count: int) -> list[KeysValues | None] | None:
    """Reads the next positions of a prompt; their keys and values, None for none."""
    if count < 1:
        return None
    decoder.advance(count)
    return [
        None if own is None else (own[0][:, :, :count].clone(), own[1][:, :, :count].clone())
        for own in decoder.keys_values()
    ]


def _encoded(model: MultimodalNetwork, value: Any) -> Any:
    """A part, a picture or sound as its features."""
    part = as_part(value)
    return replace(part, source=model.encode_media([part])[0]) if isinstance(part, (Image, Sound)) else part
