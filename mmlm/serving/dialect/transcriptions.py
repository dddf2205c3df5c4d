"""/v1/audio/transcriptions: what is said in a recording, as text, subtitles or a stream, by the model's Whisper."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import Field

from encoders.transcription.segments import FRAME_SECONDS
from encoders.transcription.transcriber import TEMPERATURES
from encoders.transcription.transcript import Segment, Transcript, Transcription
from mmlm.generation.answer_text import AnswerText
from mmlm.model.network import MultimodalNetwork
from mmlm.serving.clients import EventStream, answered
from mmlm.serving.context import Context, context_of
from mmlm.serving.dialect.asked import Asked, form_of, from_form, one_file
from mmlm.serving.errors import ApiError, ClientLeftError, lacks

router = APIRouter()


class TranscriptionRequest(Asked):
    """The fields of the form beside its file."""

    no_effect = ("chunking_strategy", "user")
    not_yet = {
        "include": [[], ""], "known_speaker_names": [], "known_speaker_references": [], "keywords": [], "languages": [],
    }  # fmt: skip

    language: str | None = None
    prompt: str | None = None
    response_format: Literal["json", "text", "srt", "vtt", "verbose_json"] = "json"
    temperature: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    timestamp_granularities: list[Literal["word", "segment"]] | None = None
    stream: bool = False

    def check(self) -> None:
        """ApiError for fields that contradict each other."""
        if self.timestamp_granularities is not None and self.response_format != "verbose_json":
            message = "timestamp_granularities need response_format=verbose_json"
            raise ApiError(400, message, "timestamp_granularities", "invalid_value")
        if self.stream and self.response_format not in ("json", "text"):
            message = f"a stream is text: {self.response_format} is given whole, without stream"
            raise ApiError(400, message, "response_format", "invalid_value")

    def options(self) -> dict[str, Any]:
        """Options of a `Transcriber`. At temperature 0 it rises where the text is repetitive or improbable."""
        temperatures = TEMPERATURES if self.temperature == 0 else (self.temperature,)
        words = "word" in (self.timestamp_granularities or ())
        return {
            "language": self.language or None, "prompt": self.prompt or None, "temperatures": temperatures,
            "word_timestamps": words,
        }  # fmt: skip


@router.post("/v1/audio/transcriptions")
async def transcriptions(request: Request) -> Response:
    """The transcript in one of the dialect's formats, or a stream of its pieces."""
    async with form_of(request) as form:
        asked, files = from_form(TranscriptionRequest, form, lists=("timestamp_granularities", "include"))
        data = await one_file(files, "file")
    asked.check()
    return await answered(request, _answer(asked, data, context_of(request)))


async def _answer(asked: TranscriptionRequest, data: bytes, context: Context) -> Response:
    async with AsyncExitStack() as stack:
        loaded = await stack.enter_async_context(context.using(asked.model))
        if not loaded.model.transcribes:
            raise lacks(loaded.name, "Whisper", "name a model that has one", "model")
        await context.quick.run(functools.partial(context.door().sound, data, "file"))
        heard = await stack.enter_async_context(_hearing(context, loaded.model, data, asked.options()))
        if not asked.stream:
            segments = [segment async for segment in heard]
            return _formatted(asked, heard.running.transcript(segments), heard.seeks)
        await heard.begun()
        return EventStream(_events(heard), stack.pop_all())
    raise AssertionError("a stack of these contexts suppresses nothing")


class _Hearing:
    """A transcription in a thread, whose segments come as an asynchronous iterator."""

    def __init__(self) -> None:
        self.running = Transcription(iter(()))
        self.seeks: list[int] = []  # of each segment, where its window began, in frames
        self._loop, self._stop = asyncio.get_running_loop(), threading.Event()
        self._queue: asyncio.Queue[Segment | None] = asyncio.Queue()
        self._first: list[Segment | None] = []
        self.work: asyncio.Task[None] | None = None

    def hear(self, model: MultimodalNetwork, data: bytes, max_seconds: float, options: dict[str, Any]) -> None:
        """The thread's work. It ends at the next window where nobody waits any more."""
        windows = [0, 0]  # where the window before and this one ended

        def on_window(running: Transcription) -> None:
            if self._stop.is_set():
                raise ClientLeftError
            windows[:] = windows[1], round(running.seconds / FRAME_SECONDS)

        try:
            options = {**options, "on_window": on_window, "max_seconds": max_seconds}
            self.running = model.transcriber.stream(data, **options)
            for segment in self.running:
                self.seeks.append(windows[0])
                self._put(segment)
        finally:
            self._put(None)

    def _put(self, segment: Segment | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._queue.put_nowait, segment)

    async def begun(self) -> None:
        """Waits for the first segment, or the end; what went wrong before is raised."""
        self._first.append(await self._next())

    def __aiter__(self) -> AsyncIterator[Segment]:
        return self

    async def __anext__(self) -> Segment:
        segment = self._first.pop() if self._first else await self._next()
        if segment is None:
            raise StopAsyncIteration
        return segment

    async def _next(self) -> Segment | None:
        assert self.work is not None, "it has begun"
        if self.work.done() and self._queue.empty():  # it may have failed before it began
            await self.work
            return None
        taken = asyncio.ensure_future(self._queue.get())
        await asyncio.wait({taken, self.work}, return_when=asyncio.FIRST_COMPLETED)
        if not taken.done():
            await asyncio.sleep(0)  # what it put last arrives before this goes on
        if not taken.done():
            taken.cancel()
            await self.work
            return None
        if (segment := taken.result()) is None:
            await self.work
        return segment

    def stop(self) -> None:
        """Nobody waits any more."""
        self._stop.set()


@asynccontextmanager
async def _hearing(
    context: Context, model: MultimodalNetwork, data: bytes, options: dict[str, Any]
) -> AsyncIterator[_Hearing]:
    heard = _Hearing()
    work = functools.partial(heard.hear, model, data, context.settings.limits.max_seconds, options)
    heard.work = asyncio.ensure_future(context.slow.run(work))
    try:
        yield heard
    finally:
        heard.stop()
        heard.work.cancel()
        await asyncio.wait({heard.work})


def _formatted(asked: TranscriptionRequest, said: Transcript, seeks: list[int]) -> Response:
    usage = {"type": "duration", "seconds": round(said.seconds, 2)}
    if asked.response_format == "json":
        return JSONResponse({"text": said.text, "usage": usage})
    if asked.response_format == "text":
        return PlainTextResponse(said.text + "\n")
    if asked.response_format == "verbose_json":
        return JSONResponse({**_verbose(asked, said, seeks), "usage": usage})
    from whisper.utils import get_writer

    writer: Any = get_writer(asked.response_format, ".")
    text = io.StringIO()
    writer.write_result(said.to_dict(), text, {})
    return PlainTextResponse(text.getvalue())


def _verbose(asked: TranscriptionRequest, said: Transcript, seeks: list[int]) -> dict[str, Any]:
    from whisper.tokenizer import LANGUAGES

    found: dict[str, Any] = {
        "task": "transcribe", "language": LANGUAGES.get(said.language, said.language), "duration": said.seconds,
        "text": said.text,
    }  # fmt: skip
    granularities = asked.timestamp_granularities or ["segment"]
    if "segment" in granularities:
        found["segments"] = [
            {"id": index, "seek": seek, **{k: v for k, v in segment.to_dict().items() if k != "words"}}
            for index, (segment, seek) in enumerate(zip(said.segments, seeks, strict=True))
        ]
    if "word" in granularities:
        words = [word for segment in said.segments for word in segment.words or ()]
        found["words"] = [{"word": word.word.strip(), "start": word.start, "end": word.end} for word in words]
    return found


async def _events(heard: _Hearing) -> AsyncIterator[dict[str, Any] | str]:
    text, segments = AnswerText(), []
    async for segment in heard:
        segments.append(segment)
        if delta := text.push(segment.text):
            yield {"type": "transcript.text.delta", "delta": delta}
    yield {"type": "transcript.text.done", "text": heard.running.transcript(segments).text}
