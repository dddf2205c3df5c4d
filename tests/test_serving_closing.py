"""A server that closes tells those whom it gives up so, in the dialect."""

import dataclasses
import http.client
import json
import socket
import threading

import openai
import pytest

from mmlm.serving import run
from mmlm.serving.dialect.chat_request import ChatRequest
from support.serving import serving, until

HELLO = [{"role": "user", "content": "hello"}]
CLOSING = {"message": "the server is closing", "type": "server_error", "param": None, "code": "closing"}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """A grace that ends at once."""
    monkeypatch.setattr(run, "CLOSING_SECONDS", 0.3)


def request(server, **asked) -> http.client.HTTPConnection:
    """A request for a chat that is on its way."""
    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    link.request("POST", "/v1/chat/completions", json.dumps(asked), {"Content-Type": "application/json"})
    return link


def answer(link: http.client.HTTPConnection) -> tuple[int, dict, str | None]:
    found = link.getresponse()
    return found.status, json.loads(found.read())["error"], found.headers["Retry-After"]


def test_what_outlasts_the_grace_is_told_and_frees_its_place(nano, monkeypatch, caplog):
    own = ChatRequest.options

    def endless(self, most):
        return dataclasses.replace(own(self, most), min_new_tokens=1500, max_new_tokens=1500)

    monkeypatch.setattr(ChatRequest, "options", endless)
    with serving({"nano": lambda: nano}) as server:
        whole = request(server, model="nano", messages=HELLO)
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(model="nano", messages=HELLO, stream=True)
        next(iter(stream))
        engine = server.models.loaded()[0].engine
        until(lambda: engine.running == 2)
        server.server.should_exit = True
        assert answer(whole) == (503, CLOSING, "1")
        with pytest.raises(openai.APIError, match="closing"):
            list(stream)
        until(lambda: engine.running == engine.waiting == 0)
        assert engine.counts.cancelled == 2
    assert "ASGI" not in caplog.text


def test_who_waits_elsewhere_is_told_as_well(nano):
    """One for a model that is loaded, another for itself: half of its body has come."""
    loaded = threading.Event()
    with serving({"nano": lambda: loaded.wait(30) and nano}) as server:
        loading = request(server, model="nano", messages=HELLO)
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as half:
            half.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
            until(lambda: len(server.server.server_state.tasks) == 2)
            server.server.should_exit = True
            sent = http.client.HTTPResponse(half)
            sent.begin()
            assert (sent.status, json.loads(sent.read())["error"]) == (503, CLOSING)
        assert answer(loading)[:2] == (503, CLOSING)
        loaded.set()


def test_what_ends_in_the_grace_is_answered(nano, monkeypatch):
    monkeypatch.setattr(run, "CLOSING_SECONDS", 30)
    with serving({"nano": lambda: nano}) as server:
        link = request(server, model="nano", messages=HELLO, max_tokens=20)
        until(lambda: server.server.server_state.tasks)
        server.server.should_exit = True
        found = link.getresponse()
        expected = nano.chat(HELLO, max_new_tokens=20)
        assert json.loads(found.read())["choices"][0]["message"]["content"] == expected and found.status == 200
