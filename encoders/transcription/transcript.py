"""What a transcription is made of: segments of speech with their times, and all of them together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Segment:
    """A stretch of speech: `start` and `end` in seconds, its text, and how sure Whisper was of its window.

    avg_logprob: nats a token. compression_ratio: bytes of the text over those of it zlib-compressed; high where it
    repeats itself. no_speech_prob: 0–1. These are whisper.DecodingResult's.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


@dataclass(frozen=True)
class Transcript:
    """All that was said in `seconds` of sound; `language` is Whisper's code, such as "en"."""

    text: str
    segments: tuple[Segment, ...]
    language: str
    seconds: float

    def to_dict(self) -> dict:
        """As openai-whisper's own result, which its writers take."""
        segments = [{"id": index, **asdict(segment)} for index, segment in enumerate(self.segments)]
        return {"text": self.text, "segments": segments, "language": self.language}


@dataclass
class Transcription:
    """A recording while it is being transcribed: iterate over it for segments; the rest is known as far as it got.

    `seconds` is how far it has come, `total` its length by the header, if that tells.
    """

    segments: Iterator[Segment]
    language: str | None = None
    seconds: float = 0.0
    total: float | None = None

    def __iter__(self) -> Iterator[Segment]:
        return self.segments

    def transcript(self, segments: Sequence[Segment]) -> Transcript:
        """All of it, once the segments have been gone through."""
        text = "".join(segment.text for segment in segments).strip()
        return Transcript(text, tuple(segments), self.language or "", self.seconds)
