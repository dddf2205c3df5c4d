"""A request whose tokens are being written, beside others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmlm.generation.nonfinite import NonFiniteLogitsError
from mmlm.generation.request import Request
from mmlm.generation.result import TopLogProbs
from mmlm.generation.sampler import Sampler, never_written
from mmlm.model.network import MultimodalNetwork
from mmlm.serving.slots import Slots
from mmlm.serving.ticket import TextTicket, Token


class Running:
    """The rows of one request after its prompt: what they have written, and what they write next.

    slots: where they are decoded with those of others, at `places`; None for rows that their own decoder goes on with.
    """

    def __init__(self, ticket: TextTicket, request: Request, slots: Slots | None) -> None:
        self.ticket, self.request, self.slots = ticket, request, slots
        options, decoder = request.options, request.decoder
        vocabulary = request.model.language_model.vocabulary
        self.width = vocabulary.code_offset + (
            0 if request.writing is None else vocabulary.code_rows
        )  # ids it may write
        self.guided = request.writing is not None and request.writing.guidance_scale != 1.0
        self.count = options.num_return_sequences
        constraints = request.constraints()
        self.sampler = Sampler(
            options, vocabulary, request.stop_ids, self.count, decoder.length,
            request.model.device, options.sampler(request.model.device),
            None if constraints is None else [constraints[0] for _ in range(self.count)],
            request.writing.guidance_scale if request.writing is not None else 1.0,
        )  # fmt: skip
        self._stops = frozenset(request.stop_ids)
        self.ids: list[list[int]] = [[] for _ in range(self.count)]
        self.log_probs: list[list[float]] = [[] for _ in range(self.count)]
        self.top: list[list[TopLogProbs]] = [[] for _ in range(self.count)]
        self._open = set(range(self.count))
        self.places: list[int] = []
        self.taken = 0  # tokens of the last step

    @property
    def is_plain(self) -> bool:
        """Whether each row takes its most likely token, so that the tokens of many requests are chosen at once."""
        return self.sampler.is_plain

    def begin(self, logits: Tensor) -> None:
        """Joins the slots with logits `[R, V]` after the prompt, and takes the first token of each row."""
        if self.slots is not None:
            self.places = self.slots.join(self.request.decoder, self.count)
        else:
            self.request.decoder.repeat(self.count)
        self.choose(logits.repeat_interleave(self.count, dim=0))

    def choose(self, logits: Tensor) -> None:
        """Takes the next token of each row by logits `[R, V]` (`[2·R, V]` with guidance), those of codes maybe too."""
        step = self.sampler(logits[:, : self.width], self._so_far())
        self.take(step.tokens.tolist(), step.log_probs.tolist(), step.tops())

    def _so_far(self) -> Tensor:
        """The ids of the rows, prompt included, `[R, T]`."""
        if self.slots is None:
            decoder = self.request.decoder
            return decoder.ids[: self.count, : decoder.length]
        length = self.slots.lengths[self.places[0]]
        return self.slots.ids[self.places[: self.count], :length]

    def take(self, tokens: list[int], log_probs: list[float], tops: Sequence[TopLogProbs] | None = None) -> None:
        """Keeps and delivers the next token of each row; NonFiniteLogitsError where a log-probability is no number."""
        constraints, self.taken = self.sampler.constraints, len(self._open)
        for row in sorted(self._open):
            token, log_prob = tokens[row], log_probs[row]
            if log_prob != log_prob:
                raise NonFiniteLogitsError(len(self.ids[row]) + 1, self.request.model.language_model.dtype)
            self.ids[row].append(token)
            self.log_probs[row].append(log_prob)
            top = () if tops is None else tops[row]
            self.top[row].append(top)
            self.ticket.deliver(Token(row, token, log_prob, top), row)
            finished = constraints is not None and constraints[row].finished is not None
            if token in self._stops or finished or len(self.ids[row]) == self.request.room:
                self._open.remove(row)

    @property
    def has_ended(self) -> bool:
        """Whether all rows have."""
        return not self._open

    def next_tokens(self) -> list[int]:
        """What is written at the places of its rows: the last token of each, twice with guidance."""
        own = [ids[-1] for ids in self.ids]
        return own + own if self.guided else own

    def step_alone(self) -> None:
        """One more step by the request's own decoder."""
        self.choose(self.request.decoder.step(torch.tensor(self.next_tokens(), device=self.request.model.device)))

    def finish(self) -> None:
        """Ends the ticket with the results."""
        states = self.sampler.constraints or [None] * self.count
        results = [
            self.request.result(0, ids, log_probs, None if state is None else state.finished, top=top)
            for ids, log_probs, top, state in zip(self.ids, self.log_probs, self.top, states, strict=True)
        ]
        known = self.ticket.known_tokens
        self.ticket.end([replace(one, usage=replace(one.usage, known_tokens=known)) for one in results])


def most_likely(logits: Tensor, model: MultimodalNetwork) -> tuple[list[int], list[float]]:
    """The most likely id of text for each row of logits `[R, V]`, and its log-probability; NaN where it is no number.

    The logits are changed.
    """
    vocabulary = model.language_model.vocabulary
    logits = logits[:, : vocabulary.code_offset]
    norm = logits.logsumexp(-1)
    logits[:, never_written(vocabulary)] = -torch.inf
    best, ids = logits.max(-1)
    return ids.tolist(), torch.where(norm.isfinite(), best - norm, torch.nan).tolist()
