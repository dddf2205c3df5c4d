"""The choice of next tokens for the rows of one request: greedy or sampled, constrained, guided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmlm.generation.constraints.base import MOST_REFUSED, Constraint, Masks, RefusedError, Unending
from mmlm.generation.options import GenerationOptions
from mmlm.generation.processors import logits_processors
from mmlm.generation.result import TopLogProbs
from mmlm.prompting.vocabulary import MediaVocabulary


@dataclass(frozen=True)
class Step:
    """One step of all rows: `tokens [R]`, and their log-probabilities `[R]` under the model's plain distribution.

    ended `[R]`: rows that had ended before; their tokens count for nothing.
    top_ids, top_log_probs `[R, k]`: the most likely tokens and their log-probabilities, where they were asked for.
    """

    tokens: Tensor
    log_probs: Tensor
    ended: Tensor
    top_ids: Tensor | None = None
    top_log_probs: Tensor | None = None

    def tops(self) -> list[TopLogProbs]:
        """The most likely tokens of each row; none where they were not asked for."""
        if self.top_ids is None or self.top_log_probs is None:
            return [()] * len(self.tokens)
        pairs = zip(self.top_ids.tolist(), self.top_log_probs.tolist(), strict=True)
        return [tuple(zip(ids, values, strict=True)) for ids, values in pairs]


Generators = torch.Generator | Sequence[torch.Generator] | None
"""What rows are drawn from: one for all, or one for each of equal shares of them; None takes the most likely token."""


class Sampler:
    """Chooses the tokens of one request step by step, and knows which of its rows have ended.

    prompt_length: positions of the prompt, padding included. generators: of each prompt's rows, or one for all.
    constraints: the state of each row, kept up to date in this list; a row ends when its constraint has finished.
    guidance_scale: with a scale other than 1, logits hold each row twice, the second half without what guides it.
    Where a constraint is guided, scores are `u + scale · (c − u)` (Ho and Salimans 2022).

    rows: R, with all that are written for a prompt. ended: bool `[R]`. norm: `[R]`, the log-normaliser of the last
    step; finite where the logits are.
    """

    def __init__(
        self,
        options: GenerationOptions,
        vocabulary: MediaVocabulary,
        stop_ids: Sequence[int],
        rows: int,
        prompt_length: int,
        device: torch.device,
        generators: Generators = None,
        constraints: list[Constraint] | None = None,
        guidance_scale: float = 1.0,
    ) -> None:
        self.constraints, self.guidance_scale = constraints, guidance_scale
        one = isinstance(generators, torch.Generator)
        self.generators: Sequence[torch.Generator] = [generators] if one else generators or ()
        self.ended = torch.zeros(rows, dtype=torch.bool, device=device)
        self.norm = torch.zeros(rows, device=device)
        self._never = never_written(vocabulary)
        self._ends, self._stops = frozenset(stop_ids), torch.tensor(list(stop_ids), device=device)
        self._processors = logits_processors(options, prompt_length, stop_ids, device)
        self._masks: Masks | None = None
        self._top = options.top_log_probs

    @property
    def is_plain(self) -> bool:
        """Whether each row takes its most likely token, whatever the others do: then many requests choose at once."""
        return not self.generators and self.constraints is None and not self._processors and not self._top

    def __call__(self, logits: Tensor, ids: Tensor) -> Step:
        """The next tokens by logits `[R, V]` (`[2·R, V]` with guidance) after ids `[R, T]`, prompt included.

        A row that has ended repeats the first of `stop_ids`. The logits are changed.
        """
        plain = logits[: len(self.ended)]
        norm = plain.logsumexp(-1)
        scores = guided(logits, self.constraints, self.guidance_scale)
        scores[:, self._never] = -torch.inf
        if self.constraints is not None:
            self._masks = self._masks or Masks(logits.shape[1], logits.device)
            scores = self._masks.apply(self.constraints, scores)
        tokens = self._chosen(scores, ids, norm)
        if self.constraints is not None:
            tokens = self._advanced(torch.where(self.ended, self._stops[0], tokens), scores, ids, norm)
        return self.take(tokens, norm, plain)

    def take(self, tokens: Tensor, norm: Tensor, plain: Tensor) -> Step:
        """The step of tokens `[R]` that were chosen by logits `plain [R, V]`; rows that they end have ended."""
        before = self.ended
        tokens = torch.where(before, self._stops[0], tokens)
        ended = before | torch.isin(tokens, self._stops)
        if self.constraints is not None:
            ended = ended | torch.tensor(
                [state.finished is not None for state in self.constraints], device=ended.device
            )
        self.ended, self.norm = ended, norm
        log_probs = plain.gather(1, tokens.unsqueeze(1)).squeeze(1) - norm
        if not self._top:
            return Step(tokens, log_probs, before)
        top, ids = plain.topk(min(self._top, plain.shape[1]), dim=1)
        return Step(tokens, log_probs, before, ids, top - norm.unsqueeze(1))

    def _chosen(self, scores: Tensor, ids: Tensor, norm: Tensor, row: int | None = None) -> Tensor:
        """The tokens of all rows, or of one."""
        rows, generators = slice(None), self.generators
        if row is not None:
            share = row * len(generators) // len(self.ended)
            rows, generators = slice(row, row + 1), generators[share : share + 1]
        own = scores[rows]
        if self._processors:  # which may write into the scores, while those must stay the model's
            processed = self._processors(ids[rows], own.clone())  # pyright: ignore[reportArgumentType]
            states = None if self.constraints is None else self.constraints[rows]
            own = processed if states is None or self._masks is None else self._masks.insist(states, own, processed)
        return choose(own, norm[rows], generators)

    def _advanced(self, tokens: Tensor, scores: Tensor, ids: Tensor, norm: Tensor) -> Tensor:
        """The tokens `[R]`, others in place of refused ones and of ends that are none; brings the states up to date.

        What is drawn anew without what was refused has the distribution of what is not refused.
        """
        assert self.constraints is not None, "a row is constrained"
        chosen, finite = tokens.tolist(), norm.isfinite().tolist()
        for row, state in enumerate(self.constraints):
            if not finite[row]:  # any token was drawn, and the error is the next check's
                continue
            if chosen[row] in self._ends and isinstance(state, Unending) and (instead := state.at_end()) is not None:
                state, chosen[row] = instead
            refused = 0
            while state.finished is None:
                try:
                    self.constraints[row] = state.advance(chosen[row])
                    break
                except RefusedError as error:
                    refused += 1
                    scores[row, chosen[row]] = -torch.inf
                    again = refused < MOST_REFUSED
                    chosen[row] = int(self._chosen(scores, ids, norm, row)) if again else error.instead
        return torch.tensor(chosen, device=tokens.device)


def never_written(vocabulary: MediaVocabulary) -> slice:
    """The ids that are never written: placeholders of media, and padding."""
    return slice(vocabulary.end_of_chunk_id + 1, vocabulary.code_offset)


def guided(logits: Tensor, constraints: Sequence[Constraint] | None, scale: float) -> Tensor:
    """Scores `[R, V]` of logits `[R, V]`, or of `[2·R, V]` where guidance leads away from the second half."""
    if scale == 1.0:
        return logits
    own, free = logits.chunk(2)
    acts = torch.tensor([state.guided for state in constraints or ()], device=logits.device).unsqueeze(1)
    return torch.where(acts, free + scale * (own - free), own)


def choose(scores: Tensor, norm: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Tokens `[R]` of scores `[R, V]`; `norm [R]` is finite where the logits of a row are.

    Each generator draws for an equal share of the rows, in their order; without any, the most likely are taken.
    """
    if not generators:
        return scores.argmax(-1)
    # Drawing from NaN would end a GPU's whole context; the error comes with the next check.
    weights = torch.where(norm.isfinite().unsqueeze(1), scores.softmax(-1), 1.0)
    shares = weights.tensor_split(len(generators))
    drawn = [torch.multinomial(own, 1, generator=one) for own, one in zip(shares, generators, strict=True)]
    return torch.cat(drawn).squeeze(1)
