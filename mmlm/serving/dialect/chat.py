"""/v1/chat/completions: the next answer of a conversation, whole or as a stream."""

from __future__ import annotations

import functools
import threading
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mmlm.generation.options import GenerationOptions
from mmlm.generation.result import GenerationResult
from mmlm.generation.text import Pieces
from mmlm.prompting.parts import Part
from mmlm.prompting.thinking import begins_thinking
from mmlm.serving.clients import EventStream, answered
from mmlm.serving.context import Context, context_of
from mmlm.serving.dialect.answer_text import AnswerText
from mmlm.serving.dialect.asked import Asked, Seed, Share, Temperature
from mmlm.serving.dialect.messages import check_parts, has_sound, heard_messages, read_messages
from mmlm.serving.errors import ApiError
from mmlm.serving.models import Loaded
from mmlm.serving.tokens import Submitted, submitted
from mmlm.tasks.chat import Mode, chat_prompt, room

router = APIRouter()

Stops = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
    Field(max_length=4),
]


class StreamOptions(BaseModel):
    """What a stream holds besides the answer."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    include_obfuscation: bool = False  # against guessing texts by the sizes of packets: there is none


class ChatRequest(Asked):
    """The body of a request. mode, language and chat_template_kwargs are those of `mmlm.tasks.chat.chat`."""

    no_effect = (
        "user", "store", "metadata", "service_tier", "prompt_cache_key", "prompt_cache_options",
        "prompt_cache_retention", "safety_identifier", "parallel_tool_calls",
    )  # fmt: skip
    not_yet = {
        "response_format": [{"type": "text"}], "tools": [[]], "tool_choice": ["none", "auto"], "functions": [[]],
        "function_call": ["none", "auto"], "top_logprobs": [0], "frequency_penalty": [0], "presence_penalty": [0],
        "logit_bias": [{}], "modalities": [["text"]], "audio": [], "prediction": [], "moderation": [],
        "reasoning_effort": [], "verbosity": [], "web_search_options": [],
    }  # fmt: skip

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stop: Stops | None = None
    seed: Seed | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    logprobs: bool | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=10**7)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=10**7)] | None = None
    mode: Mode = "transcript"
    language: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def check(self) -> None:
        """ApiError for fields that contradict each other."""
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options are for streams: send stream=true", "stream_options", "invalid_value")
        if self.temperature is not None and self.temperature < 1e-6 and (self.n or 1) > 1:
            message = "n answers at temperature 0 would all be the same: raise the temperature"
            raise ApiError(400, message, "n", "invalid_value")

    def options(self, most: int) -> GenerationOptions:
        """How to decode: the most likely tokens, unless temperature, top_p or n asks for samples."""
        sampled = (self.n or 1) > 1 or self.temperature is not None or self.top_p is not None
        if self.temperature is not None and self.temperature < 1e-6:
            sampled = False
        return GenerationOptions(
            max_new_tokens=self.max_completion_tokens or self.max_tokens or most,
            do_sample=sampled,
            temperature=1.0 if self.temperature is None or not sampled else self.temperature,
            top_p=self.top_p if sampled else None,
            num_return_sequences=self.n or 1,
            stop=() if self.stop is None else self.stop,
            seed=self.seed,
        )


@router.post("/v1/chat/completions")
async def chat_completions(asked: ChatRequest, request: Request) -> Response:
    """The answer, or a stream of its pieces."""
    return await answered(request, _answer(asked, context_of(request)))


async def _answer(asked: ChatRequest, context: Context) -> Response:
    asked.check()
    async with AsyncExitStack() as stack:
        loaded = await stack.enter_async_context(context.using(asked.model))
        workers = context.slow if has_sound(asked.messages) else context.quick
        left = threading.Event()
        prompt, options = await workers.run(functools.partial(_prepared, asked, loaded, context, left), left)
        timeout = context.settings.limits.timeout
        running = await stack.enter_async_context(submitted(loaded.engine, prompt, options, None, timeout))
        stack.callback(context.metrics.note_ticket, loaded.name, running.ticket)
        answer = _Answer(asked, loaded, begins_thinking(prompt))
        if not asked.stream:
            return JSONResponse(answer.whole(await running.results()))
        await running.begun()  # what is wrong with the request is told by the status, not in the stream
        return EventStream(answer.stream(running, options), stack.pop_all())
    raise AssertionError("a stack of these contexts suppresses nothing")


def _prepared(
    asked: ChatRequest, loaded: Loaded, context: Context, left: threading.Event
) -> tuple[list[Part], GenerationOptions]:
    """The prompt of a conversation, and how to decode. left: set once nobody waits for it any more."""
    turns = read_messages(asked.messages, context.door())
    check_parts(loaded.model, loaded.name, turns)
    turns = heard_messages(loaded.model, turns, asked.mode, asked.language, left)
    prompt = chat_prompt(loaded.model, turns, mode="features", chat_template_kwargs=asked.chat_template_kwargs)
    return prompt, asked.options(room(loaded.model, [prompt]))


class _Answer:
    """One answer in the forms of the dialect."""

    def __init__(self, asked: ChatRequest, loaded: Loaded, thinking: bool) -> None:
        self.asked, self.loaded, self.thinking = asked, loaded, thinking
        self.decode = loaded.model.processor.decode
        self.stop_ids = frozenset(loaded.model.language_model.stop_ids)
        self.number, self.created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    def whole(self, results: list[GenerationResult]) -> dict[str, Any]:
        """A chat.completion."""
        choices = [
            {
                "index": row,
                "message": {"role": "assistant", "content": result.answer.strip(), "refusal": None},
                "logprobs": self._log_probs(zip(result.token_ids, result.log_probs, strict=True)),
                "finish_reason": result.finish_reason,
            }
            for row, result in enumerate(results)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": usage_of(results)}

    async def stream(self, running: Submitted, options: GenerationOptions) -> AsyncIterator[dict[str, Any] | str]:
        """The events of a stream."""
        rows = [_Row(self, options) for _ in range(options.num_return_sequences)]
        for row in range(len(rows)):
            yield self._chunk(row, {"role": "assistant", "content": ""})
        async for token in running.tokens:
            row = rows[token.row]
            if piece := row.push(token.id, token.log_prob):
                yield self._chunk(token.row, {"content": piece}, row.log_probs())
        results = running.ticket.results(0)
        for index, (row, result) in enumerate(zip(rows, results, strict=True)):
            if (piece := row.rest()) or row.waiting:
                yield self._chunk(index, {"content": piece}, row.log_probs())
            yield self._chunk(index, {}, reason=result.finish_reason)
        if self.asked.stream_options is not None and self.asked.stream_options.include_usage:
            yield {**self._head("chat.completion.chunk"), "choices": [], "usage": usage_of(results)}
        yield "[DONE]"

    def _head(self, kind: Literal["chat.completion", "chat.completion.chunk"]) -> dict[str, Any]:
        return {"id": self.number, "object": kind, "created": self.created, "model": self.loaded.name}

    def _chunk(
        self, row: int, delta: dict[str, Any], log_probs: dict[str, Any] | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": row, "delta": delta, "logprobs": log_probs, "finish_reason": reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice], "usage": None}

    def _log_probs(self, tokens: Any) -> dict[str, Any] | None:
        """Of each token that is no end its text and log-probability, where they were asked for."""
        if not self.asked.logprobs:
            return None
        kept = [(self.decode([token]), value) for token, value in tokens if token not in self.stop_ids]
        content = [{"token": text, "logprob": value, "bytes": _bytes(text), "top_logprobs": []} for text, value in kept]
        return {"content": content, "refusal": None}


class _Row:
    """One row of a stream."""

    def __init__(self, answer: _Answer, options: GenerationOptions) -> None:
        self.answer = answer
        self.pieces, self.text = Pieces(answer.decode, options.stop_strings), AnswerText(answer.thinking)
        self.waiting: list[tuple[int, float]] = []  # tokens whose log-probabilities were not given yet

    def push(self, token: int, log_prob: float) -> str:
        """The piece of the answer that one more token settles."""
        if token in self.answer.stop_ids:
            return ""
        if self.answer.asked.logprobs:
            self.waiting.append((token, log_prob))
        return self.text.push(self.pieces.push(token))

    def rest(self) -> str:
        """What is left when no more tokens come."""
        return self.text.push(self.pieces.rest()) + self.text.rest()

    def log_probs(self) -> dict[str, Any] | None:
        """Those of the tokens since the last call."""
        found, self.waiting = self.answer._log_probs(self.waiting), []
        return found


def _bytes(text: str) -> list[int] | None:
    """A token's bytes; None for one that is a part of a character."""
    return None if "\N{REPLACEMENT CHARACTER}" in text else list(text.encode())


def usage_of(results: list[GenerationResult]) -> dict[str, Any]:
    """Tokens of the prompt, of all answers, and of both; and how many of the prompt were not read again."""
    prompt, written = results[0].usage.prompt_tokens, sum(len(result.token_ids) for result in results)
    known = {"cached_tokens": results[0].usage.known_tokens}
    return {
        "prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written,
        "prompt_tokens_details": known,
    }  # fmt: skip
