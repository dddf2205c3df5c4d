"""Results of a transcription: segments of speech with their times, and the whole transcript."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Word:
    """A word with its punctuation and the space before it; `start` and `end` in seconds, `probability` in 0..1."""

    word: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True)
class Segment:
    """A stretch of speech: its `start` and `end` in seconds, its text, and Whisper's confidence in its window.

    tokens: Whisper's token ids, timestamps included. temperature: of the sampling that gave the text. avg_logprob: in
    nats per token. compression_ratio: of the text's length to its zlib-compressed length, high for repetitive text.
    no_speech_prob: in 0..1. These four are those of whisper.DecodingResult. words: where they were asked for.
    channel: the speaker's, where channels are speakers; 1 is the first.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: tuple[Word, ...] | None = None
    channel: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Its fields, in the form of openai-whisper's own segments: without what was not asked for."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Transcript:
    """The whole transcript of `seconds` of audio; `language` is Whisper's code, such as "en"."""

    text: str
    segments: tuple[Segment, ...]
    language: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The transcript in the form of openai-whisper's own result, which its writers accept."""
        segments = [{"id": index, **segment.to_dict()} for index, segment in enumerate(self.segments)]
        return {"text": self.text, "segments": segments, "language": self.language}


@dataclass
class Transcription:
    """A transcription in progress: iterate over it for its segments. The other fields are updated on the way.

    language: None until it is known. seconds: how much of the recording has been transcribed. total: the length of the
    recording by its header, in seconds; None if unknown. turns: the `Turns` that the iteration takes, for who
    takes them among those of others instead.
    """

    segments: Iterator[Segment]
    language: str | None = None
    seconds: float = 0.0
    total: float | None = None
    turns: Generator[Any, Any, None] | None = None

    def __iter__(self) -> Iterator[Segment]:
        return self.segments

    def transcript(self, segments: Sequence[Segment]) -> Transcript:
        """The transcript made of these segments, which are all that the iteration gave."""
        text = "".join(segment.text for segment in segments).strip()
        return Transcript(text, tuple(segments), self.language or "", self.seconds)
