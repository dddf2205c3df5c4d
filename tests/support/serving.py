"""A server in a thread, on a free port, for tests that talk with it over a real socket."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from mmlm.serving.app import make_app
from mmlm.serving.models import Models
from mmlm.serving.options import EngineOptions
from mmlm.serving.run import Place, Server
from mmlm.serving.settings import Settings


@contextlib.contextmanager
def serving(
    loaders: dict[str, Any],
    settings: Settings = Settings(),
    options: EngineOptions = EngineOptions(),
    place: Place | None = None,
    **keywords: Any,
) -> Iterator[SimpleNamespace]:
    """A server's `url`, its `port`, its `models`, and the `server` itself.

    The port is a free one, whatever the place says.
    """
    place = place or Place()
    models = Models(loaders, options, **keywords)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        server = Server(make_app(models, settings), dataclasses.replace(place, port=port))
        server.config.load()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server could not start"
            time.sleep(0.01)
        try:
            scheme = "http" if place.tls_certificate is None else "https"
            yield SimpleNamespace(url=f"{scheme}://127.0.0.1:{port}", port=port, models=models, server=server)
        finally:
            server.should_exit = True
            thread.join(30)


def refused(create: Callable[..., Any], param: str, word: str, **asked: Any) -> None:
    """Checks that a call of the official client gets a 400 that names the field, with this word in its message."""
    with pytest.raises(openai.BadRequestError) as caught:
        create(**asked)
    assert caught.value.body["param"] == param and word in caught.value.body["message"]


def until(condition: Any, seconds: float = 30) -> None:
    """Waits until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)
