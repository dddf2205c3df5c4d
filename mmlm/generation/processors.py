"""transformers' logits processors, as options of a generation ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mmlm.generation.options import GenerationOptions


def logits_processors(
    options: GenerationOptions, prompt_length: int, stop_ids: Sequence[int], device: torch.device
) -> LogitsProcessorList:
    """transformers' logits processors for options, in its order; a prompt has `prompt_length` positions."""
    chain = LogitsProcessorList()
    ends = list(stop_ids)
    if options.repetition_penalty != 1.0:
        chain.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
    if options.no_repeat_ngram_size:
        chain.append(NoRepeatNGramLogitsProcessor(options.no_repeat_ngram_size))
    if options.bad_words_ids:
        chain.append(NoBadWordsLogitsProcessor([list(word) for word in options.bad_words_ids], eos_token_id=ends))
    if options.min_new_tokens:
        device_name = str(device)
        chain.append(MinNewTokensLengthLogitsProcessor(prompt_length, options.min_new_tokens, ends, device_name))
    if options.logits_processor:
        chain.extend([*options.logits_processor, usable])  # pyright: ignore[reportArgumentType]
    if options.do_sample:
        if options.temperature != 1.0:
            chain.append(TemperatureLogitsWarper(options.temperature))
        if options.top_k is not None:
            chain.append(TopKLogitsWarper(options.top_k))
        if options.top_p is not None and options.top_p < 1.0:
            chain.append(TopPLogitsWarper(options.top_p))
    return chain


def usable(ids: Tensor, scores: Any) -> Tensor:
    """The scores `[R, V]` that a caller's logits processors gave, where a token can be chosen from each row of them.

    TypeError where they are no tensor; ValueError where a row holds NaN, or −inf alone.
    """
    if not isinstance(scores, Tensor):
        raise TypeError(f"logits_processor: a processor must return the scores, not {type(scores).__name__}")
    if not scores.amax(-1).isfinite().all():
        raise ValueError("logits_processor: a row of the returned scores holds NaN or allows no token (all −inf)")
    return scores
