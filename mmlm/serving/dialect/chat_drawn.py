"""Answers of a chat with pictures, in the form of OpenRouter: as `images` of the message."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

from mmlm.generation.answer_text import AnswerText
from mmlm.generation.media import render
from mmlm.generation.request import Writing
from mmlm.generation.result import GenerationResult
from mmlm.generation.text import Pieces
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.code_layout import CodeSpan
from mmlm.prompting.parts import Codes
from mmlm.serving.context import Context
from mmlm.serving.dialect.chat_answer import Answer, usage_of
from mmlm.serving.dialect.chat_request import ChatRequest
from mmlm.serving.dialect.images import in_base64
from mmlm.serving.dialect.reasoning import deltas
from mmlm.serving.dialect.written import nth_seed
from mmlm.serving.models import Loaded
from mmlm.serving.tokens import Submitted


def pictures_of(asked: ChatRequest, loaded: Loaded) -> Writing:
    """What may be written: text with pictures wherever the model begins one, or where no text is wanted, a picture."""
    spans = {"image": loaded.model.language_model.vocabulary.spans["image"]}
    return Writing("any" if "text" in (asked.modalities or ()) else "image", spans)


class DrawnAnswer:
    """An answer with the pictures that the model writes in it."""

    def __init__(self, answer: Answer, context: Context) -> None:
        self.answer, self.context = answer, context

    async def whole(self, running: Submitted) -> dict[str, Any]:
        """A chat.completion."""
        results = await running.results()
        found = self.answer.whole(results)
        for choice, result in zip(found["choices"], results, strict=True):
            codes = [part for part in result.parts if isinstance(part, Codes)]
            if pictures := [await self._picture(index, one) for index, one in enumerate(codes)]:
                choice["message"]["images"] = pictures
        return {**found, "usage": self._usage(results)}

    async def stream(self, running: Submitted, usage: bool = False) -> AsyncIterator[dict[str, Any] | str]:
        """The events of a stream. Each picture is one piece of it, once its last code is written.

        usage: whether it comes at the end though it was not asked for.
        """
        answer = self.answer
        rows = [
            DrawnRow(answer.loaded.model, answer.stop_ids, answer.begun)
            for _ in range(answer.options.num_return_sequences)
        ]
        for row in range(len(rows)):
            yield answer.chunk(row, {"role": "assistant", "content": ""})
        async for token in running.pieces:
            row = rows[token.row]
            for delta in row.push(token.id):
                yield answer.chunk(token.row, delta)
            if row.codes is not None:
                yield answer.chunk(token.row, {"images": [await self._picture(row.pictures - 1, row.codes)]})
        results = running.ticket.results(0)
        for index, (row, result) in enumerate(zip(rows, results, strict=True)):
            for delta in row.rest():
                yield answer.chunk(index, delta)
            yield answer.chunk(index, {}, reason=result.finish_reason)
        for event in answer.ending(self._usage(results), usage):
            yield event

    async def _picture(self, index: int, codes: Codes) -> dict[str, Any]:
        """One of the pictures of a row. Each is decoded by itself, so that a stream has the same as a whole answer."""
        seed, steps = nth_seed(self.answer.options.seed or 0, index), self.answer.asked.steps

        def drawn() -> str:
            (picture,) = render(self.answer.loaded.model, [codes], steps, seed)
            return in_base64(picture, "png")

        data = await self.context.quick.run(drawn)
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}, "index": index}

    def _usage(self, results: Sequence[GenerationResult]) -> dict[str, Any]:
        used, first = usage_of([*results]), self.answer.loaded.model.language_model.vocabulary.code_offset
        codes = sum(token >= first for result in results for token in result.token_ids)
        return {**used, "completion_tokens_details": {**used["completion_tokens_details"], "image_tokens": codes}}


class DrawnRow:
    """One row of a stream: text and pictures in turn.

    stop_ids: tokens that end it. begun: whether the prompt has begun a thought that nobody asked for.
    codes: those of the picture that the last token has completed. pictures: how many are complete.
    """

    def __init__(self, model: MultimodalNetwork, stop_ids: Collection[int], begun: bool) -> None:
        self._spans = {span.begin: span for span in model.language_model.vocabulary.spans.values()}
        self._decode, self._stops = model.processor.decode, stop_ids
        self._text, self._answer = Pieces(self._decode), AnswerText(begun)
        self._span: CodeSpan | None = None
        self._ids: list[int] = []
        self.codes: Codes | None = None
        self.pictures = 0

    def push(self, token: int) -> list[dict[str, Any]]:
        """The deltas of text that one more token settles."""
        self.codes = None
        if self._span is not None:
            self._ids.append(token)
            if token == self._span.end:
                self.codes = Codes(self._span.layout.modality, self._span.to_codes(self._ids))
                self._span, self.pictures = None, self.pictures + 1
            return []
        if (span := self._spans.get(token)) is not None:
            settled, self._text = self._text.rest(), Pieces(self._decode)  # texts between pictures are decoded apart
            self._span, self._ids = span, [token]
            return self._told(settled)
        return [] if token in self._stops else self._told(self._text.push(token))

    def rest(self) -> list[dict[str, Any]]:
        """What is left when no more tokens come."""
        found, more = self._told(self._text.rest()), self._answer.rest()
        return found + deltas(self._answer.thought, more)

    def _told(self, piece: str) -> list[dict[str, Any]]:
        text = self._answer.push(piece)
        return deltas(self._answer.thought, text)
