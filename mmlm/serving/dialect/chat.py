"""/v1/chat/completions: the next answer of a conversation, whole or as a stream."""

from __future__ import annotations

import functools
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from mmlm.generation.options import GenerationOptions
from mmlm.generation.result import GenerationResult, TopLogProbs
from mmlm.prompting.parts import Part
from mmlm.prompting.thinking import Opening, begins_thinking
from mmlm.serving.clients import EventStream, answered
from mmlm.serving.context import Context, context_of
from mmlm.serving.dialect.chat_request import ChatRequest
from mmlm.serving.dialect.messages import check_parts, has_sound, heard_messages, read_messages
from mmlm.serving.dialect.reasoning import ThoughtRow, deltas, how_it_thinks, is_asked_for, message_of, shares
from mmlm.serving.dialect.tools import ToolAnswers, ToolRow, demanded
from mmlm.serving.models import Loaded
from mmlm.serving.tokens import Submitted, submitted
from mmlm.tasks.chat import chat_prompt

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(asked: ChatRequest, request: Request) -> Response:
    """The answer, or a stream of its pieces."""
    return await answered(request, _answer(asked, context_of(request)))


async def _answer(asked: ChatRequest, context: Context) -> Response:
    async with AsyncExitStack() as stack:
        answer, running = await begun(asked, context, stack)
        if not asked.stream:
            return JSONResponse(answer.whole(await running.results()))
        await running.begun()  # what is wrong with the request is told by the status, not in the stream
        return EventStream(answer.stream(running), stack.pop_all())
    raise AssertionError("a stack of these contexts suppresses nothing")


async def begun(asked: ChatRequest, context: Context, stack: AsyncExitStack) -> tuple[Answer, Submitted]:
    """An answer in the engine, until the stack is closed, and the forms that it is given in."""
    asked.check()
    loaded = await stack.enter_async_context(context.using(asked.model))
    workers = context.slow if has_sound(asked.messages) else context.quick
    left = threading.Event()
    prepared = functools.partial(_prepared, asked, loaded, context, left)
    prompt, options, tools = await workers.run(prepared, left)
    timeout = context.settings.limits.timeout
    running = await stack.enter_async_context(submitted(loaded.engine, prompt, options, None, timeout))
    stack.callback(context.metrics.note_ticket, loaded.name, running.ticket)
    return Answer(asked, loaded, prompt, options, tools), running


def _prepared(
    asked: ChatRequest, loaded: Loaded, context: Context, left: threading.Event
) -> tuple[list[Part], GenerationOptions, ToolAnswers | None]:
    """The prompt of a conversation, how to decode, and how to read calls where there may be some.

    left: set once nobody waits for it any more.
    """
    model, turns = loaded.model, read_messages(asked.messages, context.door())
    check_parts(model, loaded.name, turns)
    turns = heard_messages(model, turns, asked.mode, asked.language, left)
    demand = demanded(model, turns, asked.tools, asked.tool_choice, asked.parallel_tool_calls)
    effort, budget, keywords = asked.reasoning_effort, asked.thinking_token_budget, asked.chat_template_kwargs
    if demand is None:
        thinking = is_asked_for(effort, budget)
        prompt = chat_prompt(model, turns, mode="features", chat_template_kwargs=keywords, thinking=thinking)
    else:
        prompt = demand.prompt(model, turns, "features", None, keywords, is_asked_for(effort, budget))
    if not isinstance(prompt[-1], Opening):  # a call is required, or calls and thoughts would both be asked in words
        effort, budget = None, None
    thinking, most = shares(model, prompt, effort, budget, asked.limit)
    options = asked.options(most)
    if thinking is not False:
        options = replace(options, thinking=thinking, max_new_tokens=most)
    if demand is None:
        return prompt, options, None
    stop = (*options.stop_strings, *demand.offer.stop)
    options = replace(options, stop=stop, constraint=demand.constraint(prompt))
    return prompt, options, ToolAnswers(model, demand, prompt) if demand.offer.tools else None


class Answer:
    """One answer in the forms of the dialect."""

    def __init__(
        self, asked: ChatRequest, loaded: Loaded, prompt: list[Part], options: GenerationOptions,
        tools: ToolAnswers | None = None,
    ) -> None:  # fmt: skip
        self.asked, self.loaded, self.options, self.tools = asked, loaded, options, tools
        self.begun, self.thinks = begins_thinking(prompt), how_it_thinks(loaded.model, prompt, options)
        self.decode = loaded.model.processor.decode
        self.stop_ids = frozenset(loaded.model.language_model.stop_ids) if self.thinks is None else self.thinks.stops
        self.number, self.created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    def whole(self, results: list[GenerationResult]) -> dict[str, Any]:
        """A chat.completion."""
        choices = []
        for row, result in enumerate(results):
            message = {"role": "assistant", "content": result.answer.strip(), "refusal": None}
            reason: str = result.finish_reason
            if self.tools is not None:
                message, reason = self.tools.message(result, self.options.stop_strings)
            message |= message_of(result.thinking)
            top = result.top_log_probs or [()] * len(result.token_ids)
            log_probs = self._log_probs(zip(result.token_ids, result.log_probs, top, strict=True))
            choices.append({"index": row, "message": message, "logprobs": log_probs, "finish_reason": reason})
        return {**self._head("chat.completion"), "choices": choices, "usage": usage_of(results)}

    async def stream(self, running: Submitted, usage: bool = False) -> AsyncIterator[dict[str, Any] | str]:
        """The events of a stream. usage: whether it comes at the end though it was not asked for."""
        rows = [_Row(self) for _ in range(self.options.num_return_sequences)]
        for row in range(len(rows)):
            yield self._chunk(row, {"role": "assistant", "content": ""})
        async for token in running.tokens:
            row = rows[token.row]
            for delta in row.push(token.id, token.log_prob, token.top):
                yield self._chunk(token.row, delta, row.log_probs())
        results = running.ticket.results(0)
        for index, (row, result) in enumerate(zip(rows, results, strict=True)):
            for delta in row.rest() or ([{"content": ""}] if row.waiting else []):
                yield self._chunk(index, delta, row.log_probs())
            yield self._chunk(index, {}, reason=row.reason(result))
        if usage or (self.asked.stream_options is not None and self.asked.stream_options.include_usage):
            yield {**self._head("chat.completion.chunk"), "choices": [], "usage": usage_of(results)}
        yield "[DONE]"

    def _head(self, kind: Literal["chat.completion", "chat.completion.chunk"]) -> dict[str, Any]:
        return {"id": self.number, "object": kind, "created": self.created, "model": self.loaded.name}

    def _chunk(
        self, row: int, delta: dict[str, Any], log_probs: dict[str, Any] | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": row, "delta": delta, "logprobs": log_probs, "finish_reason": reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice], "usage": None}

    def _log_probs(self, tokens: Iterable[tuple[int, float, TopLogProbs]]) -> dict[str, Any] | None:
        """Of each token that is no end its text and log-probability, and the most likely ones, where asked for."""
        if not self.asked.logprobs:
            return None
        content = [
            self._log_prob(token, value) | {"top_logprobs": [self._log_prob(*one) for one in top]}
            for token, value, top in tokens
            if token not in self.stop_ids
        ]
        return {"content": content, "refusal": None}

    def _log_prob(self, token: int, value: float) -> dict[str, Any]:
        """A token that was or might have been written; of a control token, which decoding hides, its own name."""
        text = self.decode([token]) or str(self.loaded.model.processor.tokenizer.convert_ids_to_tokens(token) or "")
        return {"token": text, "logprob": value, "bytes": _bytes(text)}


class _Row:
    """One row of a stream."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.tools = None if answer.tools is None else ToolRow(answer.tools)
        decode = answer.decode if answer.tools is None else answer.tools.decode
        self.text = ThoughtRow(answer.thinks, decode, answer.options.stop_strings, answer.begun, self.tools is None)
        self.waiting: list[tuple[int, float, TopLogProbs]] = []  # tokens whose log-probabilities were not given yet

    def push(self, token: int, log_prob: float, top: TopLogProbs) -> list[dict[str, Any]]:
        """The deltas that one more token settles."""
        if token in self.answer.stop_ids:
            return []
        if self.answer.asked.logprobs:
            self.waiting.append((token, log_prob, top))
        thought, piece = self.text.push(token)
        return deltas(thought, piece) if self.tools is None else deltas(thought, "") + self.tools.push(piece)

    def rest(self) -> list[dict[str, Any]]:
        """What is left when no more tokens come."""
        thought, piece = self.text.rest()
        if self.tools is None:
            return deltas(thought, piece)
        return deltas(thought, "") + self.tools.push(piece) + self.tools.rest()

    def reason(self, result: GenerationResult) -> str:
        """Why the answer ended."""
        return result.finish_reason if self.tools is None else self.tools.reason(result)

    def log_probs(self) -> dict[str, Any] | None:
        """Those of the tokens since the last call."""
        found, self.waiting = self.answer._log_probs(self.waiting), []
        return found


def _bytes(text: str) -> list[int] | None:
    """A token's bytes; None for one that is a part of a character."""
    return None if "\N{REPLACEMENT CHARACTER}" in text else list(text.encode())


def usage_of(results: list[GenerationResult]) -> dict[str, Any]:
    """Tokens of the prompt, of all answers with their thoughts, and of all together; of the answers' those of thoughts,
    of the prompt's those that were not read again.
    """
    prompt, written = results[0].usage.prompt_tokens, sum(len(result.token_ids) for result in results)
    thoughts = {"reasoning_tokens": sum(result.usage.thinking_tokens for result in results)}
    known = {"cached_tokens": results[0].usage.known_tokens}
    return {
        "prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written,
        "prompt_tokens_details": known, "completion_tokens_details": thoughts,
    }  # fmt: skip
