"""A server in this process, until it is interrupted."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import uvicorn

from mmlm.model.network import MultimodalNetwork
from mmlm.serving.app import make_app
from mmlm.serving.models import Models
from mmlm.serving.options import EngineOptions
from mmlm.serving.settings import Settings

CLOSING_SECONDS = 10  # in which answers may still be finished
LAST_SECONDS = 2  # in which those that are not are told so
Loaders = Mapping[str, Callable[[], MultimodalNetwork]]
"""What loads each model, by its name."""


@dataclass(frozen=True)
class Place:
    """Where a server listens.

    port: 0 for a free one. tls_certificate, tls_key: files in PEM, with which it speaks https alone; a key that is not
    given is in the certificate's file. FileNotFoundError, or ValueError for files that are no certificate and its key.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    tls_certificate: str | None = None
    tls_key: str | None = None

    def __post_init__(self) -> None:
        if self.tls_certificate is not None:
            _check_tls(self.tls_certificate, self.tls_key)
        elif self.tls_key is not None:
            raise ValueError("tls_key is the key of a certificate: give tls_certificate with it")


def serve(
    loaders: Loaders,
    settings: Settings,
    place: Place,
    options: EngineOptions,
    *,
    max_loaded: int | None = None,
    idle_seconds: float | None = None,
) -> None:
    """Serves models. The first is loaded before, and its errors come out; others are loaded when they are asked for."""
    models = Models(loaders, options, max_loaded=max_loaded, idle_seconds=idle_seconds)
    asyncio.run(_serve(models, settings, place))


async def _serve(models: Models, settings: Settings, place: Place) -> None:
    async with models.using(models.names[0]):
        pass
    keep_contents_out_of_logs()
    await Server(make_app(models, settings), place).serve()


class Server(uvicorn.Server):
    """uvicorn's server: HTTP alone, no log of its own of requests, and a grace at the end, of `CLOSING_SECONDS`.

    What outlasts the grace is cancelled, which the app answers. uvicorn would end before the answers are sent.
    """

    def __init__(self, app: Any, place: Place) -> None:
        super().__init__(_configured(app, place))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends it; called by uvicorn."""
        asyncio.get_running_loop().call_later(CLOSING_SECONDS, self._give_up)
        await super().shutdown(sockets)

    def _give_up(self) -> None:
        for task in self.server_state.tasks:
            task.cancel()


def _configured(app: Any, place: Place) -> uvicorn.Config:
    return uvicorn.Config(
        app, host=place.host, port=place.port, access_log=False, log_config=None, ws="none",
        server_header=False, proxy_headers=False, timeout_graceful_shutdown=CLOSING_SECONDS + LAST_SECONDS,
        ssl_certfile=place.tls_certificate, ssl_keyfile=place.tls_key,
    )  # fmt: skip


def _check_tls(certificate: str, key: str | None) -> None:
    for name, path in (("tls_certificate", certificate), ("tls_key", key)):
        if path is not None and not os.path.isfile(path):
            raise FileNotFoundError(f"{name} {path}: there is no such file")

    def no_password() -> str:
        raise ValueError(f"{key or certificate}: the key has a password; openssl pkey -in KEY -out NEW leaves it out")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, no_password)
    except ssl.SSLError as error:
        where = f"{certificate} and {key}" if key else certificate
        reason = error.reason or "unreadable"
        if reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"{key or certificate} is the key of another certificate than {certificate}") from error
        raise ValueError(f"{where}: not a certificate and its private key in PEM ({reason})") from error


def keep_contents_out_of_logs() -> None:
    """Shows the server's own lines on standard error, and of the library's warnings their places alone.

    Warnings of the library quote the texts that they are about.
    """
    shown = logging.StreamHandler(sys.stderr)
    shown.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("mmlm.serving", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [shown], False
        logger.setLevel(logging.INFO)
    for name in ("mmlm", "encoders", "decoders"):
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
    warnings.showwarning = _show_place


def _show_place(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    logging.getLogger("mmlm.serving").warning("%s at %s:%d", category.__name__, os.path.basename(filename), lineno)
