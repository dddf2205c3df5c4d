"""A server of OpenAI's API for tests of the page: nano's answers, and a model whose answers are a script."""

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

import numpy as np
import soundfile
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from PIL import Image

import mmlm
from mmlm.serving.page import add_page


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


def build(nano: mmlm.MultimodalLM, seen: Seen, models: list[str]) -> FastAPI:
    app = FastAPI()
    busy = threading.Lock()

    @app.get("/v1/models")
    def names() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model"} for name in models]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        seen.bodies.append(body)
        if said(body["messages"][-1]) == "refuse":
            return JSONResponse({"error": {"message": "the model 'script' has no image encoder"}}, 400)
        deltas = written(nano, body) if body["model"] == "nano" else scripted(body, seen)
        return StreamingResponse(events(deltas, body), media_type="text/event-stream")

    @app.post("/v1/images/generations")
    async def draw(request: Request) -> dict[str, Any]:
        body = await request.json()
        seen.bodies.append(body)
        with busy:
            drawn = nano.draw(body["prompt"], body["n"], seed=body["seed"], temperature=body["temperature"])
        return pictures(drawn)

    @app.post("/v1/images/edits")
    async def redraw(request: Request) -> dict[str, Any]:
        form = dict(await request.form())
        start, mask = [Image.open(io.BytesIO(await form[name].read())) for name in ("image", "mask")]
        seen.forms.append({**form, "image": start, "mask": mask})
        anew = np.asarray(mask.convert("RGBA"))[..., 3] == 0
        return pictures(nano.draw(form["prompt"], init_image=start.convert("RGB"), mask=anew, temperature=0.1))

    @app.post("/v1/audio/speech")
    async def speak(request: Request) -> Response:
        body = await request.json()
        seen.bodies.append(body)
        sound, file = nano.speak(body["input"], temperature=body["temperature"], seed=body["seed"]), io.BytesIO()
        soundfile.write(file, sound.waveform, sound.sample_rate, format="wav")
        return Response(file.getvalue(), media_type="audio/wav")

    @app.post("/v1/audio/transcriptions")
    async def transcribe(request: Request) -> Response:
        form = dict(await request.form())
        data = await form["file"].read()
        seen.forms.append({**form, "file": data})
        if form["language"] if "language" in form else False:
            return PlainTextResponse("Internal Server Error", 500)
        heard = nano.transcribe(data)
        segments = [
            {"id": at, "start": one.start, "end": one.end, "text": one.text} for at, one in enumerate(heard.segments)
        ]
        return JSONResponse({"text": heard.text, "duration": heard.seconds, "segments": segments})

    add_page(app)
    return app


def pictures(drawn: Any) -> dict[str, Any]:
    data = []
    for picture in drawn if isinstance(drawn, list) else [drawn]:
        picture.save(file := io.BytesIO(), "png")
        data.append({"b64_json": base64.b64encode(file.getvalue()).decode()})
    return {"created": 0, "data": data, "output_format": "png"}


def said(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)


async def written(nano: mmlm.MultimodalLM, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    for piece in nano.stream(nano.chat_prompt(body["messages"]), max_new_tokens=body.get("max_completion_tokens", 20)):
        yield {"content": piece}
        await asyncio.sleep(0)


async def scripted(body: dict[str, Any], seen: Seen) -> AsyncIterator[dict[str, Any]]:
    last = body["messages"][-1]
    text = said(last)
    if last["role"] == "tool":
        yield {"content": f"The tool says {text}."}
    elif text == "fail":
        yield {"content": "half of an"}
        yield {"error": {"message": "the model computed values that are no numbers"}}
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
def serving(app: FastAPI) -> Iterator[str]:
    """The address of an app that runs in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server ended before it began"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
