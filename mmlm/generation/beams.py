"""Beam search."""

from collections.abc import Callable

import torch
from torch import Tensor

from mmlm.generation.decoder import Decoder
from mmlm.generation.loop import _steps_between_checks
from mmlm.generation.options import GenerationOptions


@torch.no_grad()
def beam_search(
    decoder: Decoder, options: GenerationOptions, stop_ids: list[int], stopped: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Beam search; ids `[B, num_return_sequences, max_new_tokens]`, best first, filled up with `stop_ids[0]`.

    The score of a hypothesis is its log-probability divided by `length ** length_penalty`, the ending token counted;
    the search ends when no running beam can beat the worst kept hypothesis (transformers' `early_stopping=False`).
    `stopped` may end hypotheses for other reasons: new ids `[n, t]` → bool `[n]`.
    """
    beams, processors = options.num_beams, options.processors()
    check_every = _steps_between_checks(decoder.ids.device)
    logits = decoder.prefill()
    rows, prompt = logits.shape[0], decoder.length
    decoder.repeat(beams)
    logits = logits.repeat_interleave(beams, dim=0)
    device, vocab = logits.device, logits.shape[-1]
    stops = torch.tensor(stop_ids, device=device)
    candidates = (1 + len(stop_ids)) * beams  # enough that `beams` of them go on
    row_start = torch.arange(rows, device=device).unsqueeze(1) * beams

    running = torch.zeros(rows, beams, device=device)
    running[:, 1:] = -torch.inf  # all beams start equal: only the first may branch
    kept_ids = torch.full((rows, beams, options.max_new_tokens), stop_ids[0], device=device)
    kept = torch.full((rows, beams), -torch.inf, device=device)
    open_rows = torch.ones(rows, 1, dtype=torch.bool, device=device)

    for length in range(1, options.max_new_tokens + 1):
        log_probs = logits.log_softmax(-1)
        if processors:
            log_probs = processors(decoder.ids[:, : decoder.length], log_probs)
        totals = (running.view(-1, 1) + log_probs).view(rows, beams * vocab)
        scores, choice = totals.topk(candidates)
        source, tokens = row_start + choice // vocab, choice % vocab
        ends = torch.isin(tokens, stops)
        new_ids = torch.cat([decoder.ids[:, prompt : decoder.length][source], tokens.unsqueeze(-1)], dim=-1)
        if stopped is not None:
            ends = ends | stopped(new_ids.flatten(0, 1)).view_as(ends)
        last = length == options.max_new_tokens
        # Only an ending within the best `beams` is kept, and only for rows whose search is still open.
        finished = (ends | last) & (torch.arange(candidates, device=device) < beams) & open_rows
        merged = torch.cat([kept, (scores / length**options.length_penalty).masked_fill(~finished, -torch.inf)], dim=1)
        filled = torch.full((rows, candidates, options.max_new_tokens), stop_ids[0], device=device)
        filled[:, :, :length] = new_ids
        kept, order = merged.topk(beams)
        kept_ids = torch.cat([kept_ids, filled], dim=1).gather(1, order.unsqueeze(-1).expand(-1, -1, filled.shape[-1]))
        if last:
            break
        running, order = scores.masked_fill(ends, -torch.inf).topk(beams)
        best_possible = running[:, :1] / length**options.length_penalty
        open_rows = open_rows & (best_possible > kept.min(dim=1, keepdim=True).values)
        if length % check_every == 0 and not bool(open_rows.any()):
            break
        source, tokens = source.gather(1, order).flatten(), tokens.gather(1, order).flatten()
        decoder.reorder(source)
        logits = decoder.step(tokens)
    return kept_ids[:, : options.num_return_sequences]
