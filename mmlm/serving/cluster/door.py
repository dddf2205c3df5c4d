"""The app that clients of several replicas talk with: it reads a request whole, and a replica answers it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmlm.serving.app import ENDPOINTS, tell_errors
from mmlm.serving.clients import beside, send_event
from mmlm.serving.cluster.affinity import medium_key
from mmlm.serving.dialect import server
from mmlm.serving.doors import through
from mmlm.serving.errors import ApiError, ClientLeftError
from mmlm.serving.settings import Settings

log = logging.getLogger("mmlm.serving")

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
TRIES = 2  # a request that costs a replica its life must not cost all of them


@dataclass(frozen=True)
class Passed:
    """A request as replicas get it. headers: names and values, as in ASGI."""

    method: str
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


class ReplicaLostError(RuntimeError):
    """The replica that worked on a request is there no longer."""


Ask = Callable[[Passed, str | None], AsyncIterator[list[Message]]]
"""Has a replica answer a request, given the key of its medium: the answer's messages, as in ASGI, as they come."""


def make_door(ask: Ask, settings: Settings) -> ASGIApp:
    """The app. It checks what costs nothing, key and size, and leaves all else to the replicas."""

    async def pass_on(request: Request) -> Response:
        path, query = request.scope["path"], request.scope.get("query_string", b"")
        passed = Passed(request.method, path, query, request.headers.raw, await request.body())
        is_json = request.headers.get("content-type", "").startswith("application/json")
        return _PassedOn(ask, passed, medium_key(passed.body) if is_json else None)

    app = FastAPI(title="mmlm", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/health", server.health, methods=["GET", "HEAD"])
    app.add_api_route("/metrics", _metrics)
    known = [route.path for endpoints in ENDPOINTS for route in endpoints.router.routes if isinstance(route, APIRoute)]
    for path in (*known, "/{elsewhere:path}"):  # the log tells of known paths alone
        app.add_api_route(path, pass_on, methods=METHODS, response_model=None)
    tell_errors(app)
    return through(app, settings.api_key, settings.limits, None)


async def _metrics() -> Response:
    raise ApiError(404, "the figures of several replicas are among Ray's own, on each of its machines")


class _PassedOn(Response):
    """The answer of a replica. One that is lost before it begins is asked of another; a stream ends with the error."""

    def __init__(self, ask: Ask, passed: Passed, key: str | None) -> None:
        self.ask, self.passed, self.key = ask, passed, key
        super().__init__()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it, and gives it up where the client leaves."""
        with contextlib.suppress(ClientLeftError):
            await beside(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        for left in reversed(range(TRIES)):
            begun, is_stream = False, False
            try:
                async with contextlib.aclosing(self.ask(self.passed, self.key)) as answer:  # pyright: ignore[reportArgumentType]
                    async for messages in answer:
                        for message in messages:
                            is_stream = is_stream or _begins_stream(message)
                            await send(message)
                            begun = True
                return
            except ReplicaLostError:
                log.warning("a replica was lost while it answered")
                lost = ApiError(503, "the replica that worked on it was lost: send it again", code="replica_lost")
                if is_stream:
                    await send_event(send, lost.to_dict())
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    return
                if begun or not left:  # of an answer that has begun the connection is cut
                    raise lost from None


def _begins_stream(message: Message) -> bool:
    headers = dict(message.get("headers", ()))
    return message["type"] == "http.response.start" and headers.get(b"content-type", b"").startswith(
        b"text/event-stream"
    )
