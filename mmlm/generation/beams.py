"""Beam search, over the same decoder and constraints as the decode loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmlm.generation.constraints.base import Constraint, Masks
from mmlm.generation.decoder import Decoder
from mmlm.generation.loop import all_ended, guided, steps_between_checks
from mmlm.generation.options import GenerationOptions
from mmlm.generation.result import FinishReason


@dataclass(frozen=True)
class Beam:
    """A hypothesis: its ids, their log-probabilities under the model's plain distribution, its score."""

    ids: list[int]
    log_probs: list[float]
    score: float
    finish_reason: FinishReason


@dataclass
class Search:
    """The running beams as back-pointers, and the best finished hypotheses of each row.

    Of each step, for all R = rows · beams: `parents [R]`, the beam it goes on from; `tokens [R]`; `log_probs [R]`.
    kept `[rows, beams]`: scores of finished hypotheses. ends `[rows, beams, 4]`: length, parent, last token, and
    whether it ended by itself. last_log_probs `[rows, beams]`: of the last token.
    """

    kept: Tensor
    ends: Tensor
    last_log_probs: Tensor
    parents: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    log_probs: list[Tensor] = field(default_factory=list)

    @classmethod
    def begin(cls, rows: int, beams: int, device: torch.device) -> Search:
        """Nothing has been written."""
        nothing = torch.full((rows, beams), -torch.inf, device=device)
        return cls(nothing, torch.zeros(rows, beams, 4, dtype=torch.long, device=device), nothing.clone())

    def keep(self, scores: Tensor, ends: Tensor, log_probs: Tensor) -> None:
        """Takes in finished candidates: scores `[rows, C]`, −inf for none, with `ends` and `log_probs` as above."""
        self.kept, order = torch.cat([self.kept, scores], dim=1).topk(self.kept.shape[1])
        self.ends = torch.cat([self.ends, ends], dim=1).gather(1, order.unsqueeze(-1).expand(-1, -1, 4))
        self.last_log_probs = torch.cat([self.last_log_probs, log_probs], dim=1).gather(1, order)

    def go_on(self, parents: Tensor, tokens: Tensor, log_probs: Tensor) -> None:
        """The beams `[R]` that go on."""
        self.parents.append(parents)
        self.tokens.append(tokens)
        self.log_probs.append(log_probs)

    def best(self, count: int) -> list[list[Beam]]:
        """The `count` best hypotheses of each row, best first."""
        steps = [[step.tolist() for step in part] for part in (self.parents, self.tokens, self.log_probs)]
        scores, ends, last = self.kept.tolist(), self.ends.tolist(), self.last_log_probs.tolist()
        return [
            [self._beam(steps, scores[row][n], ends[row][n], last[row][n]) for n in range(count)]
            for row in range(len(scores))
        ]

    @staticmethod
    def _beam(steps: list[list[list]], score: float, end: list[int], last_log_prob: float) -> Beam:
        parents, tokens, log_probs = steps
        length, beam, token, stopped = end
        if score == -math.inf:  # no such hypothesis: a constraint allows fewer than were asked for
            return Beam([], [], score, "length")
        ids, found = [token], [last_log_prob]
        for step in range(length - 2, -1, -1):
            ids.append(tokens[step][beam])
            found.append(log_probs[step][beam])
            beam = parents[step][beam]
        return Beam(ids[::-1], found[::-1], score, "stop" if stopped else "length")


@torch.no_grad()
def beam_search(
    decoder: Decoder,
    options: GenerationOptions,
    stop_ids: Sequence[int],
    constraints: Sequence[Constraint] | None = None,
    guidance_scale: float = 1.0,
    max_steps: int | None = None,
) -> list[list[Beam]]:
    """The `num_return_sequences` best hypotheses of each row, best first.

    The score of a hypothesis is its log-probability divided by `length ** length_penalty`, the ending token counted.
    The search ends when no running beam can beat the worst kept hypothesis (transformers' `early_stopping=False`).
    constraints: the state of each row at its start. guidance_scale, errors: as in `mmlm.generation.loop.decode`.
    """
    beams, last = options.num_beams, options.max_new_tokens if max_steps is None else max_steps
    logits = decoder.prefill()
    prompt_length, rows = decoder.length, len(logits) // (1 if guidance_scale == 1.0 else 2)
    decoder.repeat(beams)
    logits = logits.repeat_interleave(beams, dim=0)
    device, vocabulary = logits.device, logits.shape[-1]
    processors, masks = options.processors(prompt_length, stop_ids, device), Masks(vocabulary, device)
    states = None if constraints is None else [state for state in constraints for _ in range(beams)]
    stops = torch.tensor(list(stop_ids), device=device)
    candidates = min((1 + len(stop_ids)) * beams, beams * vocabulary)  # enough that `beams` of them go on
    every, within = steps_between_checks(device), torch.arange(candidates, device=device) < beams
    first_beam = torch.arange(rows, device=device).unsqueeze(1) * beams
    running = torch.zeros(rows, beams, device=device)
    running[:, 1:] = -torch.inf  # all beams start equal: only the first may branch
    open_rows = torch.ones(rows, 1, dtype=torch.bool, device=device)
    search = Search.begin(rows, beams, device)

    for length in range(1, last + 1):
        plain = logits[: rows * beams]
        norm = plain.logsumexp(-1)
        scores = guided(logits, states, guidance_scale)
        decoder.hide_placeholders(scores)
        scores = scores.log_softmax(-1)
        if states is not None:
            scores = masks.apply(states, scores)
        if processors:
            scores = processors(decoder.ids[: rows * beams, : decoder.length], scores)
        totals, choice = (running.view(-1, 1) + scores).view(rows, -1).topk(candidates)
        source, tokens = first_beam + choice // vocabulary, choice % vocabulary
        tokens = torch.where(totals > -torch.inf, tokens, stops[0])  # where a constraint leaves too few to choose from
        log_probs = plain.view(-1)[source * vocabulary + tokens] - norm[source]
        ended = torch.isin(tokens, stops)
        following: list[list[Constraint]] | None = None
        if states is not None:
            following, finished = advanced(states, source, tokens, totals)
            ended = ended | finished
        # Only an ending within the best `beams` is kept, and only for rows whose search is still open.
        kept = (ended | (length == last)) & within & open_rows & (totals > -torch.inf)
        info = torch.stack([torch.full_like(tokens, length), source, tokens, ended.long()], dim=-1)
        search.keep((totals / length**options.length_penalty).masked_fill(~kept, -torch.inf), info, log_probs)
        running, order = totals.masked_fill(ended, -torch.inf).topk(beams)
        best_possible = running[:, :1] / length**options.length_penalty
        open_rows = open_rows & (best_possible > search.kept.min(dim=1, keepdim=True).values)
        if (length == last or length % every == 0) and (all_ended(~open_rows, norm, decoder, length) or length == last):
            break
        source, tokens, log_probs = (part.gather(1, order).flatten() for part in (source, tokens, log_probs))
        search.go_on(source, tokens, log_probs)
        if following is not None:
            states = [row[place] for row, places in zip(following, order.tolist(), strict=True) for place in places]
        if guidance_scale != 1.0:
            source, tokens = torch.cat([source, source + rows * beams]), torch.cat([tokens, tokens])
        decoder.reorder(source, ids=bool(processors))
        logits = decoder.step(tokens)
    return search.best(options.num_return_sequences)


def advanced(
    states: Sequence[Constraint], source: Tensor, tokens: Tensor, totals: Tensor
) -> tuple[list[list[Constraint]], Tensor]:
    """The states `[rows][C]` after each candidate, and which have finished, bool `[rows, C]`.

    A candidate of no probability (its total is −inf) is not allowed, and keeps the state it comes from.
    """
    following = [
        [states[beam].advance(token) if total > -torch.inf else states[beam] for beam, token, total in zip(*row)]
        for row in zip(source.tolist(), tokens.tolist(), totals.tolist(), strict=True)
    ]
    finished = [[state.finished is not None for state in row] for row in following]
    return following, torch.tensor(finished, device=tokens.device)
