"""Errors as OpenAI's dialect has them: a status, and an object with message, type, param and code."""

from __future__ import annotations

import logging
from typing import Any

from fastapi.responses import JSONResponse

from encoders.transcription.decoding import NonFiniteTextError
from mmlm.generation.memory import MemoryLimitError
from mmlm.generation.nonfinite import NonFiniteLogitsError
from mmlm.remedies import reworded
from mmlm.serving.ticket import BusyError, CancelledError, DeadlineError, raised_at

log = logging.getLogger("mmlm.serving")

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
FIELDS = {"max_new_tokens": "max_completion_tokens", "num_return_sequences": "n", "num_images": "n"}
"""The library's keywords that are named otherwise here; of others, requests have no field."""
RETRY_AFTER = "1"  # seconds


class ApiError(Exception):
    """An answer that is an error. param: the field that is wrong. code: a word for programs."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def to_dict(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The answer."""
        headers = {"Retry-After": RETRY_AFTER} if self.status in (429, 503) else None
        return JSONResponse(self.to_dict(), self.status, headers)


class ClientLeftError(Exception):
    """The client closed its connection, so nobody waits for the answer."""


def not_yet(what: str, param: str) -> ApiError:
    """The error for what OpenAI has and this version has not."""
    return ApiError(400, f"{what} is not supported by this version", param, "unsupported")


def lacks(model: str, part: str, remedy: str, param: str | None = None) -> ApiError:
    """The error for what a model cannot do because a part is missing."""
    return ApiError(400, f"the model {model!r} has no {part}: {remedy}", param, "unsupported_by_model")


def broken() -> ApiError:
    """The error for a fault of the server's own."""
    return ApiError(500, "the server failed on this request", code="server_error")


def closing() -> ApiError:
    """The error for a request that a closing server gives up."""
    return ApiError(503, "the server is closing", code="closing")


def as_api_error(error: Exception) -> ApiError:
    """What a client is told of an error. Whatever is not known to be about its request says nothing of the server."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BusyError):
        return ApiError(429, str(error), code="busy")
    if isinstance(error, DeadlineError):
        return ApiError(503, str(error), code="timeout")
    if isinstance(error, CancelledError):
        return closing()
    if isinstance(error, (NonFiniteLogitsError, NonFiniteTextError)):
        return ApiError(500, "the model computed values that are no numbers", code="not_finite")
    if isinstance(error, MemoryLimitError):
        return ApiError(400, told(error), code="too_large")
    if isinstance(error, ValueError | TypeError) and not isinstance(error, OSError):
        return ApiError(400, told(error))
    tell(error)
    return broken()


def tell(error: BaseException) -> None:
    """Logs where an error was raised, without its message: that may hold what a user wrote."""
    log.error("%s at %s", type(error).__name__, raised_at(error))


def told(error: Exception) -> str:
    """What an error of the library says, in the words of requests: without remedies that they have no field for."""

    def field(name: str, value: str | None) -> str | None:
        return None if name not in FIELDS else FIELDS[name] + ("" if value is None else f"={value}")

    return reworded(str(error), field)
