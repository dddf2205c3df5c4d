"""Pictures and sounds that a model writes: their codes by the engine, beside everybody's texts, then rendered."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from mmlm.generation.media import Medium, check_steps
from mmlm.generation.options import GenerationOptions
from mmlm.generation.request import Writing
from mmlm.generation.result import GenerationResult
from mmlm.serving.context import Context
from mmlm.serving.dialect.asked import LEAST, Asked, Seed, Share
from mmlm.serving.errors import lacks
from mmlm.serving.models import Loaded
from mmlm.serving.tokens import Submitted, submitted
from mmlm.tasks.draw import medium_of, rendered, sampled

MODALITIES = {"image": "image codec", "audio": "audio codec"}

Prepare = Callable[[Loaded], tuple[Sequence[Any], Writing]]


class MediaRequest(Asked):
    """What requests for media share beyond OpenAI's fields: the options of `mmlm.tasks.draw.draw`.

    seed: None takes a new one each time.
    """

    seed: Seed | None = None
    steps: Annotated[int, Field(ge=0, le=1000)] | None = None
    guidance_scale: Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)] = 1.0
    temperature: Annotated[float, Field(ge=LEAST, le=100, allow_inf_nan=False)] = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    top_p: Share | None = None


def check_writes(loaded: Loaded, modality: Literal["image", "audio"]) -> None:
    """ApiError for a model that writes no such media."""
    if modality not in loaded.model.language_model.vocabulary.spans:
        raise lacks(loaded.name, MODALITIES[modality], "name a model that has one, trained on its codes", "model")


def seed_of(given: int | None) -> int:
    """The seed that a request gives, or a new one."""
    return random.getrandbits(63) if given is None else given


def nth_seed(seed: int, index: int) -> int:
    """The seed of one of several media: as in the library the next numbers, after the greatest the least."""
    return (seed + index + 2**63) % 2**64 - 2**63


@dataclass(frozen=True, eq=False)
class Underway:
    """Media whose codes the engine writes. steps, seed: for the diffusion decoder."""

    context: Context
    loaded: Loaded
    running: Submitted
    writing: Writing
    steps: int | None
    seed: int

    async def media(self) -> tuple[list[Medium], list[GenerationResult]]:
        """The media, once all codes are written, and the results that hold what they used."""
        results = await self.running.results()
        render = functools.partial(rendered, self.loaded.model, results, self.steps, self.seed)
        return [medium_of(result) for result in await self.context.quick.run(render)], results


async def begun_writing(
    asked: MediaRequest, context: Context, modality: Literal["image", "audio"], count: int, prepare: Prepare,
    stack: AsyncExitStack, timeout: float | None = None,
) -> Underway:  # fmt: skip
    """Media on their way, until the stack is closed.

    prepare: gives prompt and writing, in a thread. timeout: seconds; None for those of the limits.
    """
    seed = seed_of(asked.seed)
    loaded = await stack.enter_async_context(context.using(asked.model))
    check_writes(loaded, modality)
    check_steps(loaded.model, modality, asked.steps)
    options: GenerationOptions = sampled(count, asked.temperature, asked.top_k, asked.top_p, seed)
    prompt, writing = await context.quick.run(functools.partial(prepare, loaded))
    timeout = context.settings.limits.timeout if timeout is None else timeout
    running = await stack.enter_async_context(submitted(loaded.engine, prompt, options, writing, timeout))
    stack.callback(context.metrics.note_ticket, loaded.name, running.ticket)
    return Underway(context, loaded, running, writing, asked.steps, seed)


async def written(
    asked: MediaRequest, context: Context, modality: Literal["image", "audio"], count: int, prepare: Prepare,
    timeout: float | None = None,
) -> tuple[list[Medium], list[GenerationResult]]:  # fmt: skip
    """Media, and the results that hold what they used. Arguments are those of `begun_writing`."""
    async with AsyncExitStack() as stack:
        return await (await begun_writing(asked, context, modality, count, prepare, stack, timeout)).media()
    raise AssertionError("a stack of these contexts suppresses nothing")
