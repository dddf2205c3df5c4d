"""A server of OpenAI's API whose answers are a script, for tests of the page."""

import asyncio
import base64
import contextlib
import io
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from PIL import Image
from starlette.types import ASGIApp

from mmlm.serving.page.files import with_page


def call_of(name: str, arguments: str, index: int = 0, id: str | None = None) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "id": id, "function": {"name": name, "arguments": arguments}}]}


SCRIPT: dict[str, list[dict[str, Any]]] = {
    "think": [{"content": "<th"}, {"content": "ink>two and "}, {"content": "two</thi"}, {"content": "nk>\nfour"}],
    "reason": [{"reasoning_content": "three and "}, {"reasoning_content": "three"}, {"content": "six"}],
    "tool": [call_of("weather", "", id="a"), call_of("", '{"city": '), call_of("", '"Oslo"}')],
    "markup": [{"content": "<img src=x onerror=alert(1)> **é"}, {"content": "🦩**"}],
}
"""What is said → the deltas of the answer; other texts are said back."""


@dataclass
class Seen:
    """What the server was asked, and how many streams their clients left."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    forms: list[dict[str, Any]] = field(default_factory=list)
    left: int = 0


def build(seen: Seen, models: list[str]) -> FastAPI:
    app = FastAPI()

    @app.get("/v1/models")
    def names() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model"} for name in models]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        seen.bodies.append(body)
        if said(body["messages"][-1]) == "refuse":
            return JSONResponse({"error": {"message": "the model has no image encoder"}}, 400)
        return StreamingResponse(events(scripted(body, seen), body), media_type="text/event-stream")

    @app.post("/v1/images/edits")
    async def redraw(request: Request) -> dict[str, Any]:
        """The picture as it came, as often as it is asked for."""
        form = dict(await request.form())
        data = {name: await form[name].read() for name in ("image", "mask")}
        seen.forms.append({**form, **{name: Image.open(io.BytesIO(one)) for name, one in data.items()}})
        return {"created": 0, "data": [{"b64_json": base64.b64encode(data["image"]).decode()}] * int(form["n"])}

    @app.post("/v1/audio/transcriptions")
    async def transcribe(request: Request) -> Response:
        form = dict(await request.form())
        seen.forms.append(form)
        if form["file"].filename == "broken.wav":
            return PlainTextResponse("Internal Server Error", 500)
        segments = [{"start": 0.0, "end": 1.0, "text": " One."}, {"start": 1.0, "end": 2.0, "text": " Two & <b>."}]
        return JSONResponse({"text": " One. Two & <b>.", "duration": 3.0, "segments": segments})

    return app


def counting(hits: list[str]) -> ASGIApp:
    """An app that notes what it is asked."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            hits.append(scope["path"])
            await Response()(scope, receive, send)

    return app


def said(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content).strip()


def base64_of(file: io.BytesIO) -> str:
    return base64.b64encode(file.getvalue()).decode()


async def scripted(body: dict[str, Any], seen: Seen) -> AsyncIterator[dict[str, Any]]:
    last = body["messages"][-1]
    text = said(last)
    if last["role"] == "tool":
        yield {"content": f"The tool says {text}."}
    elif text == "fail":
        yield {"content": "half of an"}
        yield {"error": {"message": "the model computed values that are no numbers"}}
    elif text == "media":
        Image.new("RGB", (8, 8), "teal").save(picture := io.BytesIO(), "png")
        yield {"images": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64_of(picture)}"}}]}
        yield {"audio": {"id": "a", "transcript": "a teal "}}
        yield {"audio": {"transcript": "square"}}
        for samples in (8000, 4000):  # of 24 kHz, in pieces as a stream has them
            yield {"audio": {"data": base64.b64encode(bytes(2 * samples)).decode()}}
    elif text == "count":
        try:
            for number in range(10_000):
                yield {"content": f"{number} "}
                await asyncio.sleep(0.02)
        finally:
            seen.left += 1
    else:
        for delta in SCRIPT.get(text, [{"content": f"You said: {text}"}]):
            yield delta
            await asyncio.sleep(0.02)


async def events(deltas: AsyncIterator[dict[str, Any]], body: dict[str, Any]) -> AsyncIterator[bytes]:
    """The chunks of a stream, cut in the middle of characters and of lines as networks do."""
    count = 0
    finish = "length" if body.get("max_completion_tokens") == 1 else "stop"

    def line(event: Any) -> bytes:
        return f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()

    yield line({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    async for delta in deltas:
        data = line(delta if "error" in delta else {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        count += 1
        for start in range(0, len(data), 50):
            yield data[start : start + 50]
    yield line({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    yield line({"choices": [], "usage": {"completion_tokens": count}})
    yield b"data: [DONE]\n\n"


@contextlib.contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """The address of an app that runs in a thread, with the page."""
    server = uvicorn.Server(uvicorn.Config(with_page(app), port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server ended before it began"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
