"""Log-probabilities of given answers: what ranking, preference tuning and evaluation stand on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from decoders.values import check_kind
from mmlm.generation.nonfinite import NonFiniteLogitsError
from mmlm.generation.result import GenerationResult
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.parts import Codes
from mmlm.prompting.processor import IGNORE_INDEX, Example

Answer = str | Codes | GenerationResult | Sequence[Any]
"""Text, codes or both in turn, which `<|endofchunk|>` closes; or exact ids, or a result, whose ids are taken."""


def log_probs(
    model: MultimodalNetwork,
    prompts: Sequence[Any],
    answers: Sequence[Answer],
    *,
    codes: bool | None = None,
    lora: bool | None = None,
    batch_size: int = 32,
) -> list[Tensor]:
    """Log-probability of each token of each answer after its prompt: one `[n]` float32 per row, in nats.

    prompts: lists of parts, one per answer. Media are encoded once per batch; gradients pass, where they are enabled.
    codes: whether codes are among the tokens that may come next, as in requests that write media; None for rows whose
        answer holds codes. lora: whether the low-rank adapters act; None as in requests.
    ValueError for lists of unequal lengths, for an answer without a token or with an id that does not exist, and where
    the model computes NaN.
    """
    if not all(isinstance(one, (list, tuple)) for one in (prompts, answers)):
        raise TypeError("prompts and answers are lists, with one entry a row: log_probs([prompt], [answer])")
    check_kind("batch_size", batch_size, int)
    for name, value in {"codes": codes, "lora": lora}.items():
        check_kind(name, value, bool | None)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if len(prompts) != len(answers):
        raise ValueError(f"{len(prompts)} prompts but {len(answers)} answers")
    examples = [example_of(model, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    first_code = model.language_model.vocabulary.code_offset
    with_codes = [max(row.input_ids) >= first_code if codes is None else codes for row in examples]
    found: list[Tensor | None] = [None] * len(examples)
    for kind in (False, True):
        own = [index for index, has in enumerate(with_codes) if has == kind]
        for start in range(0, len(own), batch_size):
            chunk = own[start : start + batch_size]
            rows = _batch_log_probs(model, [examples[index] for index in chunk], kind, lora)
            for index, values in zip(chunk, rows, strict=True):
                found[index] = values
    return [values for values in found if values is not None]


def example_of(model: MultimodalNetwork, prompt: Any, answer: Answer) -> Example:
    """A prompt with its answer; labels are the answer's ids. Errors are those of `log_probs`."""
    parts = prompt if isinstance(prompt, (list, tuple)) else [prompt]
    if isinstance(answer, GenerationResult):
        answer = answer.token_ids
    if isinstance(answer, (str, Codes)):
        return model.processor.encode(parts, answer)
    kinds = {type(part) for part in answer} if isinstance(answer, Sequence) else {type(None)}
    if kinds and all(issubclass(kind, (str, Codes)) for kind in kinds):
        return model.processor.encode(parts, answer)
    if not all(issubclass(kind, int) and kind is not bool for kind in kinds):
        raise TypeError(f"an answer is a text, codes, both in turn, ids or a result, not {str(answer)[:60]!r}")
    if not answer:
        raise ValueError("an answer holds no tokens")
    vocabulary = model.language_model.vocabulary
    ids = vocabulary.code_offset + vocabulary.code_rows
    if not all(0 <= token < ids for token in answer):
        raise ValueError(f"an answer holds an id outside the vocabulary of {ids} ids")
    before = model.processor.encode(parts)
    return Example([*before.input_ids, *answer], [IGNORE_INDEX] * len(before.input_ids) + list(answer), before.media)


def _batch_log_probs(
    model: MultimodalNetwork, examples: Sequence[Example], codes: bool, lora: bool | None
) -> Sequence[Tensor]:
    batch = model.processor.collate(examples, padding_side="right")
    output = model(batch, [example.media for example in examples], codes=codes, lora=lora)
    assert batch.labels is not None, "examples carry labels"
    labels = batch.labels[:, 1:].to(output.logits.device)
    wanted = labels != IGNORE_INDEX
    values = output.logits.float().log_softmax(-1).gather(1, labels[wanted].unsqueeze(1)).squeeze(1)
    if values.isnan().any():
        raise NonFiniteLogitsError(1, model.language_model.dtype)
    return torch.split(values, wanted.sum(1).tolist())
