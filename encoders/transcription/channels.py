"""A recording whose channels are speakers: each is written down by itself, and segments are merged by their times."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from encoders.media.sound import ReadingOptions, open_audio
from encoders.media.source import MediaError, label_of
from encoders.transcription.transcriber import Transcriber
from encoders.transcription.transcript import Segment, Transcription

log = logging.getLogger(__name__)

MOST = 8  # channels; each is decoded for itself


def stream_channels(transcriber: Transcriber, source: Any, reading: ReadingOptions, **options: Any) -> Transcription:
    """`transcriber.stream` of each channel, as one: segments carry `channel`, where 1 is the first, by their starts.

    source: is read once for each channel. options: of `Transcriber.stream` without `on_window`. The language is that of
    the first channel where somebody speaks. A recording of one channel is told by a warning. MediaError for more than 8
    channels, and for a file object, which cannot be read in several places at once.
    """
    label = label_of(source[0] if isinstance(source, tuple) and source else source)
    if hasattr(source, "read"):
        raise MediaError(
            f"{label}: channels are read side by side, which a file object cannot be; give a path or bytes"
        )
    with open_audio(source, **reading) as sound:
        count = sound.channels
    if count > MOST:
        raise MediaError(f"{label}: {count} channels, of which at most {MOST} are taken as speakers; mix some of them")
    if count == 1:
        log.warning("%s: there is one channel, so all of it is one speaker's", label)
    each = [reading | ReadingOptions(channel=number) for number in range(1, count + 1)]
    parts = [transcriber.stream(source, **one, **options) for one in each]
    running = Transcription(iter(()), parts[0].language)
    running.segments = _merged(running, parts)
    return running


def _merged(running: Transcription, parts: list[Transcription]) -> Iterator[Segment]:
    """All segments by their starts; `running` follows the channels on the way."""

    def tell() -> None:
        running.language = next((part.language for part in parts if part.language), None)
        running.seconds = min(part.seconds for part in parts)
        running.total = parts[0].total

    def numbered(number: int, part: Transcription) -> Iterator[Segment]:
        for segment in part:
            yield replace(segment, channel=number)

    streams = [numbered(number, part) for number, part in enumerate(parts, start=1)]
    for segment in heapq.merge(*streams, key=lambda segment: segment.start):
        tell()
        yield segment
    tell()
