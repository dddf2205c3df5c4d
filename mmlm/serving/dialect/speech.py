"""/v1/audio/speech: a text said aloud."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import soundfile
import soxr
from fastapi import APIRouter, Request, Response
from pydantic import Field

from encoders.media.sound import Audio
from mmlm.generation.request import Writing
from mmlm.serving.clients import answered
from mmlm.serving.context import Context, context_of
from mmlm.serving.dialect.written import MediaRequest, check_writes, written
from mmlm.serving.models import Loaded
from mmlm.tasks.draw import writing_of

router = APIRouter()

SECONDS = 4.0  # of the longest sound, where none is given
PCM_RATE = 24_000  # Hz, as OpenAI's raw samples have it
COMPRESSED = {"mp3": ("mp3", "libmp3lame", 24_000), "opus": ("ogg", "libopus", 48_000), "aac": ("adts", "aac", 24_000)}
"""FFmpeg's container and encoder of each format, and the rate in Hz."""
TYPES = {
    "mp3": "audio/mpeg", "opus": "audio/ogg", "aac": "audio/aac", "flac": "audio/flac", "wav": "audio/wav",
    "pcm": "audio/pcm",
}  # fmt: skip


class SpeechRequest(MediaRequest):
    """What is to be said. voice: any, for a model has one. max_seconds: the longest sound."""

    no_effect = ("voice", "user")
    not_yet = {"instructions": [""], "speed": [1], "stream_format": ["audio"]}

    input: Annotated[str, Field(min_length=1, max_length=4096)]
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    max_seconds: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = SECONDS


@router.post("/v1/audio/speech")
async def speech(asked: SpeechRequest, request: Request) -> Response:
    """The sound as a file."""
    return await answered(request, _said(asked, context_of(request)))


async def _said(asked: SpeechRequest, context: Context) -> Response:
    def prepare(loaded: Loaded) -> tuple[Sequence[Any], Writing]:
        check_writes(loaded, "audio")
        return writing_of(
            loaded.model, "audio", asked.input, asked.guidance_scale, max_seconds=asked.max_seconds
        )  # fmt: skip

    (sound,), _ = await written(asked, context, "audio", 1, prepare)
    assert isinstance(sound, Audio), "speech is sound"
    data = await context.quick.run(functools.partial(encoded, sound, asked.response_format))
    return Response(data, media_type=TYPES[asked.response_format])


def encoded(sound: Audio, form: str) -> bytes:
    """A recording as a file of this format. "pcm" is 16-bit little-endian mono at 24 kHz without a header."""
    data = io.BytesIO()
    if form in ("wav", "flac"):
        soundfile.write(data, sound.waveform, sound.sample_rate, format=form)
        return data.getvalue()
    container, codec, rate = COMPRESSED.get(form, ("", "", PCM_RATE))
    samples = soxr.resample(sound.waveform, sound.sample_rate, rate)
    samples = np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2")
    if form == "pcm":
        return samples.tobytes()
    import av

    with av.open(data, "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    return data.getvalue()
