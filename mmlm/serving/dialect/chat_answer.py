"""One answer of a chat in the forms of the dialect: whole, or as the events of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterable
from typing import Any, Literal

from mmlm.generation.options import GenerationOptions
from mmlm.generation.result import GenerationResult, TopLogProbs
from mmlm.prompting.parts import Part
from mmlm.prompting.thinking import begins_thinking
from mmlm.serving.dialect.chat_request import ChatRequest
from mmlm.serving.dialect.reasoning import ThoughtRow, deltas, how_it_thinks, message_of
from mmlm.serving.dialect.tools import ToolAnswers, ToolRow
from mmlm.serving.models import Loaded
from mmlm.serving.tokens import Submitted


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
        return {**self.head("chat.completion"), "choices": choices, "usage": usage_of(results)}

    async def stream(self, running: Submitted, usage: bool = False) -> AsyncIterator[dict[str, Any] | str]:
        """The events of a stream. usage: whether it comes at the end though it was not asked for."""
        rows = [_Row(self) for _ in range(self.options.num_return_sequences)]
        for row in range(len(rows)):
            yield self.chunk(row, {"role": "assistant", "content": ""})
        async for token in running.pieces:
            row = rows[token.row]
            for delta in row.push(token.id, token.log_prob, token.top):
                yield self.chunk(token.row, delta, row.log_probs())
        results = running.ticket.results(0)
        for index, (row, result) in enumerate(zip(rows, results, strict=True)):
            for delta in row.rest() or ([{"content": ""}] if row.waiting else []):
                yield self.chunk(index, delta, row.log_probs())
            yield self.chunk(index, {}, reason=row.reason(result))
        for event in self.ending(usage_of(results), usage):
            yield event

    def ending(self, used: dict[str, Any], usage: bool = False) -> list[dict[str, Any] | str]:
        """The last events of a stream: what was used, where it was asked for, and the mark of the end."""
        wanted = usage or (self.asked.stream_options is not None and self.asked.stream_options.include_usage)
        last = {**self.head("chat.completion.chunk"), "choices": [], "usage": used}
        return [last, "[DONE]"] if wanted else ["[DONE]"]

    def head(self, kind: Literal["chat.completion", "chat.completion.chunk"]) -> dict[str, Any]:
        """What an answer, or a piece of its stream, begins with."""
        return {"id": self.number, "object": kind, "created": self.created, "model": self.loaded.name}

    def chunk(
        self, row: int, delta: dict[str, Any], log_probs: dict[str, Any] | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        """An event of a stream with a piece of one row."""
        choice = {"index": row, "delta": delta, "logprobs": log_probs, "finish_reason": reason}
        return {**self.head("chat.completion.chunk"), "choices": [choice], "usage": None}

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
