"""When a piece of sound is heard: pieces follow each other, unless their timestamps say that something lies between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from encoders.media.container import start_of

_JUMP = 600.0  # seconds; more is a clock that was set anew, in broadcasts that were joined
_BACK = 1.0  # seconds; timestamps that go back by more begin anew: recordings that were joined
_RESETS = ("mpeg", "mpegts")  # formats whose timestamps may jump
# Formats that store timestamps, with the seconds of a gap that may be their rounding or the lead-in of an encoder. In
# others FFmpeg counts, and with the wrong rate where the rate changes on the way.
_LEAST_GAP = {"flac": 0.001} | dict.fromkeys("asf flv matroska mov mpeg mpegts mxf ogg rm".split(), 0.1)


@dataclass
class Timeline:
    """The time of a stream of sound, in seconds. `start`: the timestamp at which the file begins.

    least_gap: the shortest gap in the timestamps that is silence; None where timestamps are not heeded.
    resets: whether timestamps may jump forward without a gap in the sound.
    """

    start: float
    least_gap: float | None
    resets: bool
    position: float = 0.0  # where the next piece begins

    @staticmethod
    def of(container: Any) -> Timeline:
        """The timeline of an open container, at its beginning."""
        name = container.format.name.split(",")[0]
        return Timeline(start_of(container), _LEAST_GAP.get(name), name in _RESETS)

    def silence_before(self, time: float | None) -> float:
        """How many seconds of silence come before a piece with this timestamp (None: unknown)."""
        if time is None or self.least_gap is None:
            return 0.0
        gap = time - self.start - self.position
        if gap < -_BACK or (self.resets and gap > _JUMP):
            self.start += gap
            return 0.0
        return gap if gap > self.least_gap else 0.0

    def follow_samples(self) -> None:
        """Heed timestamps no more where FFmpeg computes them from a count of samples at the first rate."""
        if self.least_gap is not None and self.least_gap < 0.1:
            self.least_gap = None

    def advance(self, seconds: float) -> None:
        """Move on by a piece, or by silence."""
        self.position += seconds
