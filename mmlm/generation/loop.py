"""The decode loop: the prompt in one pass, then one token a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmlm.generation.constraints.base import Constraint
from mmlm.generation.decoder import Decoder
from mmlm.generation.nonfinite import NonFiniteLogitsError
from mmlm.generation.options import GenerationOptions
from mmlm.generation.sampler import Generators, Sampler, Step

# On a GPU, asking whether every row has ended costs a synchronisation; it is asked once in so many steps.
STEPS_BETWEEN_CHECKS = 16


@torch.no_grad()
def decode(
    decoder: Decoder,
    options: GenerationOptions,
    stop_ids: Sequence[int],
    generators: Generators = None,
    constraints: list[Constraint] | None = None,
    guidance_scale: float = 1.0,
    max_steps: int | None = None,
) -> Iterator[Step]:
    """Steps of `num_return_sequences` rows per prompt, one after the other; at most `max_steps` (`max_new_tokens`).

    generators, constraints, guidance_scale: as `Sampler`; constraints are those of the repeated rows. With guidance the
    decoder holds each row twice.
    NonFiniteLogitsError where logits are NaN or infinite. A caller that wants no more steps stops iterating.
    """
    logits = decoder.prefill()
    copies = options.num_return_sequences
    rows = copies * len(logits) // (1 if guidance_scale == 1.0 else 2)
    sampler = Sampler(
        options, decoder.host.vocabulary, stop_ids, rows, decoder.length, logits.device, generators, constraints,
        guidance_scale,
    )  # fmt: skip
    decoder.repeat(copies)
    logits = logits.repeat_interleave(copies, dim=0) if copies > 1 else logits
    every = steps_between_checks(logits.device)
    last = options.max_new_tokens if max_steps is None else max_steps
    for step in range(1, last + 1):
        found = sampler(logits, decoder.ids[:rows, : decoder.length])
        done = step == last
        if done or step % every == 0:
            done |= all_ended(sampler.ended, sampler.norm, step, decoder.host.dtype)
        yield found
        if done:
            return
        logits = decoder.step(found.tokens if guidance_scale == 1.0 else torch.cat([found.tokens, found.tokens]))


def all_ended(ended: Tensor, norm: Tensor, step: int, precision: torch.dtype) -> bool:
    """Whether all rows have ended, bool `[...]`: the one question that is asked of the device.

    NonFiniteLogitsError where the log-normaliser `[R]` of a row is NaN or infinite. precision: of the language model.
    """
    finite, done = torch.stack([norm.sum().isfinite(), ended.all()]).tolist()
    if not finite:
        raise NonFiniteLogitsError(step, precision)
    return done


def steps_between_checks(device: torch.device) -> int:
    """How many steps pass between two questions to the device."""
    return 1 if device.type == "cpu" else STEPS_BETWEEN_CHECKS
