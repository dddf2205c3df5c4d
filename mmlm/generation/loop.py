"""The decode loop: prefill once, then one token a step; greedy or sampled."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mmlm.generation.decoder import Decoder
from mmlm.generation.options import GenerationOptions

# On a GPU, asking whether every row has ended costs a synchronisation; it is asked once in so many steps.
STEPS_BETWEEN_CHECKS = 16


@torch.no_grad()
def stream_tokens(
    decoder: Decoder, options: GenerationOptions, stop_ids: list[int], generator: torch.Generator | None
) -> Iterator[Tensor]:
    """Greedy tokens, or with a generator sampled ones, a step at a time: `[B·num_return_sequences]`.

    Rows that have ended repeat `stop_ids[0]`.
    A caller that knows of another reason to stop just stops iterating.
    """
    processors = options.processors()
    logits = decoder.prefill()
    if options.num_return_sequences > 1:
        decoder.repeat(options.num_return_sequences)
        logits = logits.repeat_interleave(options.num_return_sequences, dim=0)
    device = logits.device
    stops = torch.tensor(stop_ids, device=device)
    ended = torch.zeros(logits.shape[0], dtype=torch.bool, device=device)
    check_every = _steps_between_checks(device)
    for step in range(1, options.max_new_tokens + 1):
        if processors:
            logits = processors(decoder.ids[:, : decoder.length], logits)
        if generator is None:
            tokens = logits.argmax(-1)
        else:
            tokens = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
        tokens = torch.where(ended, stops[0], tokens)
        yield tokens
        ended = ended | torch.isin(tokens, stops)
        if step == options.max_new_tokens or (step % check_every == 0 and bool(ended.all())):
            return
        logits = decoder.step(tokens)


def _steps_between_checks(device: torch.device) -> int:
    return 1 if device.type == "cpu" else STEPS_BETWEEN_CHECKS
