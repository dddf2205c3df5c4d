"""/v1/responses: the same answers as of /v1/chat/completions, in the items and events of OpenAI's newer dialect.

Nothing is kept of a response, so a conversation is sent whole.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmlm.serving.clients import EventStream, answered
from mmlm.serving.context import Context, context_of
from mmlm.serving.dialect.asked import Asked, Seed, Share, Temperature
from mmlm.serving.dialect.chat import begun
from mmlm.serving.dialect.chat_answer import Answer
from mmlm.serving.dialect.chat_drawn import DrawnAnswer
from mmlm.serving.dialect.chat_request import ChatRequest
from mmlm.serving.dialect.items import misplaced, read_items
from mmlm.serving.dialect.reasoning import Effort
from mmlm.serving.dialect.response_events import Events, items_of
from mmlm.serving.dialect.response_tools import functions_of, modalities_of
from mmlm.serving.errors import ApiError
from mmlm.serving.tokens import Submitted
from mmlm.tasks.chat import Mode

router = APIRouter()

LOG_PROBS = "message.output_text.logprobs"
KEPT = (
    "this server keeps no responses: send the conversation whole, as input of messages, function_call and "
    "function_call_output items"
)

ELSEWHERE = (
    "answers with sound have no form here: ask /v1/chat/completions for them. Pictures are asked for by "
    'tools=[{"type": "image_generation"}]'
)


class TextSettings(BaseModel):
    """The field `text`: the form of the answer."""

    model_config = ConfigDict(extra="forbid")
    format: dict[str, Any] | None = None


class ReasoningSettings(BaseModel):
    """The field `reasoning`."""

    model_config = ConfigDict(extra="forbid")
    effort: Effort | None = None


class ResponseRequest(Asked):
    """The body of a request. mode, language and chat_template_kwargs are those of `mmlm.tasks.chat.chat`.

    seed, and steps of the diffusion decoder, where pictures are written, are those of a chat here.
    """

    no_effect = (
        "user", "store", "metadata", "service_tier", "prompt_cache_key", "prompt_cache_options",
        "prompt_cache_retention", "safety_identifier",
    )  # fmt: skip
    not_yet = {
        "background": [False], "max_tool_calls": [], "truncation": ["disabled"], "prompt": [], "stream_options": [],
        "moderation": [], "context_management": [],
    }  # fmt: skip

    input: str | Annotated[list[dict[str, Any]], Field(min_length=1)]
    instructions: str | None = None
    stream: bool | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=10**7)] | None = None
    text: TextSettings | None = None
    reasoning: ReasoningSettings | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    modalities: Any = None
    audio: Any = None
    seed: Seed | None = None
    steps: Annotated[int, Field(ge=0, le=1000)] | None = None
    mode: Mode = "transcript"
    language: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def chat(self) -> tuple[ChatRequest, list[int | None]]:
        """The same as a request for a chat, and of which item of the input each of its messages is.

        ApiError for what is not here, by its field.
        """
        for name in ("previous_response_id", "conversation"):
            if getattr(self, name) is not None:
                raise ApiError(400, f"{name}: {KEPT}", name, "unsupported")
        if unknown := [one for one in self.include or () if one != LOG_PROBS]:
            message = f"include: {unknown[0][:80]!r} is not here; there is {LOG_PROBS!r}"
            raise ApiError(400, message, "include", "unsupported")
        if self.modalities not in (None, ["text"]) or self.audio is not None:
            name = "modalities" if self.audio is None else "audio"
            raise ApiError(400, f"{name}: {ELSEWHERE}", name, "unsupported")
        messages, places = read_items(self.input)
        if self.instructions is not None:
            messages, places = [{"role": "system", "content": self.instructions}, *messages], [None, *places]
        functions, modalities = functions_of(self.tools or ()), modalities_of(self.tools or (), self.tool_choice)
        asked: dict[str, Any] = dict(
            model=self.model, messages=messages, stream=self.stream, temperature=self.temperature, top_p=self.top_p,
            max_completion_tokens=self.max_output_tokens, tools=functions or None,
            tool_choice=self._choice() if functions else None, modalities=modalities, seed=self.seed, steps=self.steps,
            parallel_tool_calls=self.parallel_tool_calls, logprobs=LOG_PROBS in (self.include or ()),
            top_logprobs=self.top_logprobs, response_format=self._format(),
            reasoning_effort=None if self.reasoning is None else self.reasoning.effort, mode=self.mode,
            language=self.language, chat_template_kwargs=self.chat_template_kwargs,
        )  # fmt: skip
        try:
            return ChatRequest(**asked), places
        except ValidationError as error:  # all else was checked as it came
            message = error.errors(include_url=False, include_input=False, include_context=False)[0]["msg"]
            raise ApiError(400, f"text.format: {message}", "text", "invalid_value") from None

    def _choice(self) -> Any:
        if not isinstance(self.tool_choice, dict):
            return self.tool_choice
        return {"type": self.tool_choice.get("type"), "function": {"name": self.tool_choice.get("name")}}

    def _format(self) -> dict[str, Any] | None:
        given = None if self.text is None else self.text.format
        if given is None or given.get("type") != "json_schema":
            return given
        return {"type": "json_schema", "json_schema": {name: own for name, own in given.items() if name != "type"}}


@router.post("/v1/responses")
async def create_response(asked: ResponseRequest, request: Request) -> Response:
    """The response, or the events of its making."""
    return await answered(request, _response(asked, context_of(request)))


async def _response(asked: ResponseRequest, context: Context) -> Response:
    chat, places = asked.chat()
    async with AsyncExitStack() as stack:
        try:
            answer, running = await begun(chat, context, stack)
        except ApiError as error:
            raise misplaced(error, places) from None
        drawn = None if chat.medium is None else DrawnAnswer(answer, context)
        made = _Made(asked, answer, drawn)
        if not asked.stream:
            if drawn is not None:
                return JSONResponse(await made.last(running))
            return JSONResponse(made.whole(answer.whole(await running.results())))
        await running.begun()
        return EventStream(made.events(running), stack.pop_all())
    raise AssertionError("a stack of these contexts suppresses nothing")


class _Made:
    """One response in the forms of the dialect. drawn: of an answer that may hold pictures."""

    def __init__(self, asked: ResponseRequest, answer: Answer, drawn: DrawnAnswer | None) -> None:
        self.asked, self.answer, self.drawn = asked, answer, drawn
        self.number, self.created = f"resp_{uuid.uuid4().hex}", int(time.time())

    def whole(self, completion: dict[str, Any]) -> dict[str, Any]:
        """The response of a chat.completion."""
        (choice,) = completion["choices"]
        items = items_of(choice["message"], choice["logprobs"], choice["finish_reason"])
        return self._ended(items, choice["finish_reason"], completion["usage"])

    async def last(self, running: Submitted) -> dict[str, Any]:
        """The response of a stream that nobody hears: texts and pictures in the order in which they were written."""
        last: dict[str, Any] = {}
        async for event in self.events(running):
            last = event
        return last["response"]

    async def events(self, running: Submitted) -> AsyncIterator[dict[str, Any]]:
        """The events of a stream, numbered."""
        events, number, reason, usage = Events(), 0, None, None

        def numbered(event: dict[str, Any]) -> dict[str, Any]:
            nonlocal number
            number += 1
            return {**event, "sequence_number": number - 1}

        for name in ("created", "in_progress"):
            yield numbered({"type": f"response.{name}", "response": self._response("in_progress", [])})
        async for chunk in (self.drawn or self.answer).stream(running, usage=True):
            if isinstance(chunk, str):
                break
            usage = chunk["usage"]
            for choice in chunk["choices"]:
                reason = choice["finish_reason"]
                for event in events.push(choice["delta"], choice["logprobs"]):
                    yield numbered(event)
        for event in events.rest(str(reason)):
            yield numbered(event)
        response = self._ended(events.items, str(reason), usage or {})
        yield numbered({"type": f"response.{response['status']}", "response": response})

    def _ended(self, items: list[dict[str, Any]], reason: str, usage: dict[str, Any]) -> dict[str, Any]:
        made = self._response("incomplete" if reason == "length" else "completed", items)
        details = {"reason": "max_output_tokens"} if reason == "length" else None
        used = {
            "input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"],
            "total_tokens": usage["total_tokens"], "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens_details": usage["completion_tokens_details"],
        }  # fmt: skip
        return {**made, "incomplete_details": details, "usage": used}

    def _response(self, status: str, items: list[dict[str, Any]]) -> dict[str, Any]:
        asked = self.asked
        echoed = {name: getattr(asked, name) for name in ("instructions", "max_output_tokens", "temperature", "top_p")}
        return {
            "id": self.number, "object": "response", "created_at": self.created, "status": status, "error": None,
            "incomplete_details": None, "model": self.answer.loaded.name, "output": items, **echoed,
            "parallel_tool_calls": asked.parallel_tool_calls is not False, "previous_response_id": None,
            "store": False, "tool_choice": asked.tool_choice or "auto", "tools": asked.tools or [],
            "text": {"format": (asked.text and asked.text.format) or {"type": "text"}}, "truncation": "disabled",
            "metadata": (asked.model_extra or {}).get("metadata") or {}, "usage": None,
        }  # fmt: skip
