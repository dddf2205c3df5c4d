"""A server with the page, for the person at this machine."""

from __future__ import annotations

import asyncio
import socket
import webbrowser
from collections.abc import Callable, Mapping

from mmlm.model.network import MultimodalNetwork
from mmlm.serving.app import make_app
from mmlm.serving.models import Models
from mmlm.serving.page.files import with_page
from mmlm.serving.run import Place, Server, keep_contents_out_of_logs
from mmlm.serving.settings import Settings

HOST = "127.0.0.1"


def serve_page(loaders: Mapping[str, Callable[[], MultimodalNetwork]], port: int, *, opens: bool = False) -> None:
    """Serves models and the page to this machine alone, until it is interrupted; prints the address.

    The first model is loaded before, and its errors come out. port: 0 for a free one. opens: show the page in the
    browser. OSError where the port is taken.
    """
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise OSError(f"port {port} cannot be used ({error.strerror}): give port=0 for a free one") from error
    with listening:
        asyncio.run(_serve(Models(loaders), listening, opens))


async def _serve(models: Models, listening: socket.socket, opens: bool) -> None:
    async with models.using(models.names[0]):
        pass
    port = listening.getsockname()[1]
    address = f"http://{HOST}:{port}/"
    print(address, flush=True)
    keep_contents_out_of_logs()
    server = Server(with_page(make_app(models, Settings())), Place(HOST, port))
    if opens:
        webbrowser.open(address)  # it listens already, so the browser's request waits for the server
    await server.serve([listening])
