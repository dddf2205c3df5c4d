"""What follows a prompt of text, pictures and sounds: at once, or piece by piece."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any, Literal, Unpack

import torch

from mmlm.generation.constraints.codes import GenerationMode
from mmlm.generation.media import check_steps, media_spans, render
from mmlm.generation.options import GenerationKeywords, GenerationOptions, takes_options
from mmlm.generation.request import Progress, Request, Writing, request
from mmlm.generation.result import GenerationResult, TopLogProbs
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.parts import Codes
from mmlm.tasks.rows import Results, as_prompts


@takes_options
def generate(
    model: MultimodalNetwork,
    prompt: Any,
    *,
    batch_size: int = 32,
    generation_mode: Literal["text"] | GenerationMode = "text",
    steps: int | None = None,
    max_seconds: float = 4.0,
    progress: Progress | None = None,
    **options: Unpack[GenerationKeywords],
) -> GenerationResult | Results:
    """What follows `prompt`, a list of parts, as a `GenerationResult`; a list of such lists gives a list of results.

    A `str` in a prompt is text. A file is given as `mmlm.Image(path)`, `mmlm.Sound(path)` or a `pathlib.Path`.
    With `num_return_sequences` above 1 each prompt gives a list. Prompts are decoded `batch_size` at a time.
    generation_mode: "text"; "image" or "audio", one such medium; or "any", text with media wherever the model begins
        one. Then `result.parts` holds text, pictures and `Audio` in order, and `max_new_tokens` counts the text.
    steps: of the diffusion decoder; 0 takes the codec's own decoding; None takes 4 where there is a diffusion decoder.
    max_seconds: the longest sound. progress: called with "codes", how many are written, and how many may be.
    ValueError for a prompt that is too long, for media that do not fit the model, and for options that contradict.
    """
    settings = GenerationOptions.of(options)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if generation_mode == "text" and steps is not None:
        raise ValueError("steps are those of pictures and sounds: leave them out, or pass generation_mode")
    prompts, batch = as_prompts(prompt)
    writing = None if generation_mode == "text" else _writing(model, generation_mode, steps, max_seconds)
    generator = settings.sampler(model.device)  # one for all batches: each draws what the last one left
    results: list[list[GenerationResult]] = []
    for start in range(0, len(prompts), batch_size):
        rows = request(model, prompts[start : start + batch_size], settings, writing).results(generator, progress)
        if writing is not None:
            rows = [[with_media(model, one, steps, settings.seed or 0) for one in row] for row in rows]
        results += rows
    found = [row[0] for row in results] if settings.num_return_sequences == 1 else results
    return found if batch else found[0]


@takes_options
def stream(model: MultimodalNetwork, prompt: Any, **options: Unpack[GenerationKeywords]) -> TextStream:
    """The text that follows one prompt, piece by piece as it is written; joined, the pieces are `generate`'s text.

    With `thinking` these are pieces of the answer; those of the thought come before, from the stream's `thinking`.
    Everything that can be wrong is found at the call, not at the first piece.
    """
    settings = GenerationOptions.of(options)
    if settings.num_beams > 1 or settings.num_return_sequences > 1:
        raise ValueError("a stream is one text: use neither beams nor num_return_sequences")
    prompts, batch = as_prompts(prompt)
    if batch:
        raise ValueError("a stream takes one prompt, not a batch")
    return TextStream(request(model, prompts, settings))


class TextStream(Iterator[str]):
    """Pieces of a text while it is written; `result` holds the `GenerationResult` once they have all been read."""

    def __init__(self, running: Request) -> None:
        self._running = running
        self._told = running.telling()
        self._pieces = self._read()
        self._next: str | None = None  # the beginning of the answer, where the thought was read up to it
        self._result: GenerationResult | None = None

    def __next__(self) -> str:
        for _ in self.thinking:
            pass
        if self._next is None:
            return next(self._pieces)[1]
        piece, self._next = self._next, None
        return piece

    @property
    def thinking(self) -> Iterator[str]:
        """The pieces of the thought that have not been read, as they are written; none where nothing is thought.

        Who reads the answer at once passes over the thought, which `result.thinking` has as well.
        """
        while self._told.is_thinking and self._next is None:
            thought, answer = next(self._pieces, ("", ""))
            if answer:
                self._next = answer
            if not thought and not answer:
                return
            if thought:
                yield thought

    def close(self) -> None:
        """Ends the text where it is."""
        self._pieces.close()

    @property
    def result(self) -> GenerationResult:
        """The whole result; RuntimeError while the text is still being written."""
        if self._result is None:
            raise RuntimeError("the text is not finished: read all of the stream's pieces first")
        return self._result

    def _read(self) -> Generator[tuple[str, str]]:
        """Pieces of the thought and of the answer."""
        running, options = self._running, self._running.options
        constraints = running.constraints()
        ids: list[int] = []
        log_probs: list[float] = []
        top: list[TopLogProbs] = []
        for step in running.steps(options.sampler(running.model.device), constraints):
            token = int(step.tokens[0])
            ids.append(token)
            log_probs.append(float(step.log_probs[0]))
            top.append(step.tops()[0])
            if token in running.stop_ids:
                break
            pieces = self._told.push(token)
            if any(pieces):
                yield pieces
            if self._told.stopped:
                break
        pieces = self._told.rest()
        if any(pieces):
            yield pieces
        self._result = running.result(0, ids, log_probs, constraints[0].finished if constraints else None, top=top)


def _writing(model: MultimodalNetwork, mode: GenerationMode, steps: int | None, max_seconds: float) -> Writing:
    spans = media_spans(model, mode, max_seconds)
    for modality in spans:
        check_steps(model, modality, steps)
    return Writing(mode, spans)


@torch.no_grad()
def with_media(model: MultimodalNetwork, result: GenerationResult, steps: int | None, seed: int) -> GenerationResult:
    """The result with its codes turned into pictures and sounds."""
    media = {
        modality: iter(
            render(
                model, [part for part in result.parts if isinstance(part, Codes) and part.modality == modality],
                steps if modality in model.decoders else None, seed,
            )
        )
        for modality in ("image", "audio")
    }  # fmt: skip
    parts = tuple(next(media[part.modality]) if isinstance(part, Codes) else part for part in result.parts)
    return replace(result, parts=parts)
