"""Log-probabilities of given answers, with gradients: what every objective of alignment stands on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.model.blocks import embedding_and_head
from mmlm.prompting.processor import IGNORE_INDEX, Example
from mmlm.training.rows import Ready, batch_of


def answer_log_probs(model: MultimodalLM, ready: Sequence[Ready], codes: bool = False) -> list[Tensor]:
    """The log-probability of each learned token of each example: `[n]` float32 a row, in nats."""
    logits, labels, counts = answer_logits(model, ready, codes)
    chosen = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return list(torch.split(chosen - logits.logsumexp(-1), counts))


def answer_logits(model: MultimodalLM, ready: Sequence[Ready], codes: bool = False) -> tuple[Tensor, Tensor, list[int]]:
    """Logits `[N, V]` float32 from which the learned tokens of all rows are predicted, these `[N]`, and how many a row.

    codes: whether codes are among the tokens that may come next.
    """
    batch, media = batch_of(model.processor, [[one] for one in ready])
    found = model(batch, media, codes=codes).logits.float()
    assert batch.labels is not None, "examples have answers"
    labels = batch.labels[:, 1:]
    wanted = labels != IGNORE_INDEX
    return found, labels[wanted].to(found.device), wanted.sum(1).tolist()


@contextmanager
def head_inputs(model: MultimodalLM) -> Iterator[list[Tensor]]:
    """While open, the hidden states that logits are computed from are added to the list, `[N, D]` of each pass.

    The hooks of the language model come first: of what is learned from, they keep the states of learned tokens alone.
    """
    seen: list[Tensor] = []
    _, output = embedding_and_head(model.language_model.model)
    hook = output.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        hook.remove()


def answer_span(example: Example) -> slice:
    """Where the last answer stands in the ids: the last run of learned tokens. A template may write more behind it."""
    end = len(example.labels)
    while end and example.labels[end - 1] == IGNORE_INDEX:
        end -= 1
    start = end
    while start and example.labels[start - 1] != IGNORE_INDEX:
        start -= 1
    return slice(start, end)


def last_answer(ready: Ready) -> Ready:
    """The example with its last answer alone to learn: what an assistant said before is part of the prompt."""
    return with_answer(ready, answer_of(ready))


def with_answer(ready: Ready, answer: Sequence[int]) -> Ready:
    """The prompt of an example with an answer, given as ids."""
    example = ready.example
    prompt = example.input_ids[: answer_span(example).start]
    return Ready(Example([*prompt, *answer], [IGNORE_INDEX] * len(prompt) + [*answer], example.media), ready.features)


def answer_of(ready: Ready) -> list[int]:
    """The ids of the last answer."""
    return ready.example.input_ids[answer_span(ready.example)]
