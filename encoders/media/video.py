"""Reading videos: evenly spaced frames, each with its time."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from numbers import Integral
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from encoders.media.container import (
    MAX_BYTES,
    MAX_SECONDS,
    Lost,
    damaged,
    decoded,
    open_container,
    packets_of,
    seconds_of,
    too_long,
)
from encoders.media.image import MAX_PIXELS, check_pixels, load_image
from encoders.media.notices import notice
from encoders.media.source import MediaError, check_limits, label_of, opened
from encoders.media.truncation import missing_bytes

log = logging.getLogger(__name__)

NUM_FRAMES = 8
MAX_FRAMES = 10_000
_LARGEST = 8  # frames of the largest size that may be kept; of smaller ones there may be more, in the same memory
SUFFIXES = tuple("mp4 m4v mov mkv webm avi flv wmv 3gp ts mpg mpeg".split())

_COVER = 0x0400  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC: the picture of an album, not a film
_PADDING = 2000  # 128 rows and columns around frames of at most `MAX_ASPECT_RATIO`
_MOST = (1 << 31) - 1  # of FFmpeg's option
_PADDED = 0.5  # seconds by which a header may understate the length
# How a frame becomes upright, by a, b, c and d of its display matrix (ISO/IEC 14496-12, 8.3).
_UPRIGHT = {
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


@dataclass(frozen=True, eq=False)
class Video:
    """RGB frames of a video and the time at which each is shown, in seconds."""

    frames: tuple[Image.Image, ...]
    times: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.frames or len(self.frames) != len(self.times):
            raise ValueError(f"a video needs frames and a time for each, got {len(self.frames)} and {len(self.times)}")


def is_video(source: Any) -> bool:
    """Whether a source is a `Video`, or a path with a suffix of video files."""
    if isinstance(source, Video):
        return True
    named = isinstance(source, str | os.PathLike) and not str(source).startswith("data:")
    return named and os.path.splitext(os.fspath(source))[1].lower().lstrip(".") in SUFFIXES


def load_video(
    source: Any,
    *,
    num_frames: int = NUM_FRAMES,
    max_pixels: int = MAX_PIXELS,
    max_seconds: float = MAX_SECONDS,
    max_bytes: float = MAX_BYTES,
) -> Video:
    """`num_frames` frames from the middles of as many equal parts of a video; fewer if it has fewer.

    source: a path, bytes, a binary file object or a `data:` URL of an mp4, webm, mkv, avi, gif, …; a `Video` is
        returned as it is.
    max_pixels, max_seconds, max_bytes: limits on a frame, on the video and on the file. The frames that are returned
        have at most 8 times `max_pixels` together, and are at most 10,000.
    Frames are reached by seeking, so that a long video is not decoded from start to end, unless its header states a
    wrong length or its format has no index (MPEG-TS and MPEG-PS). Frames are upright and of square pixels, as players
    show them.
    Raises MediaError (a ValueError) for a source without a video stream, a damaged one, or one beyond the limits.
    """
    if isinstance(source, Video):
        return source
    if not isinstance(num_frames, Integral) or isinstance(num_frames, bool) or num_frames < 1:
        raise ValueError(f"num_frames must be a whole number of at least 1, not {num_frames!r}")
    if num_frames > MAX_FRAMES:
        raise ValueError(f"num_frames must be at most {MAX_FRAMES:,}, not {num_frames:,}; read a long film in parts")
    check_limits(max_pixels=max_pixels, max_seconds=max_seconds, max_bytes=max_bytes)
    label = label_of(source)
    with opened(source, label, max_bytes, allow_url=False) as file, closing(_Film(file, label, max_pixels)) as film:
        from av.error import FFmpegError

        try:
            video = _evenly_spaced(film, int(num_frames), max_seconds)
        except FFmpegError as error:
            raise damaged(label, error) from error
        if missing := missing_bytes(file):
            notice(log, "%s: truncated: %d bytes are missing at its end; what is there is used", label, missing)
        return video


class _Film:
    """The pictures of a file that is open."""

    def __init__(self, file: BinaryIO, label: str, max_pixels: int) -> None:
        self.file, self.label, self.max_pixels = file, label, max_pixels
        self.open()

    def open(self) -> None:
        """Open the file at its beginning. MediaError if it has no pictures that can be decoded."""
        self.file.seek(0)
        self.container = open_container(self.file, self.label)
        pictures = [stream for stream in self.container.streams.video if not stream.disposition & _COVER]
        if not pictures:
            self.close()
            raise MediaError(f"{self.label}: there is no video stream in it")
        self.stream = pictures[0]
        if self.stream.codec_context is None:
            self.close()
            raise MediaError(f"{self.label}: FFmpeg cannot decode its pictures; convert the video to H.264 or VP9")
        check_pixels(self.stream.codec_context.width, self.stream.codec_context.height, self.label, self.max_pixels)
        # Frames may be larger than the header says. FFmpeg refuses these before it has memory for them, and counts its
        # padding of rows and columns too.
        most = self.max_pixels + _PADDING * (math.isqrt(self.max_pixels) + 1)
        self.stream.codec_context.options = {"max_pixels": str(min(most, _MOST))}
        start = self.stream.start_time
        self.start = 0.0 if start is None else float(start * self.stream.time_base)

    def close(self) -> None:
        """Give the decoder back; the file stays open."""
        self.container.close()

    def stated_seconds(self) -> float | None:
        """Its length by the header."""
        if self.stream.duration is not None:
            return float(self.stream.duration * self.stream.time_base)
        return None if self.container.duration is None else self.container.duration / 1_000_000  # AV_TIME_BASE

    def read_seconds(self) -> float:
        """Its length by the timestamps of all its packets, which are read for it."""
        self._rewind()
        ends = [
            packet.pts * float(packet.time_base) + seconds_of(packet)
            for packet in packets_of(self.container, self.stream)
            if not isinstance(packet, Lost) and packet.pts is not None
        ]
        return max(ends, default=self.start) - self.start

    def frames_by_seeking(self, times: Sequence[float]) -> tuple[dict[float, Any], bool]:
        """The frames shown at these times, by their own times; and whether all were reached, and others follow them."""
        shown, complete = {}, True
        for seconds in times:
            place = int((seconds + self.start) / self.stream.time_base)
            self.container.seek(place, stream=self.stream, backward=True)
            found, follows = None, False
            for time, frame in self._frames():
                if found is not None and time > seconds:
                    follows = True
                    break
                found = time, frame
            if found is not None:
                self._keep(shown, *found)
            complete = complete and follows and found is not None and found[0] <= seconds
        return shown, complete

    def goes_on(self, seconds: float) -> bool:
        """Whether there are pictures at some time behind this one, which a header may say is the end."""
        from av.error import FFmpegError

        try:
            self.container.seek(int((seconds + self.start) / self.stream.time_base), stream=self.stream, backward=True)
        except FFmpegError:  # an index, or a file, that ends before
            return False
        return any(
            not isinstance(packet, Lost)
            and packet.pts is not None
            and packet.pts * float(packet.time_base) - self.start > seconds + _PADDED
            for packet in packets_of(self.container, self.stream)
        )

    def frames_by_reading(self, times: Sequence[float]) -> dict[float, Any]:
        """The frames shown at these rising times, of all that are decoded from the beginning."""
        self._rewind()
        shown, last, waiting = {}, None, list(times)
        for time, frame in self._frames():
            while waiting and time > waiting[0] and last is not None:
                self._keep(shown, *last)
                waiting.pop(0)
            if not waiting:
                break
            last = time, frame
        if waiting and last is not None:
            self._keep(shown, *last)
        return shown

    def _keep(self, shown: dict[float, Any], time: float, frame: Any) -> None:
        """Adds a frame to those that are shown. MediaError for one that is too large, or too much with the others."""
        check_pixels(frame.width, frame.height, self.label, self.max_pixels)
        shown[time] = frame
        if sum(own.width * own.height for own in shown.values()) > _LARGEST * self.max_pixels:
            raise MediaError(
                f"{self.label}: its frames have more than {_LARGEST * self.max_pixels:,} pixels together; take fewer "
                "by num_frames, or raise max_pixels"
            )

    def _frames(self) -> Iterator[tuple[float, Any]]:
        for frame in decoded(self.container, self.stream, self.label):
            if not isinstance(frame, Lost) and frame.time is not None:
                yield frame.time - self.start, frame

    def _rewind(self) -> None:
        """Open the file anew: in a broadcast, even seeking to the start lands behind the first frames."""
        self.close()
        self.open()


def _evenly_spaced(film: _Film, num_frames: int, max_seconds: float) -> Video:
    """Frames of a film by the length that its header states, if seeking finds them, and else by reading all of it."""
    seconds, complete, shown = film.stated_seconds(), False, {}
    if seconds is not None and 0 < seconds <= max_seconds:
        shown, complete = film.frames_by_seeking(_middles(seconds, num_frames))
        complete = complete and not film.goes_on(seconds)
    if not complete:
        seconds = film.read_seconds()
        if seconds > max_seconds:
            raise too_long(film.label, max_seconds)
        shown = film.frames_by_reading(_middles(seconds, num_frames))
    if not shown:
        raise MediaError(f"{film.label}: damaged (none of its frames can be decoded); get a whole copy")
    times = sorted(shown)
    return Video(tuple(_as_shown(shown[time], film) for time in times), tuple(times))


def _middles(seconds: float, count: int) -> list[float]:
    """The middles of equal parts."""
    return [(index + 0.5) * seconds / count for index in range(count)]


def _as_shown(frame: Any, film: _Film) -> Image.Image:
    """A frame as RGB, upright and of square pixels."""
    image = load_image(frame.to_image(), max_pixels=film.max_pixels)
    aspect = film.stream.sample_aspect_ratio or film.stream.codec_context.sample_aspect_ratio
    if aspect and aspect != 1:
        width = max(1, round(image.width * float(aspect)))
        check_pixels(width, image.height, film.label, film.max_pixels)
        image = image.resize((width, image.height), Image.Resampling.BICUBIC)
        image = load_image(image, max_pixels=film.max_pixels)  # with its checks of shape
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    numbers = np.frombuffer(bytes(matrix), np.int32)[[0, 1, 3, 4]]  # which may be scaled, and a little off
    a, b, c, d = np.rint(numbers / max(1.0, np.abs(numbers, dtype=np.float64).max()))
    turn = _UPRIGHT.get((int(a), int(b), int(c), int(d)))
    return image if turn is None else image.transpose(turn)
