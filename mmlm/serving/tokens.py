"""The tokens of a request, from the engine's thread into the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from mmlm.generation.options import GenerationOptions
from mmlm.generation.request import Writing
from mmlm.generation.result import GenerationResult
from mmlm.serving.engine import Engine
from mmlm.serving.ticket import Ticket, Token


class Tokens:
    """Tokens of a ticket as an asynchronous iterator, which ends when the request does."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Token | None] = asyncio.Queue()
        self._waiting: deque[Token | None] = deque()  # what was taken out of the queue and not looked at yet

    def listen(self, token: Token | None) -> None:
        """For the engine, which calls it in its own thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._queue.put_nowait, token)

    def __aiter__(self) -> AsyncIterator[Token]:
        return self

    async def __anext__(self) -> Token:
        await self.begun()
        if (token := self._waiting.popleft()) is None:
            self._waiting.append(None)
            raise StopAsyncIteration
        return token

    async def begun(self) -> None:
        """Waits until there is a token to take, or no more will come."""
        if not self._waiting:
            self._waiting.append(await self._queue.get())


@dataclass(frozen=True, eq=False)
class Submitted:
    """A request that the engine works on: its tokens as they come, and its results."""

    ticket: Ticket
    tokens: Tokens

    async def begun(self) -> None:
        """Waits for the first token; what the request failed with before it is raised."""
        await self.tokens.begun()
        if self.ticket.is_done:
            self.ticket.results(0)

    async def results(self) -> list[GenerationResult]:
        """The results, once it has ended; what it failed with is raised."""
        async for _ in self.tokens:
            pass
        return self.ticket.results(0)


@asynccontextmanager
async def submitted(
    engine: Engine, prompt: Sequence[Any], options: GenerationOptions, writing: Writing | None, timeout: float
) -> AsyncIterator[Submitted]:
    """A request in the engine, which is cancelled where this context ends before it does."""
    tokens = Tokens()
    ticket = engine.submit(prompt, options, writing, timeout=timeout, listener=tokens.listen)
    try:
        yield Submitted(ticket, tokens)
    finally:
        ticket.cancel()
