"""The decode loop: the prompt in one pass, then one token a step; greedy or sampled, constrained, guided."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmlm.generation.constraints.base import Constraint, Masks
from mmlm.generation.decoder import Decoder
from mmlm.generation.nonfinite import NonFiniteLogitsError
from mmlm.generation.options import GenerationOptions

# On a GPU, asking whether every row has ended costs a synchronisation; it is asked once in so many steps.
STEPS_BETWEEN_CHECKS = 16


@dataclass(frozen=True)
class Step:
    """One step of all rows: `tokens [R]`, and their log-probabilities `[R]` under the model's plain distribution.

    ended `[R]`: rows that had ended before; their tokens count for nothing.
    """

    tokens: Tensor
    log_probs: Tensor
    ended: Tensor


@torch.no_grad()
def decode(
    decoder: Decoder,
    options: GenerationOptions,
    stop_ids: Sequence[int],
    generator: torch.Generator | None = None,
    constraints: list[Constraint] | None = None,
    guidance_scale: float = 1.0,
    max_steps: int | None = None,
) -> Iterator[Step]:
    """Steps of `num_return_sequences` rows per prompt, one after the other; at most `max_steps` (`max_new_tokens`).

    generator: to sample from; None takes the most likely token. A row that has ended repeats `stop_ids[0]`.
    constraints: the state of each row, kept up to date in this list; a row ends when its constraint has finished.
    guidance_scale: with a scale other than 1 the decoder holds each row twice, the second half without what guides it.
        Where a constraint is guided, logits are `u + scale · (c − u)` (Ho and Salimans 2022).
    NonFiniteLogitsError where logits are NaN or infinite. A caller that wants no more steps stops iterating.
    """
    logits = decoder.prefill()
    prompt_length, copies = decoder.length, options.num_return_sequences
    decoder.repeat(copies)
    logits = logits.repeat_interleave(copies, dim=0) if copies > 1 else logits
    device = logits.device
    rows = len(logits) // (1 if guidance_scale == 1.0 else 2)
    processors = options.processors(prompt_length, stop_ids, device)
    masks = Masks(logits.shape[1], device)
    stops = torch.tensor(list(stop_ids), device=device)
    ended = torch.zeros(rows, dtype=torch.bool, device=device)
    every = steps_between_checks(device)
    last = options.max_new_tokens if max_steps is None else max_steps
    for step in range(1, last + 1):
        plain = logits[:rows]
        norm = plain.logsumexp(-1)
        scores = guided(logits, constraints, guidance_scale)
        decoder.hide_placeholders(scores)
        if constraints is not None:
            scores = masks.apply(constraints, scores)
        if processors:  # which may write into the scores, while `plain` must stay the model's
            scores = processors(decoder.ids[:rows, : decoder.length], scores.clone())  # pyright: ignore[reportArgumentType]
        tokens = torch.where(ended, stops[0], choose(scores, norm, generator))
        before, ended = ended, ended | torch.isin(tokens, stops)
        if constraints is not None:
            advance(constraints, tokens.tolist())
            ended = ended | torch.tensor([state.finished is not None for state in constraints], device=device)
        done = step == last
        if done or step % every == 0:
            done |= all_ended(ended, norm, decoder, step)
        yield Step(tokens, plain.gather(1, tokens.unsqueeze(1)).squeeze(1) - norm, before)
        if done:
            return
        logits = decoder.step(tokens if guidance_scale == 1.0 else torch.cat([tokens, tokens]))


def guided(logits: Tensor, constraints: Sequence[Constraint] | None, scale: float) -> Tensor:
    """Scores `[R, V]` of logits `[R, V]`, or of `[2·R, V]` where guidance leads away from the second half."""
    if scale == 1.0:
        return logits
    own, free = logits.chunk(2)
    acts = torch.tensor([state.guided for state in constraints or ()], device=logits.device).unsqueeze(1)
    return torch.where(acts, free + scale * (own - free), own)


def choose(scores: Tensor, norm: Tensor, generator: torch.Generator | None) -> Tensor:
    """Tokens `[R]` of scores `[R, V]`; `norm [R]` is finite where the logits of a row are."""
    if generator is None:
        return scores.argmax(-1)
    # Drawing from NaN would end a GPU's whole context; the error comes with the next check.
    weights = torch.where(norm.isfinite().unsqueeze(1), scores.softmax(-1), 1.0)
    return torch.multinomial(weights, 1, generator=generator).squeeze(1)


def advance(constraints: list[Constraint], tokens: Sequence[int]) -> None:
    """Brings the state of each row that has not finished up to date."""
    for row, (state, token) in enumerate(zip(constraints, tokens, strict=True)):
        if state.finished is None:
            constraints[row] = state.advance(token)


def all_ended(ended: Tensor, norm: Tensor, decoder: Decoder, step: int) -> bool:
    """Whether all rows have ended, bool `[...]`: the one question that is asked of the device.

    NonFiniteLogitsError where the log-normaliser `[R]` of a row is NaN or infinite.
    """
    finite, done = torch.stack([norm.sum().isfinite(), ended.all()]).tolist()
    if not finite:
        raise NonFiniteLogitsError(step, decoder.host.dtype)
    return done


def steps_between_checks(device: torch.device) -> int:
    """How many steps pass between two questions to the device."""
    return 1 if device.type == "cpu" else STEPS_BETWEEN_CHECKS
