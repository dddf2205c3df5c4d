"""/v1/audio/transcriptions: what is said in a recording, as text, subtitles or a stream, by the model's Whisper."""

from __future__ import annotations

import functools
import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import Field

from encoders.transcription.transcriber import TEMPERATURES
from encoders.transcription.transcript import Transcript
from encoders.transcription.turns import Written
from mmlm.generation.answer_text import AnswerText
from mmlm.serving.arriving import Arriving, arriving
from mmlm.serving.clients import EventStream, answered
from mmlm.serving.context import Context, context_of
from mmlm.serving.dialect.asked import LEAST, Asked, form_of, from_form, one_file
from mmlm.serving.errors import ApiError, lacks

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
        temperatures = TEMPERATURES if self.temperature < LEAST else (self.temperature,)
        words = "word" in (self.timestamp_granularities or ())
        return {
            "language": self.language or None, "prompt": self.prompt or None, "temperatures": temperatures,
            "word_timestamps": words,
        }  # fmt: skip


@router.post("/v1/audio/transcriptions")
async def transcriptions(request: Request) -> Response:
    """The transcript in one of the dialect's formats, or a stream of its pieces."""
    async with form_of(request) as form:
        asked, files = from_form(TranscriptionRequest, form, ("file",), ("timestamp_granularities", "include"))
        data = await one_file(files, "file")
    asked.check()
    return await answered(request, _answer(asked, data, context_of(request)))


async def _answer(asked: TranscriptionRequest, data: bytes, context: Context) -> Response:
    async with AsyncExitStack() as stack:
        loaded = await stack.enter_async_context(context.using(asked.model))
        if not loaded.model.transcribes:
            raise lacks(loaded.name, "Whisper", "name a model that has one", "model")
        door = context.door()
        await context.quick.run(functools.partial(door.sound, data, "file"))
        limits = context.settings.limits
        transcribe = functools.partial(
            loaded.engine.transcribe, data, timeout=limits.timeout + door.seconds, max_seconds=limits.max_seconds,
            **asked.options(),
        )  # fmt: skip
        heard = await stack.enter_async_context(arriving(lambda listener: transcribe(listener=listener)))
        stack.callback(context.metrics.note_recording, loaded.name, heard.ticket)
        if not asked.stream:
            windows = [window async for window in heard.pieces]
            return _formatted(
                asked, heard.ticket.results(0), [window.seek for window in windows for _ in window.segments]
            )
        await heard.begun()
        return EventStream(_events(heard), stack.pop_all())
    raise AssertionError("a stack of these contexts suppresses nothing")


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


async def _events(heard: Arriving[Written, Transcript]) -> AsyncIterator[dict[str, Any] | str]:
    text = AnswerText()
    async for window in heard.pieces:
        for segment in window.segments:
            if delta := text.push(segment.text):
                yield {"type": "transcript.text.delta", "delta": delta}
    yield {"type": "transcript.text.done", "text": heard.ticket.results(0).text}
