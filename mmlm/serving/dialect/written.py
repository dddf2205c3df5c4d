"""Pictures and sounds that a model writes: their codes by the engine, beside everybody's texts, then rendered."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal

from pydantic import Field

from mmlm.generation.media import Medium, check_steps
from mmlm.generation.options import GenerationOptions
from mmlm.generation.request import Writing
from mmlm.generation.result import GenerationResult
from mmlm.serving.context import Context
from mmlm.serving.dialect.asked import Asked, Seed, Share
from mmlm.serving.errors import lacks
from mmlm.serving.models import Loaded
from mmlm.serving.tokens import submitted
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
    temperature: Annotated[float, Field(ge=1e-6, le=100, allow_inf_nan=False)] = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    top_p: Share | None = None


def check_writes(loaded: Loaded, modality: Literal["image", "audio"]) -> None:
    """ApiError for a model that writes no such media."""
    if modality not in loaded.model.language_model.vocabulary.spans:
        raise lacks(loaded.name, MODALITIES[modality], "name a model that has one, trained on its codes", "model")


async def written(
    asked: MediaRequest, context: Context, modality: Literal["image", "audio"], count: int, prepare: Prepare
) -> tuple[list[Medium], list[GenerationResult]]:
    """Media, and the results that hold what they used. prepare: gives prompt and writing, in a thread."""
    seed = random.getrandbits(63) if asked.seed is None else asked.seed
    async with AsyncExitStack() as stack:
        loaded = await stack.enter_async_context(context.using(asked.model))
        check_writes(loaded, modality)
        check_steps(loaded.model, modality, asked.steps)
        options: GenerationOptions = sampled(count, asked.temperature, asked.top_k, asked.top_p, seed)
        prompt, writing = await context.quick.run(functools.partial(prepare, loaded))
        timeout = context.settings.limits.timeout
        running = await stack.enter_async_context(submitted(loaded.engine, prompt, options, writing, timeout))
        results = await running.results()
        context.metrics.note_ticket(loaded.name, running.ticket)
        made = await context.quick.run(functools.partial(rendered, loaded.model, results, asked.steps, seed))
        return [medium_of(result) for result in made], results
    raise AssertionError("a stack of these contexts suppresses nothing")
