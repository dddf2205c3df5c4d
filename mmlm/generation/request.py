"""One request: prompts in, results out. What all verbs that write text or codes stand on."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mmlm.generation.beams import beam_search
from mmlm.generation.constraints.base import Constraint
from mmlm.generation.constraints.codes import MAX_MEDIA, GenerationMode, MediaGrammar, Place, longest
from mmlm.generation.constraints.form_text import FormGrammar
from mmlm.generation.constraints.stop_strings import StopStrings
from mmlm.generation.constraints.thinking import Thinking, Thinks
from mmlm.generation.constraints.together import Together
from mmlm.generation.decoder import Decoder
from mmlm.generation.loop import decode
from mmlm.generation.nonfinite import NonFiniteLogitsError, watching
from mmlm.generation.options import GenerationOptions
from mmlm.generation.result import FinishReason, GenerationResult, TopLogProbs, Usage
from mmlm.generation.sampler import Generators, Step
from mmlm.generation.text import cut_at
from mmlm.generation.thoughts import Told, opened_rows, thinks
from mmlm.generation.written import parts_of
from mmlm.model.fusion.interface import MediaContext
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.code_layout import CodeSpan
from mmlm.prompting.parts import Codes
from mmlm.prompting.processor import IGNORE_INDEX, Batch
from mmlm.prompting.thinking import ThinkingMarks, answer_start, begins_thinking, thought_in

UNTRAINED = (
    "the adapters of this model were never trained: pictures and sounds tell it nothing. Train them with `mmlm "
    "train`, or choose a model that is trained. Speech it can answer by what is said, as `mmlm ask` does: pass "
    "mode='transcript'"
)

Progress = Callable[[str, int, int], None]
"""Called with what is going on ("codes" or "decoding"), how far it is, and how far it goes."""


@dataclass(frozen=True)
class Writing:
    """What a request may write besides text.

    mode: "image" or "audio", one such medium and nothing else; "any", text with media in it. spans: where the codes of
    these media lie. fixed: codes that are given, by (codebook, step), for each prompt; () for none. guidance_scale,
    without: see `decode`; `without` is the prompt that guidance leads away from, in place of each prompt.
    """

    mode: GenerationMode
    spans: Mapping[str, CodeSpan]
    fixed: Sequence[Mapping[Place, int]] = ()
    guidance_scale: float = 1.0
    without: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        if self.guidance_scale != 1.0 and self.without is None:
            raise ValueError("guidance needs the prompt that it leads away from: pass without=")


@dataclass(frozen=True)
class Request:
    """A batch of prompts, encoded and ready to be decoded; media have been encoded once.

    usage: of each prompt, before anything is generated. room: tokens that may be generated per row.
    stop_ids: tokens that end a row; the first is the one that ended rows repeat.
    begun: whether each prompt begins a thought unasked, as some chat templates do. thinks: how rows think that are to.
    context: encodes the media once more, which is only done to explain an error.
    form: that texts are held to, made ready; it begins where a row's answer does.
    """

    model: MultimodalNetwork
    options: GenerationOptions
    decoder: Decoder
    usage: list[Usage]
    room: int
    stop_ids: list[int]
    begun: list[bool]
    context: Callable[[], MediaContext]
    writing: Writing | None = None
    thinks: Thinks | None = None
    form: FormGrammar | None = None

    def constraints(self) -> list[Constraint] | None:
        """The state of each prompt's row at its start; None where nothing restricts it."""
        rows = len(self.usage)
        if self.writing is not None:
            vocabulary = self.model.language_model.vocabulary
            state = MediaGrammar(
                self.writing.mode, self.writing.spans, range(vocabulary.end_of_chunk_id + 1), frozenset(self.stop_ids),
                self.options.max_new_tokens, self.room,
            )  # fmt: skip
            return [replace(state, fixed=fixed) for fixed in self.writing.fixed or [{}] * rows]
        stop, decode = self.options.stop_strings, self.model.processor.decode
        state = Together.of(
            StopStrings.begin(stop, decode) if stop else None,
            None if self.form is None else self.form.begin(self.options.max_new_tokens),
            self.options.constraint,
        )
        if self.thinks is not None:
            state = Thinking.begin(self.thinks, state)
        return None if state is None else [state] * rows

    def steps(self, generators: Generators, constraints: list[Constraint] | None) -> Iterator[Step]:
        """Steps of `num_return_sequences` rows per prompt; `constraints`: of these rows."""
        scale = 1.0 if self.writing is None else self.writing.guidance_scale
        try:
            yield from decode(self.decoder, self.options, self.stop_ids, generators, constraints, scale, self.room)
        except NonFiniteLogitsError as error:
            raise self._explained(error) from error

    @torch.no_grad()
    def _explained(self, error: NonFiniteLogitsError) -> NonFiniteLogitsError:
        """The error with the layer where it began, for which all is computed once more."""
        with watching(self.model, error.precision) as found:
            self.decoder.anew(self.context())
        return NonFiniteLogitsError(error.step, found.dtype, found.name)

    def results(self, generators: Generators = None, progress: Progress | None = None) -> list[list[GenerationResult]]:
        """Results `[prompt][return sequence]`; generators: of each prompt, or one for all."""
        count, constraints = self.options.num_return_sequences, self.constraints()
        if self.options.num_beams > 1:
            scale = 1.0 if self.writing is None else self.writing.guidance_scale
            try:
                found = beam_search(self.decoder, self.options, self.stop_ids, constraints, scale, self.room)
            except NonFiniteLogitsError as error:
                raise self._explained(error) from error
            return [
                [self.result(row, beam.ids, beam.log_probs, beam.finish_reason, beam.score) for beam in beams]
                for row, beams in enumerate(found)
            ]
        if constraints is not None:
            constraints = [state for state in constraints for _ in range(count)]
        steps: list[Step] = []
        for step in self.steps(generators, constraints):
            steps.append(step)
            if progress is not None:
                progress("codes", len(steps), self.room)
        ids, log_probs, ended = (
            torch.stack([getattr(step, name) for step in steps], dim=1) for name in ("tokens", "log_probs", "ended")
        )
        lengths = (~ended).sum(1).tolist()
        top = list(zip(*(step.tops() for step in steps), strict=True))
        rows = [
            self.result(
                row // count,
                own[:length],
                values[:length],
                None if constraints is None else constraints[row].finished,
                top=top[row][:length],
            )  # fmt: skip
            for row, (own, values, length) in enumerate(zip(ids.tolist(), log_probs.tolist(), lengths, strict=True))
        ]
        return [rows[start : start + count] for start in range(0, len(rows), count)]

    def result(
        self,
        prompt: int,
        ids: Sequence[int],
        log_probs: Sequence[float],
        finished: FinishReason | None = None,
        score: float | None = None,
        top: Sequence[TopLogProbs] = (),
    ) -> GenerationResult:
        """The result of the ids that a row has written; `finished`: what its constraint says of its end. top: of each
        id, where they were asked for.
        """
        kept = tuple(top) if self.options.top_log_probs else ()
        stops = set(self.stop_ids)
        stopped = bool(ids) and ids[-1] in stops
        reason = finished or ("stop" if stopped else "length")
        written = list(ids[:-1] if stopped else ids)
        usage = replace(self.usage[prompt], generated_tokens=len(ids))
        parts: tuple[str | Codes, ...]
        if self.thinks is not None:
            thought, text, spent = self._told(written)
            return GenerationResult(
                text, tuple(ids), tuple(log_probs), reason, replace(usage, thinking_tokens=spent), score,
                (text,) if text else (), thought, form=self.options.form, top_log_probs=kept,
            )  # fmt: skip
        if self.writing is None:
            text = cut_at(self.model.processor.decode(written), self.options.stop_strings)[0]
            parts = (text,) if text else ()
        else:
            parts = tuple(parts_of(self.model, written))
            text = "".join(part for part in parts if isinstance(part, str))
        start = answer_start(text, self.begun[prompt])
        thought, form = thought_in(text[:start]), self.options.form
        return GenerationResult(
            text, tuple(ids), tuple(log_probs), reason, usage, score, parts, thought, start, form=form,
            top_log_probs=kept,
        )  # fmt: skip

    def telling(self) -> Told:
        """Tells the thought of a row from its answer, token by token."""
        return Told(self.thinks, self.model.processor.decode, self.options.stop_strings)

    def _told(self, ids: Sequence[int]) -> tuple[str, str, int]:
        """The thought and the answer in ids, and how many of them are the thought and its mark."""
        told = self.telling()
        pieces = [*map(told.push, ids), told.rest()]
        thought, answer = ("".join(own) for own in zip(*pieces, strict=True))
        return thought.strip(), answer, told.spent


@torch.no_grad()
def request(
    model: MultimodalNetwork,
    prompts: Sequence[Sequence[Any]],
    options: GenerationOptions,
    writing: Writing | None = None,
    written: Sequence[Sequence[int]] = (),
) -> Request:
    """Encodes prompts and their media. All that can be wrong with a request is found here.

    written: ids that rows have written before, which they go on from.
    With `writing`, `options.max_new_tokens` counts the text alone: a medium that is begun is always finished.
    """
    if writing is not None and options.stop_strings:
        raise ValueError("stop strings are for text alone: leave stop empty")
    if writing is not None and options.form is not None:
        raise ValueError("choices, regex and json_schema are for text alone: leave them out where media are written")
    if writing is not None and options.constraint is not None:
        raise ValueError("constraint is for text alone: leave it out where media are written")
    rows = [row if isinstance(row, (list, tuple)) else [row] for row in prompts]
    if writing is not None and writing.guidance_scale != 1.0:
        rows += [list(writing.without or [])] * len(rows)
    begun = [begins_thinking(row) for row in rows]
    marks: ThinkingMarks | None = None
    if options.is_thinking:
        if writing is not None:
            raise ValueError("thinking is for text alone: leave it out where media are written")
        rows, marks = opened_rows(model.processor.tokenizer, rows, options)
    mark = set() if marks is None else set(model.processor.markup_ids(marks.close))  # which may be what ends a turn
    stop_ids = [token for token in (*model.language_model.stop_ids, *options.stop_token_ids) if token not in mark]
    form = options.form
    ready = None if form is None else FormGrammar.of(form, model.processor, stop_ids, options.max_new_tokens)
    examples = [model.processor.encode(row) for row in rows]
    for example, ids in zip(examples, written, strict=False):
        example.input_ids.extend(ids)
        example.labels.extend([IGNORE_INDEX] * len(ids))
    batch = model.processor.collate(examples, padding_side="left")
    batch.labels = None
    with model.changes.passing():
        since = model.changes.count
        batch = batch.to(model.device)
        room_for(model, writing, options, batch, marks)  # what is too long without its media is not encoded
        again = functools.partial(model.media_context, batch, [example.media for example in examples])
        context = again()
        batch = context.placed(batch)
        room, how = room_for(model, writing, options, batch, marks)
        latents = context.latents_per_row()
        usage = [
            Usage(len(example.input_ids), len(example.media), count, 0)
            for example, count in zip(examples[: len(prompts)], latents, strict=False)
        ]
        decoder = Decoder(model.language_model, context, batch, room, codes=writing is not None, since=since)
    if any(latents) and model.fusion.is_untrained:
        warnings.warn(UNTRAINED, stacklevel=2)
    return Request(model, options, decoder, usage, room, stop_ids, begun, again, writing, how, ready)


def room_for(
    model: MultimodalNetwork, writing: Writing | None, options: GenerationOptions, batch: Batch,
    marks: ThinkingMarks | None,
) -> tuple[int, Thinks | None]:  # fmt: skip
    """How many tokens may be written after a batch, and how its rows think where there are marks for it.

    ValueError where the language model has too few positions.
    """
    length, room, how = batch.input_ids.shape[1], options.max_new_tokens, None
    if writing is not None:
        room = room_for_media(model, writing, options, length)
    elif marks is not None:
        how = thinks(model, marks, options, length)
        room = how.room
    model.language_model.check_length(length + room)
    return room, how


def room_for_media(model: MultimodalNetwork, writing: Writing, options: GenerationOptions, prompt_length: int) -> int:
    """How many tokens may be written: one medium, or text with as many media as there are positions for."""
    room = most = max(longest(span) for span in writing.spans.values())
    if writing.mode == "any":
        room = options.max_new_tokens + MAX_MEDIA * most
        if (positions := model.language_model.max_length) is not None:
            room = max(1, min(room, positions - prompt_length))
    return room
