"""Beam search, over the same decoder and constraints as the decode loop."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmlm.generation.constraints.base import MOST_REFUSED, Constraint, Masks, RefusedError, ends
from mmlm.generation.decoder import Decoder
from mmlm.generation.loop import all_ended, steps_between_checks
from mmlm.generation.options import GenerationOptions
from mmlm.generation.processors import logits_processors
from mmlm.generation.result import FinishReason
from mmlm.generation.sampler import guided, never_written


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

    running `[rows, beams]`: log-probabilities of the beams that go on. open_rows `[rows, 1]`: rows whose search does.
    kept `[rows, beams]`: scores of finished hypotheses, −inf for none. ends `[rows, beams, 4]`: of these the length,
    the parent, the last token, and whether they ended by themselves. last_log_probs `[rows, beams]`: of that token.
    Of each step, for all R = rows · beams: `parents [R]`, the beam it goes on from; `tokens [R]`; `log_probs [R]`.
    """

    running: Tensor
    open_rows: Tensor
    kept: Tensor
    ends: Tensor
    last_log_probs: Tensor
    parents: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    log_probs: list[Tensor] = field(default_factory=list)

    @classmethod
    def begin(cls, rows: int, beams: int, device: torch.device) -> Search:
        """Nothing has been written. All beams of a row start equal, so only the first may branch."""
        nothing = torch.full((rows, beams), -torch.inf, device=device)
        running = nothing.clone()
        running[:, 0] = 0
        open_rows = torch.ones(rows, 1, dtype=torch.bool, device=device)
        return cls(running, open_rows, nothing, nothing.new_zeros(rows, beams, 4).long(), nothing.clone())

    def take(
        self, found: Candidates, ended: Tensor, cut_off: Tensor | None, length: int, last: bool, length_penalty: float
    ) -> Tensor:
        """Keeps the candidates that have ended; returns which of the others go on, `[rows, beams]`.

        cut_off: which of those that have ended did so at a limit of their own; None for none.
        Only an ending within the best `beams` is kept, and only for rows whose search is still open.
        """
        rows, beams = self.kept.shape
        within = torch.arange(found.totals.shape[1], device=ended.device) < beams
        keep = (ended | last) & within & self.open_rows & (found.totals > -torch.inf)
        scores = (found.totals / length**length_penalty).masked_fill(~keep, -torch.inf)
        lengths = torch.full_like(found.tokens, length)
        stopped = ended if cut_off is None else ended & ~cut_off
        ends = torch.stack([lengths, found.source, found.tokens, stopped.long()], dim=-1)
        self.kept, order = torch.cat([self.kept, scores], dim=1).topk(beams)
        self.ends = torch.cat([self.ends, ends], dim=1).gather(1, order.unsqueeze(-1).expand(-1, -1, 4))
        self.last_log_probs = torch.cat([self.last_log_probs, found.log_probs], dim=1).gather(1, order)
        self.running, order = found.totals.masked_fill(ended, -torch.inf).topk(beams)
        best_possible = self.running[:, :1] / length**length_penalty
        self.open_rows = self.open_rows & (best_possible > self.kept.min(dim=1, keepdim=True).values)
        return order

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


@dataclass(frozen=True)
class Candidates:
    """The best continuations of each row, `[rows, C]`: their totals, the beam each comes from, their last token."""

    totals: Tensor
    source: Tensor
    tokens: Tensor
    log_probs: Tensor


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
    processors, masks = logits_processors(options, prompt_length, stop_ids, device), Masks(vocabulary, device)
    states = None if constraints is None else [state for state in constraints for _ in range(beams)]
    stops = torch.tensor(list(stop_ids), device=device)
    count = min((1 + len(stop_ids)) * beams, beams * vocabulary)  # enough that `beams` of them go on
    every = steps_between_checks(device)
    never = never_written(decoder.host.vocabulary)
    search = Search.begin(rows, beams, device)
    for length in range(1, last + 1):
        plain = logits[: rows * beams]
        scores = guided(logits, states, guidance_scale)
        norm = plain.logsumexp(-1)
        scores[:, never] = -torch.inf
        scores = scores.log_softmax(-1)
        if states is not None:
            scores = masks.apply(states, without_ends(states, scores, stops))
        if processors:
            own = decoder.ids[: rows * beams, : decoder.length]
            processed = processors(own, scores.clone())  # pyright: ignore[reportArgumentType]
            scores = processed if states is None else masks.insist(states, scores, processed)
        again = functools.partial(best_candidates, search.running, scores, plain, norm, count, stops[0])
        found, advance = again(), None
        if states is not None:
            found, advance = unrefused(states, found, scores, again)
        ended = torch.isin(found.tokens, stops)
        if advance is not None:
            ended = ended | advance.finished
        done = length == last
        cut_off = None if advance is None else advance.cut_off
        order = search.take(found, ended, cut_off, length, done, options.length_penalty)
        if (done or length % every == 0) and (all_ended(~search.open_rows, norm, length, decoder.host.dtype) or done):
            break
        source, tokens = (part.gather(1, order).flatten() for part in (found.source, found.tokens))
        search.go_on(source, tokens, found.log_probs.gather(1, order).flatten())
        if advance is not None:
            states = [row[at] for row, places in zip(advance.states, order.tolist(), strict=True) for at in places]
        if guidance_scale != 1.0:
            source, tokens = torch.cat([source, source + rows * beams]), torch.cat([tokens, tokens])
        decoder.reorder(source, ids=bool(processors))
        logits = decoder.step(tokens)
    return search.best(options.num_return_sequences)


def without_ends(states: Sequence[Constraint], scores: Tensor, stops: Tensor) -> Tensor:
    """Scores `[R, V]`, in which beams that an end token does not end have no such token."""
    going_on = torch.tensor([not ends(state) for state in states], device=scores.device)
    ending = torch.zeros(scores.shape[1], dtype=torch.bool, device=scores.device).index_fill(0, stops, True)
    return scores.masked_fill(going_on.unsqueeze(1) & ending, -torch.inf) if going_on.any() else scores


def best_candidates(
    running: Tensor, scores: Tensor, plain: Tensor, norm: Tensor, count: int, filler: Tensor
) -> Candidates:
    """The `count` best continuations of each row's beams.

    running `[rows, beams]`; scores, plain `[rows·beams, V]`: what is searched by, and the model's own logits, of which
    `norm [rows·beams]` is the log-normaliser. filler: the token of candidates that a constraint leaves no choice for.
    """
    rows, beams = running.shape
    vocabulary = scores.shape[1]
    totals, choice = (running.view(-1, 1) + scores).view(rows, -1).topk(count)
    source = torch.arange(rows, device=choice.device).unsqueeze(1) * beams + choice // vocabulary
    tokens = torch.where(totals > -torch.inf, choice % vocabulary, filler)
    log_probs = plain.reshape(-1)[source * vocabulary + tokens] - norm[source]
    return Candidates(totals, source, tokens, log_probs)


@dataclass(frozen=True)
class Advanced:
    """The states `[rows][C]` after each candidate; which have finished, bool `[rows, C]`, and which of them at a limit.

    refused: of candidates that may not come after all, the beam, the token, and one that may.
    """

    states: list[list[Constraint]]
    finished: Tensor
    cut_off: Tensor
    refused: list[tuple[int, int, int]]


def advanced(states: Sequence[Constraint], found: Candidates) -> Advanced:
    """The states after each candidate.

    A candidate of no probability (its total is −inf) is not allowed, and keeps the state it comes from.
    """
    rows = zip(found.source.tolist(), found.tokens.tolist(), found.totals.tolist(), strict=True)
    following, refused = [], []
    for row in rows:
        following.append([])
        for beam, token, total in zip(*row, strict=True):
            state = states[beam]
            try:
                following[-1].append(state.advance(token) if total > -math.inf else state)
            except RefusedError as error:
                refused.append((beam, token, error.instead))
    if refused:
        return Advanced([], found.tokens, found.tokens, refused)
    reasons = [[(None, "stop", "length").index(state.finished) for state in row] for row in following]
    codes = torch.tensor(reasons, device=found.tokens.device)
    return Advanced(following, codes > 0, codes == 2, [])


def unrefused(
    states: Sequence[Constraint], found: Candidates, scores: Tensor, again: Callable[[], Candidates]
) -> tuple[Candidates, Advanced]:
    """Candidates of which none is refused, and the states after them.

    scores `[R, V]`: refused tokens are taken out of them, before `again` gives the candidates by what is left.
    """
    rounds = itertools.count(1)
    while (advance := advanced(states, found)).refused:
        refuse(scores, advance.refused, last=next(rounds) >= MOST_REFUSED)
        found = again()
    return found, advance


def refuse(scores: Tensor, refused: Sequence[tuple[int, int, int]], last: bool) -> None:
    """Takes refused tokens out of scores `[R, V]`; `last`: all but the one that may come instead."""
    for beam, token, instead in refused:
        kept = scores[beam, instead].clone()
        scores[beam, slice(None) if last else token] = -torch.inf
        scores[beam, instead] = kept
