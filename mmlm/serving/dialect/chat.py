"""/v1/chat/completions: the next answer of a conversation, whole or as a stream."""

from __future__ import annotations

import functools
import threading
from contextlib import AsyncExitStack
from dataclasses import replace

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from mmlm.generation.media import check_steps
from mmlm.generation.options import GenerationOptions
from mmlm.prompting.parts import Part
from mmlm.prompting.thinking import Opening
from mmlm.serving.clients import EventStream, answered
from mmlm.serving.context import Context, context_of
from mmlm.serving.dialect.chat_answer import Answer
from mmlm.serving.dialect.chat_drawn import DrawnAnswer, pictures_of
from mmlm.serving.dialect.chat_request import ChatRequest
from mmlm.serving.dialect.chat_spoken import SpokenAnswer
from mmlm.serving.dialect.messages import check_parts, has_sound, heard_messages, read_messages
from mmlm.serving.dialect.reasoning import is_asked_for, shares
from mmlm.serving.dialect.tools import ToolAnswers, demanded
from mmlm.serving.dialect.written import check_writes, seed_of
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
        if asked.medium is None:
            if not asked.stream:
                return JSONResponse(answer.whole(await running.results()))
            events = answer.stream(running)
        else:
            made = SpokenAnswer(answer, context) if asked.medium == "audio" else DrawnAnswer(answer, context)
            if not asked.stream:
                return JSONResponse(await made.whole(running))
            events = made.stream(running)
        await running.begun()  # what is wrong with the request is told by the status, not in the stream
        return EventStream(events, stack.pop_all())
    raise AssertionError("a stack of these contexts suppresses nothing")


async def begun(asked: ChatRequest, context: Context, stack: AsyncExitStack) -> tuple[Answer, Submitted]:
    """An answer in the engine, until the stack is closed, and the forms that it is given in."""
    asked.check()
    loaded = await stack.enter_async_context(context.using(asked.model))
    if asked.medium is not None:
        check_writes(loaded, asked.medium)
        check_steps(loaded.model, asked.medium, asked.steps)
    workers = context.slow if has_sound(asked.messages) else context.quick
    left = threading.Event()
    prepared = functools.partial(_prepared, asked, loaded, context, left)
    prompt, options, tools = await workers.run(prepared, left)
    writing = pictures_of(asked, loaded) if asked.medium == "image" else None
    timeout = context.settings.limits.timeout
    running = await stack.enter_async_context(submitted(loaded.engine, prompt, options, writing, timeout))
    stack.callback(context.metrics.note_ticket, loaded.name, running.ticket)
    return Answer(asked, loaded, prompt, options, tools), running


def _prepared(
    asked: ChatRequest, loaded: Loaded, context: Context, left: threading.Event
) -> tuple[list[Part], GenerationOptions, ToolAnswers | None]:
    """The prompt of a conversation, how to decode, and how to read calls where there may be some.

    left: set once nobody waits for it any more.
    """
    door = context.door()
    model, turns = loaded.model, read_messages(asked.messages, door)
    check_parts(model, loaded.name, turns)
    turns = heard_messages(loaded, turns, asked.mode, asked.language, door, left)
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
    if asked.medium == "image":
        options = replace(options, seed=seed_of(asked.seed))  # which the diffusion decoder draws by as well
    if demand is None:
        return prompt, options, None
    stop = (*options.stop_strings, *demand.offer.stop)
    options = replace(options, stop=stop, constraint=demand.constraint(prompt))
    return prompt, options, ToolAnswers(model, demand, prompt) if demand.offer.tools else None
