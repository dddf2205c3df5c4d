"""Prompts that the engine works on, with their tokens as they are written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

from mmlm.generation.options import GenerationOptions
from mmlm.generation.request import Writing
from mmlm.generation.result import GenerationResult
from mmlm.serving.arriving import Arriving, arriving
from mmlm.serving.engine import Engine
from mmlm.serving.ticket import Token

Submitted: TypeAlias = Arriving[Token, list[GenerationResult]]


def submitted(
    engine: Engine, prompt: Sequence[Any], options: GenerationOptions, writing: Writing | None, timeout: float
) -> AbstractAsyncContextManager[Submitted]:
    """A prompt in the engine, which is cancelled where this context ends before it does."""
    return arriving(lambda listener: engine.submit(prompt, options, writing, timeout=timeout, listener=listener))
