"""The pieces of a request, from the engine's threads into the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic

from mmlm.serving.ticket import Found, Listener, Piece, Ticket


class Pieces(Generic[Piece]):
    """Pieces of a ticket as an asynchronous iterator, which ends when the request does."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Piece | None] = asyncio.Queue()
        self._waiting: deque[Piece | None] = deque()  # what was taken out of the queue and not looked at yet

    def listen(self, piece: Piece | None) -> None:
        """For the engine, which calls it in its own thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._queue.put_nowait, piece)

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        await self.begun()
        if (piece := self._waiting.popleft()) is None:
            self._waiting.append(None)
            raise StopAsyncIteration
        return piece

    async def begun(self) -> None:
        """Waits until there is a piece to take, or no more will come."""
        if not self._waiting:
            self._waiting.append(await self._queue.get())


@dataclass(frozen=True, eq=False)
class Arriving(Generic[Piece, Found]):
    """A request that the engine works on: its pieces as they come, and its results."""

    ticket: Ticket[Piece, Found]
    pieces: Pieces[Piece]

    async def begun(self) -> None:
        """Waits for the first piece; what the request failed with before it is raised."""
        await self.pieces.begun()
        if self.ticket.is_done:
            self.ticket.results(0)

    async def results(self) -> Found:
        """The results, once it has ended; what it failed with is raised."""
        async for _ in self.pieces:
            pass
        return self.ticket.results(0)


@asynccontextmanager
async def arriving(
    submit: Callable[[Listener[Piece]], Ticket[Piece, Found]],
) -> AsyncIterator[Arriving[Piece, Found]]:
    """A request that is given to an engine with a listener; it is cancelled where this context ends before it does."""
    pieces: Pieces[Piece] = Pieces()
    ticket = submit(pieces.listen)
    try:
        yield Arriving(ticket, pieces)
    finally:
        ticket.cancel()
