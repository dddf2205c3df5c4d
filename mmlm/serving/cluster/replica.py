"""A replica's answers: those of an ASGI app, as messages that can be sent from process to process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Scope

from mmlm.serving.cluster.door import Passed


async def answers(app: ASGIApp, passed: Passed) -> AsyncIterator[list[Message]]:
    """The messages of an app's answer to a request, those together that have come meanwhile.

    Where the iterator is closed before its end the client has left, which the app is told.
    """
    queue: asyncio.Queue[Message | None] = asyncio.Queue()
    request: list[Message] = [{"type": "http.request", "body": passed.body, "more_body": False}]

    async def receive() -> Message:
        if request:
            return request.pop()
        await asyncio.Event().wait()  # the client is there until this is cancelled
        raise AssertionError("nobody sets it")

    async def send(message: Message) -> None:
        queue.put_nowait(message)

    async def work() -> None:
        try:
            await app(_scope(passed), receive, send)
        finally:
            queue.put_nowait(None)

    working = asyncio.create_task(work())
    try:
        while True:
            messages = [await queue.get()]
            while not queue.empty():
                messages.append(queue.get_nowait())
            if sent := [message for message in messages if message is not None]:
                yield sent
            if None in messages:
                return
    finally:
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await working


def _scope(passed: Passed) -> Scope:
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": passed.method,
        "path": passed.path, "raw_path": quote(passed.path).encode(), "query_string": passed.query, "root_path": "",
        "headers": passed.headers, "client": None, "server": None,
    }  # fmt: skip
