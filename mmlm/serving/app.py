"""The server as an ASGI app: OpenAI's dialect over models, behind the doors that keep it safe."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from mmlm.serving.context import Context, Workers
from mmlm.serving.dialect import attention_maps, chat, embeddings, images, responses, server, speech, transcriptions
from mmlm.serving.dialect.asked import wrong_field
from mmlm.serving.doors import through
from mmlm.serving.errors import ApiError, ClientLeftError, as_api_error, broken
from mmlm.serving.metrics import Metrics, Note
from mmlm.serving.models import Models
from mmlm.serving.settings import Settings

ENDPOINTS = (chat, responses, transcriptions, speech, images, embeddings, attention_maps, server)
MOST_WAITING = 256  # pieces of work for threads, of each kind
LISTENING = 16  # threads that wait for recordings, which the engines write down


def make_app(models: Models, settings: Settings = Settings(), note: Note | None = None) -> ASGIApp:
    """The app that serves these models. It unloads them when it ends. note: gets the times of requests as well."""
    metrics = Metrics(models, note)
    slow = Workers("slow", MOST_WAITING, LISTENING)
    context = Context(models, settings, metrics, Workers("quick", MOST_WAITING), slow)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await models.close()
        context.quick.close()
        context.slow.close()

    # The pages that FastAPI would show load their scripts from elsewhere.
    app = FastAPI(title="mmlm", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.context = context
    for endpoints in ENDPOINTS:
        app.include_router(endpoints.router)
    tell_errors(app)
    return through(app, settings.api_key, settings.limits, metrics)


def tell_errors(app: FastAPI) -> None:
    """Has an app answer errors in the dialect."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(ClientLeftError, _left)
    app.add_exception_handler(Exception, _broken)
    for kind in (ApiError, ValueError, TypeError, RuntimeError, TimeoutError):
        app.add_exception_handler(kind, _failed)


async def _failed(_: Request, error: Exception) -> Response:
    return as_api_error(error).response()


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "it is registered for these"
    return wrong_field(error.errors()).response()


async def _refused(_: Request, error: Exception) -> Response:
    """What the framework itself refuses: paths and methods that are none, and bodies."""
    assert isinstance(error, HTTPException), "it is registered for these"
    codes = {408: "timeout", 413: "body_too_large", 503: "busy"}
    said = {404: "there is nothing at this path", 405: "the path is not asked in this way"}
    message = said.get(error.status_code, str(error.detail))
    response = ApiError(error.status_code, message, code=codes.get(error.status_code)).response()
    response.headers.update(error.headers or {})  # as Allow, which tells how the path is asked
    return response


async def _broken(_: Request, __: Exception) -> Response:
    return broken().response()  # the door tells where, since the framework raises the error again


async def _left(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; it stands in the log
