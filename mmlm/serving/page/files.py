"""The page's files: HTML, CSS and JavaScript modules, as a browser takes them, without a build.

The page asks no other host for anything, and its Content-Security-Policy forbids it to.
"""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

FOLDER = Path(__file__).parent / "static"
POLICY = "; ".join([
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self' data: blob:",
    "media-src data: blob:", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
])  # fmt: skip
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # a browser asks whether a file has changed: modules of two versions do not fit
}


def with_page(app: ASGIApp) -> ASGIApp:
    """An app of the API, and the page beside it: at `/`, its files below `/page/`. These need no key."""
    page = Starlette(routes=[Route("/", _index), Mount("/page", _Files(directory=FOLDER))])

    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        of_page = scope["type"] == "http" and (scope["path"] == "/" or scope["path"].startswith("/page/"))
        await (page if of_page else app)(scope, receive, send)

    return both


async def _index(_: Request) -> Response:
    return FileResponse(FOLDER / "index.html", headers=HEADERS)


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response
