"""Clients that leave: work for them is cancelled, of answers in one piece and of streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from mmlm.serving.errors import ClientLeftError, as_api_error, closing

T = TypeVar("T")


async def left(receive: Receive) -> None:
    """Waits until the client closes its connection. Its request has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def beside(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What the work gives. ClientLeftError where the client leaves before; then the work is cancelled."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(left(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeftError
        return working.result()
    finally:
        for task in (working, leaving):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task


async def answered(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The response that the work makes for a request, unless its client leaves."""
    return await beside(request.receive, work)


class EventStream(Response):
    """Events as they come, in the form of server-sent events. An error on the way becomes the last of them.

    stack: what the events need, which is closed after them, or after the client left.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[dict[str, Any] | str], stack: AsyncExitStack) -> None:
        self.events, self.stack = events, stack
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends all events; ends where the client leaves."""
        async with self.stack:
            with contextlib.suppress(ClientLeftError):
                await beside(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with contextlib.aclosing(self.events) as events:  # pyright: ignore[reportArgumentType]
            try:
                async for event in events:
                    await send_event(send, event)
            except Exception as error:  # the status has been sent, so the error is told in the stream
                await send_event(send, as_api_error(error).to_dict())
            except asyncio.CancelledError:  # by a server that closes, unless the client has left, who hears nothing
                await send_event(send, closing().to_dict())
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def send_event(send: Send, event: dict[str, Any] | str) -> None:
    """Sends one event of a stream."""
    text = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
    await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})
