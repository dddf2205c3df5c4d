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
from mmlm.generation.constraints.together import Together
from mmlm.generation.decoder import Decoder
from mmlm.generation.loop import decode
from mmlm.generation.nonfinite import NonFiniteLogitsError, watching
from mmlm.generation.options import GenerationOptions
from mmlm.generation.result import FinishReason, GenerationResult, Usage
from mmlm.generation.sampler import Step
from mmlm.generation.text import cut_at
from mmlm.model.fusion.interface import MediaContext
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.code_layout import CodeSpan
from mmlm.prompting.parts import Codes
from mmlm.prompting.processor import Batch
from mmlm.prompting.thinking import begins_thinking

UNTRAINED = (
    "the adapters of this model were never trained: pictures and sounds tell it nothing. Train them with `mmlm "
    "train`, or choose a model that is trained. Speech it can answer by what is said: ask with mode='transcript'"
)

Progress = Callable[[str, int, int], None]
"""Called with what is going on ("codes" or "decoding"), how far it is, and how far it goes."""


@dataclass(frozen=True)
class Writing:
    """What a request may write besides text.

    mode: "image" or "audio", one such medium and nothing else; "any", text with media in it. spans: where the codes of
    these media lie. fixed: codes that are given, by (codebook, step). guidance_scale, without: see `decode`; `without`
    is the prompt that guidance leads away from, in place of the one prompt.
    """

    mode: GenerationMode
    spans: Mapping[str, CodeSpan]
    fixed: Mapping[Place, int] | None = None
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
    thinking: whether each prompt begins a thinking block, which the text then goes on with.
    context: encodes the media once more, which is only done to explain an error.
    form: that texts are held to, made ready; it begins where a row's answer does.
    """

    model: MultimodalNetwork
    options: GenerationOptions
    decoder: Decoder
    usage: list[Usage]
    room: int
    stop_ids: list[int]
    thinking: list[bool]
    context: Callable[[], MediaContext]
    writing: Writing | None = None
    form: FormGrammar | None = None

    def constraints(self) -> list[Constraint] | None:
        """The state of each prompt's row at its start; None where nothing restricts it."""
        rows = len(self.usage)
        if self.writing is not None:
            vocabulary = self.model.language_model.vocabulary
            state = MediaGrammar(
                self.writing.mode, self.writing.spans, range(vocabulary.end_of_chunk_id + 1), frozenset(self.stop_ids),
                self.options.max_new_tokens, self.room, self.writing.fixed or {},
            )  # fmt: skip
            return list[Constraint]([state] * rows)
        stop, decode = self.options.stop_strings, self.model.processor.decode
        state = Together.of(
            StopStrings.begin(stop, decode) if stop else None,
            None if self.form is None else self.form.begin(self.room),
        )
        return None if state is None else [state] * rows

    def steps(self, generator: torch.Generator | None, constraints: list[Constraint] | None) -> Iterator[Step]:
        """Steps of `num_return_sequences` rows per prompt; `constraints`: of these rows."""
        scale = 1.0 if self.writing is None else self.writing.guidance_scale
        try:
            yield from decode(self.decoder, self.options, self.stop_ids, generator, constraints, scale, self.room)
        except NonFiniteLogitsError as error:
            raise self._explained(error) from error

    @torch.no_grad()
    def _explained(self, error: NonFiniteLogitsError) -> NonFiniteLogitsError:
        """The error with the layer where it began, for which all is computed once more."""
        with watching(self.model, error.precision) as found:
            self.decoder.anew(self.context())
        return NonFiniteLogitsError(error.step, found.dtype, found.name)

    def results(
        self, generator: torch.Generator | None = None, progress: Progress | None = None
    ) -> list[list[GenerationResult]]:
        """Results `[prompt][return sequence]`."""
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
        for step in self.steps(generator, constraints):
            steps.append(step)
            if progress is not None:
                progress("codes", len(steps), self.room)
        ids, log_probs, ended = (
            torch.stack([getattr(step, name) for step in steps], dim=1) for name in ("tokens", "log_probs", "ended")
        )
        lengths = (~ended).sum(1).tolist()
        rows = [
            self.result(
                row // count, own[:length], values[:length], None if constraints is None else constraints[row].finished
            )
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
    ) -> GenerationResult:
        """The result of the ids that a row has written; `finished`: what its constraint says of its end."""
        stops = set(self.stop_ids)
        stopped = bool(ids) and ids[-1] in stops
        reason = finished or ("stop" if stopped else "length")
        written = list(ids[:-1] if stopped else ids)
        usage = replace(self.usage[prompt], generated_tokens=len(ids))
        if self.writing is None:
            text = cut_at(self.model.processor.decode(written), self.options.stop_strings)[0]
            parts: tuple[str | Codes, ...] = (text,) if text else ()
        else:
            parts = tuple(parts_of(self.model, written))
            text = "".join(part for part in parts if isinstance(part, str))
        return GenerationResult(
            text, tuple(ids), tuple(log_probs), reason, usage, score, parts, self.thinking[prompt], self.options.form
        )


@torch.no_grad()
def request(
    model: MultimodalNetwork,
    prompts: Sequence[Sequence[Any]],
    options: GenerationOptions,
    writing: Writing | None = None,
) -> Request:
    """Encodes prompts and their media. All that can be wrong with a request is found here.

    With `writing` there is one prompt, and `options.max_new_tokens` counts the text alone: a medium that is begun is
    always finished.
    """
    if writing is not None and options.stop_strings:
        raise ValueError("stop strings are for text alone: leave stop empty")
    if writing is not None and options.form is not None:
        raise ValueError("choices, regex and json_schema are for text alone: leave them out where media are written")
    stop_ids = [*model.language_model.stop_ids, *options.stop_token_ids]
    form = options.form
    ready = None if form is None else FormGrammar.of(form, model.processor, stop_ids, options.max_new_tokens)
    rows = [row if isinstance(row, (list, tuple)) else [row] for row in prompts]
    if writing is not None and writing.guidance_scale != 1.0:
        rows.append(list(writing.without or []))
    examples = [model.processor.encode(row) for row in rows]
    batch = model.processor.collate(examples, padding_side="left")
    batch.labels = None
    with model.changes.passing():
        since = model.changes.count
        batch = batch.to(model.device)
        room_for(model, writing, options, batch)  # what is too long without its media is not encoded
        again = functools.partial(model.media_context, batch, [example.media for example in examples])
        context = again()
        batch = context.placed(batch)
        room = room_for(model, writing, options, batch)
        latents = context.latents_per_row()
        usage = [
            Usage(len(example.input_ids), len(example.media), count, 0)
            for example, count in zip(examples[: len(prompts)], latents, strict=False)
        ]
        decoder = Decoder(model.language_model, context, batch, room, codes=writing is not None, since=since)
    if any(latents) and model.fusion.is_untrained:
        warnings.warn(UNTRAINED, stacklevel=2)
    thinking = [begins_thinking(row) for row in rows]
    return Request(model, options, decoder, usage, room, stop_ids, thinking, again, writing, ready)


def room_for(model: MultimodalNetwork, writing: Writing | None, options: GenerationOptions, batch: Batch) -> int:
    """How many tokens may be written after a batch; ValueError where the language model has too few positions."""
    length, room = batch.input_ids.shape[1], options.max_new_tokens
    if writing is not None:
        room = room_for_media(model, writing, options, length)
    model.language_model.check_length(length + room)
    return room


def room_for_media(model: MultimodalNetwork, writing: Writing, options: GenerationOptions, prompt_length: int) -> int:
    """How many tokens may be written: one medium, or text with as many media as there are positions for."""
    room = most = max(longest(span) for span in writing.spans.values())
    if writing.mode == "any":
        room = options.max_new_tokens + MAX_MEDIA * most
        if (positions := model.language_model.max_length) is not None:
            room = max(1, min(room, positions - prompt_length))
    return room


def parts_of(model: MultimodalNetwork, ids: Sequence[int]) -> Iterator[str | Codes]:
    """Text and codes in turn, empty texts left out; a medium that was not finished is left out as well."""
    spans = {span.begin: span for span in model.language_model.vocabulary.spans.values()}
    words: list[int] = []
    place = 0
    while place < len(ids):
        span = spans.get(ids[place])
        if span is None:
            words.append(ids[place])
            place += 1
            continue
        if words and (text := model.processor.decode(words)):
            yield text
        words = []
        end = next((at + 1 for at in range(place, len(ids)) if ids[at] == span.end), None)
        if end is None:
            return
        yield Codes(span.layout.modality, span.to_codes(list(ids[place:end])))
        place = end
    if words and (text := model.processor.decode(words)):
        yield text
