"""Rollouts: what the policy writes to prompts, by the library's own decode loop, and what it might have written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from encoders.base import Features
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.prompts import asking_parts
from mmlm.data.records import Record, Text
from mmlm.generation.constraints.base import Constraint, Masks
from mmlm.generation.constraints.codes import MediaGrammar, longest
from mmlm.generation.constraints.thinking import Thinking
from mmlm.generation.media import media_spans
from mmlm.generation.options import GenerationOptions
from mmlm.generation.request import Writing, request
from mmlm.generation.result import GenerationResult
from mmlm.generation.sampler import never_written
from mmlm.generation.thoughts import thinks
from mmlm.prompting.processor import IGNORE_INDEX, Example
from mmlm.prompting.thinking import MARK, Opening, marks_of
from mmlm.tasks.draw import rendered
from mmlm.tasks.thinking import thinking_prompt
from mmlm.training.alignment.config import RolloutConfig
from mmlm.training.alignment.scored import answer_logits, head_inputs
from mmlm.training.examples import Examples
from mmlm.training.rows import Ready


@dataclass(frozen=True)
class Prompt:
    """A prompt with the features of its media, and the record and the text that it is made of."""

    record: Record
    text: Text
    parts: list[Any]
    features: list[Features]
    ids: list[int]

    def answered(self, ids: Sequence[int]) -> Ready:
        """The prompt with an answer to learn, given as ids."""
        labels = [IGNORE_INDEX] * len(self.ids) + list(ids)
        return Ready(Example([*self.ids, *ids], labels, [None] * len(self.features)), self.features)  # pyright: ignore[reportArgumentType]


def text_prompt(model: MultimodalLM, examples: Examples, record: int, text: int, thinking: int = 0) -> Prompt:
    """The prompt of a text of a record, whose media are encoded; with `thinking` one after which a thought comes."""
    entry, (ready,) = examples.records[record], examples.ready([(record, text)])
    sources: list[Any] = [None] * len(entry.places)
    for part, features in zip(ready.example.media, ready.features, strict=True):
        sources[part.source] = features
    parts = asking_parts(model.processor.tokenizer, model.template, entry, entry.texts[text], sources)
    parts = thinking_prompt(model, parts, thinking or False)
    example = model.processor.encode(parts)
    return Prompt(entry, entry.texts[text], parts, [part.source for part in example.media], example.input_ids)


def media_prompt(model: MultimodalLM, modality: str, record: Record, text: Text) -> Prompt:
    """The prompt that has a text drawn, or spoken."""
    parts = model.template.writing_prompt(modality, text.answer)
    return Prompt(record, text, parts, [], model.processor.encode(parts).input_ids)


class Writer:
    """Writes answers, and computes their log-probabilities among all that might have been written instead.

    What is never written, media's placeholders and control tokens that end nothing, is left out of the choice both when
    an answer is written and when it is scored; so is what the grammar of a drawing, or the budget of a thought, does
    not allow. What these force has log-probability 0, so that nothing is learned from it.
    """

    def __init__(self, model: MultimodalLM, objective: RolloutConfig, max_seconds: float) -> None:
        self.model, self.objective, self.max_seconds = model, objective, max_seconds
        self.codes = objective.writes != "text"
        host, vocabulary = model.language_model, model.language_model.vocabulary
        self.never = torch.zeros(vocabulary.code_offset + vocabulary.code_rows, dtype=torch.bool)
        self.never[never_written(vocabulary)] = True
        ends = set(host.stop_ids)
        self.never[[own for own in model.processor.tokenizer.all_special_ids if own not in ends]] = True
        self.options = GenerationOptions(
            max_new_tokens=objective.max_new_tokens, thinking=objective.thinking or False,
            logits_processor=() if self.codes else (self._without,),
        )  # fmt: skip
        self.longest = objective.max_new_tokens
        if objective.thinking:
            self.longest += objective.thinking + MARK
            if marks := marks_of(model.processor.tokenizer):
                self.never[model.processor.markup_ids(marks.close)] = False
        if self.codes:
            (span,) = media_spans(model, self.mode, max_seconds).values()
            self.longest = longest(span)

    @property
    def mode(self) -> Any:
        """The medium that is written."""
        return self.objective.writes

    def write(
        self, prompts: Sequence[Prompt], seed: int, count: int, greedy: bool = False
    ) -> list[list[GenerationResult]]:
        """`count` answers to each prompt. The prompts and their media are read once, for all of a group."""
        chosen: dict[str, Any] = dict(do_sample=True, temperature=self.objective.temperature) if not greedy else {}
        options = replace(self.options, num_return_sequences=count, seed=seed, **chosen)
        sampler = options.sampler(self.model.device)
        writing = None
        if self.codes:  # what may be written is the same for every text
            writing = Writing(self.mode, media_spans(self.model, self.mode, self.max_seconds))
        return request(self.model, [prompt.parts for prompt in prompts], options, writing).results(sampler)

    def shown(self, results: Sequence[GenerationResult], seed: int) -> list[GenerationResult]:
        """Results with pictures and sounds in place of their codes."""
        return rendered(self.model, results, None, seed) if self.codes else list(results)

    def _without(self, ids: Tensor, scores: Tensor) -> Tensor:
        return scores.masked_fill(self.never[: scores.shape[1]].to(scores.device), -torch.inf)

    def log_probs(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]) -> Tensor:
        """Log-probabilities of the tokens of answers to prompts `[N, longest]`, at the temperature of sampling.

        Behind the end of each stand zeros.
        """
        return self._placed(*self._scored(prompts, answers))

    def read(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """`log_probs`, and the hidden states that they are computed from `[N, longest, D]`."""
        with head_inputs(self.model) as seen:
            values, counts = self._scored(prompts, answers)
        return self._placed(values, counts), self._placed(seen[-1], counts)

    def _scored(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]) -> tuple[Tensor, list[int]]:
        """The log-probabilities of all tokens of answers in one row, and how many each answer has."""
        ready = [prompt.answered(ids) for prompt, ids in zip(prompts, answers, strict=True)]
        logits, labels, counts = answer_logits(self.model, ready, self.codes)
        logits = self._masked(logits, prompts, answers) / self.objective.temperature
        return logits.gather(1, labels.unsqueeze(1)).squeeze(1) - logits.logsumexp(-1), counts

    def _placed(self, values: Tensor, counts: Sequence[int]) -> Tensor:
        """What belongs to tokens `[n, ...]`, answer by answer, as `[N, longest, ...]` with zeros behind each end."""
        rows = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        places = torch.cat([torch.arange(count) for count in counts])
        found = values.new_zeros(len(counts), self.longest, *values.shape[1:])
        return found.index_put((rows.to(values.device), places.to(values.device)), values)

    def _masked(self, logits: Tensor, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]) -> Tensor:
        if not self.codes:
            logits = self._without(logits, logits)
        if not self.codes and not self.objective.thinking:
            return logits
        masks = Masks(logits.shape[1], logits.device)
        pairs = zip(prompts, answers, strict=True)
        return masks.apply([state for prompt, ids in pairs for state in self._states(prompt, ids)], logits)

    def _states(self, prompt: Prompt, ids: Sequence[int]) -> list[Constraint]:
        """The state of the grammar, or of the thought, before each id of an answer."""
        state: Constraint = self._grammar() if self.codes else self._thought(prompt)
        found = []
        for token in ids:
            found.append(state)
            state = state.advance(token)
        return found

    def _thought(self, prompt: Prompt) -> Constraint:
        opening = prompt.parts[-1]
        assert isinstance(opening, Opening), "a thought is asked for"
        return Thinking.begin(thinks(self.model, opening.marks, self.options, 0))

    def _grammar(self) -> Constraint:
        vocabulary = self.model.language_model.vocabulary
        spans = media_spans(self.model, self.mode, self.max_seconds)
        stops = frozenset(self.model.language_model.stop_ids)
        return MediaGrammar(self.mode, spans, range(vocabulary.end_of_chunk_id + 1), stops, self.longest, self.longest)
