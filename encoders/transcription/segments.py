"""From Whisper's text of one window to segments: the text is cut at its timestamp tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from whisper.audio import HOP_LENGTH
from whisper.decoding import DecodingResult
from whisper.tokenizer import Tokenizer

from encoders.media.sound import SAMPLE_RATE
from encoders.transcription.transcript import Segment

FRAME_SECONDS = HOP_LENGTH / SAMPLE_RATE
TOKEN_FRAMES = 2  # timestamp tokens count steps of two frames, 20 ms


def cut_at_timestamps(
    result: DecodingResult, seek: int, frames: int, tokenizer: Tokenizer
) -> tuple[int, list[Segment]]:
    """The segments of a window of `frames` frames that begins at frame `seek`, and how many frames they complete.

    Empty ones are among them, see `nonempty`.
    Two timestamps in a row end one segment and begin the next. The text after the last such pair is incomplete, and is
    transcribed again in the next window; unless a single timestamp ends it, then the rest of the window is silence.
    """
    tokens, first = list(result.tokens), tokenizer.timestamp_begin
    stamped = [token >= first for token in tokens]
    ends = [index for index in range(1, len(tokens)) if stamped[index] and stamped[index - 1]]
    closed = is_closed(result, tokenizer)
    offset = seek * FRAME_SECONDS
    if not ends:
        last = next((token for token in reversed(tokens) if token > first), None)
        seconds = frames * FRAME_SECONDS if last is None else _seconds(last, tokenizer)
        return frames, [_segment(result, tokens, offset, offset + seconds, tokenizer)]
    bounds = [0, *ends, *([len(tokens)] if closed else [])]
    parts = [tokens[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]
    segments = [
        _segment(result, part, offset + _seconds(part[0], tokenizer), offset + _seconds(part[-1], tokenizer), tokenizer)
        for part in parts
    ]
    if closed:
        return frames, segments
    return (tokens[ends[-1] - 1] - first) * TOKEN_FRAMES or frames, segments  # 0 would repeat this window for ever


def is_closed(result: DecodingResult, tokenizer: Tokenizer) -> bool:
    """Whether a single timestamp ends a window's text, so that the rest of the window is silence."""
    return [token >= tokenizer.timestamp_begin for token in result.tokens[-2:]] == [False, True]


def overlaps(segment: Segment, spoken: Sequence[tuple[float, float]], offset: float) -> bool:
    """Whether somebody speaks during a segment; `spoken`: (start, end) in seconds after `offset`."""
    return any(segment.start < offset + end and offset + start < segment.end for start, end in spoken)


def _seconds(timestamp: int, tokenizer: Tokenizer) -> float:
    """The time of a timestamp token, in seconds from the start of its window."""
    return (timestamp - tokenizer.timestamp_begin) * TOKEN_FRAMES * FRAME_SECONDS


def _segment(result: DecodingResult, tokens: list[int], start: float, end: float, tokenizer: Tokenizer) -> Segment:
    text = tokenizer.decode([token for token in tokens if token < tokenizer.eot])
    return Segment(
        start, end, text, tuple(tokens), result.temperature, result.avg_logprob, result.compression_ratio,
        result.no_speech_prob,
    )  # fmt: skip


def nonempty(segments: Iterable[Segment]) -> list[Segment]:
    """The segments that take time and have a text."""
    return [segment for segment in segments if segment.start < segment.end and segment.text.strip()]
