"""What every request passes before the app reads it: a note of it, the key, and the limit of its body."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import logging
import time
import uuid
from typing import Any
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmlm.serving.errors import ApiError, broken, closing, tell
from mmlm.serving.metrics import Metrics
from mmlm.serving.settings import Limits

log = logging.getLogger("mmlm.serving")

OPEN = ("/health",)  # paths that need no key
LINGER = 10.0  # seconds in which a body that nobody reads is thrown away, so that its sender reads the answer


class Noted:
    """Gives each request an id, logs a line without contents, counts it, and keeps errors out of uvicorn's log.

    metrics: None where requests are counted elsewhere.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics | None) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, number, status = time.monotonic(), f"req_{uuid.uuid4().hex[:24]}", 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = number
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception as error:  # noqa: BLE001 - it has been answered; its message may hold what a user wrote
            tell(error)
            if not status:
                await broken().response()(scope, receive, noted)
        except asyncio.CancelledError:  # by a server that closes; a stream has told so itself
            if not status:
                await closing().response()(scope, receive, noted)
        path = getattr(scope.get("route"), "path", "elsewhere")  # not the path itself, which a user wrote
        seconds = time.monotonic() - began
        if self.metrics is not None:
            self.metrics.note_request(path, status, seconds)
        log.info("%s %s %s %d %.3f s", number, scope["method"], path, status, seconds)


class Keyed:
    """Answers those who have the key. Without a key, it answers requests to this machine's own name alone.

    Otherwise a page in a browser could send requests here, from its own name or by a name that leads here.
    """

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self.app, self.key = app, None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers 401 or 403 before its body is read."""
        if scope["type"] == "http" and scope["path"] not in OPEN and (error := self.refused(Headers(scope=scope))):
            await error.response()(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def refused(self, headers: Headers) -> ApiError | None:
        """Why a request is not answered."""
        if self.key is not None:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.key):
                return None
            message = "a key is needed: send the header Authorization: Bearer KEY, with the server's key"
            return ApiError(401, message, code="invalid_api_key")
        host, origin = headers.get("host", ""), headers.get("origin")
        if not _is_own(_split(f"//{host}").hostname or ""):
            return ApiError(403, "without a key, this server answers requests to localhost alone", code="host")
        if origin is not None and _split(origin).netloc != host:
            return ApiError(403, "without a key, this server answers no pages of other sites", code="origin")
        return None


def _split(address: str) -> SplitResult:
    """The parts of an address; of one that is none, none."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _is_own(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


class Bounded:
    """Limits bodies, by what they say of themselves and by what arrives, and the time in which they arrive."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app, self.limits, self.held = app, limits, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers 413 where its body is too large, 408 where it comes too slowly."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, body = Headers(scope=scope), _Body(self, receive)
        stated = headers.get("content-length", "0")
        if "expect" not in headers:  # who asks before sending has sent nothing
            send = _lingering(send, body)
        try:
            if not stated.isdigit() or int(stated) > self.limits.max_body_bytes:
                await self.too_large().response()(scope, receive, send)
            else:
                await self.app(scope, body.receive, send)
        finally:
            self.held -= body.size

    def too_large(self) -> ApiError:
        """The error for a body over the limit."""
        message = f"the body has more than {self.limits.max_body_bytes:,} bytes, the limit of this server"
        return ApiError(413, message, code="body_too_large")


class _Body:
    """The body of one request while it arrives."""

    def __init__(self, bounded: Bounded, receive: Receive) -> None:
        self.bounded, self._receive = bounded, receive
        self.size, self.complete = 0, False

    async def receive(self) -> Message:
        """The next piece; HTTPException where there is too much of it, or where it comes too slowly."""
        limits = self.bounded.limits
        try:
            async with asyncio.timeout(None if self.complete else limits.read_seconds):
                message = await self.piece()
        except TimeoutError:
            raise HTTPException(408, "the body came too slowly") from None
        count = len(message.get("body", b""))
        self.size += count
        self.bounded.held += count
        if self.size > limits.max_body_bytes:
            raise HTTPException(413, self.bounded.too_large().message)
        if self.bounded.held > limits.max_held_bytes:
            raise HTTPException(503, "the server holds as much of other requests as it may: try again later")
        return message

    async def piece(self) -> Message:
        """The next piece, whatever its size."""
        message = await self._receive()
        self.complete = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message


def _lingering(send: Send, body: _Body) -> Send:
    """Sends an answer, and where the body has not been read to its end, throws the rest away before the answer ends.

    A connection that ends with unread data is reset, and its client would see that in place of the answer.
    """

    async def sending(message: Message) -> None:
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if not last or body.complete:
            await send(message)
            return
        await send({**message, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while not body.complete:
                    await body.piece()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return sending


def through(app: ASGIApp, key: str | None, limits: Limits, metrics: Metrics | None) -> Any:
    """The app behind its doors."""
    return Noted(Bounded(Keyed(app, key), limits), metrics)
