"""The guarded door for videos: some of their frames, evenly spread, each with its time."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from PIL import Image

from encoders.media.container import container_format, damaged, open_container
from encoders.media.image import MAX_PIXELS, load_image
from encoders.media.source import MediaError, label_of, opened

NUM_FRAMES = 8
MAX_BYTES = 2_000_000_000
MAX_SECONDS = 4 * 3600.0
SUFFIXES = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "flv", "wmv")


@dataclass(frozen=True, eq=False)
class Video:
    """Frames of a video, RGB, and when each is shown, in seconds."""

    frames: tuple[Image.Image, ...]
    times: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.frames or len(self.frames) != len(self.times):
            raise ValueError(f"a video needs frames and a time for each, got {len(self.frames)} and {len(self.times)}")


def is_video(source: Any) -> bool:
    """Whether a source is a `Video` or a path that is named as a video."""
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
    max_bytes: int = MAX_BYTES,
) -> Video:
    """`num_frames` frames of a video, from the middles of as many equal parts of it; fewer where it has fewer.

    source: a path, bytes, a binary file object or a `data:` URL of an mp4, webm, mkv, avi, … with the extra `media`.
    Each frame comes from where the video can be entered before its time, so that a long one is not decoded whole.
    Raises MediaError (a ValueError): no video in it, damaged, or beyond the limits, which are checked by the header.
    """
    if isinstance(source, Video):
        return source
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, not {num_frames}")
    label = label_of(source)
    with opened(source, label, max_bytes, allow_url=False) as file:
        container = container_format(file.read(32))
        file.seek(0)
        if container is None:
            raise MediaError(f"{label}: not a video that can be read; give an mp4, webm, mkv or avi")
        video = open_container(file, container, label)
        import av

        try:
            if not video.streams.video:
                raise MediaError(f"{label}: there is no picture in it")
            stream = video.streams.video[0]
            width, height = stream.codec_context.width, stream.codec_context.height
            if width * height > max_pixels:
                raise MediaError(f"{label}: {width} x {height} pixels, more than {max_pixels:,}; scale it down")
            seconds = _seconds(video, stream)
            if seconds is None or seconds <= 0:
                raise MediaError(f"{label}: it does not tell how long it is: damaged; get a whole copy")
            if seconds > max_seconds:
                raise MediaError(f"{label}: longer than {max_seconds:,.0f} s; cut it, or raise max_seconds")
            shown: dict[float, Image.Image] = {}
            for index in range(num_frames):
                frame = _frame_at(video, stream, (index + 0.5) * seconds / num_frames)
                if frame is not None:
                    shown[frame.time - _start(stream)] = frame
            if not shown:
                raise MediaError(f"{label}: none of its frames can be decoded: damaged; get a whole copy")
            times = sorted(shown)
            frames = tuple(load_image(shown[time].to_image(), max_pixels=max_pixels) for time in times)
            return Video(frames, tuple(times))
        except av.error.FFmpegError as error:
            raise damaged(label, error) from error
        finally:
            video.close()


def _seconds(video: Any, stream: Any) -> float | None:
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return None if video.duration is None else video.duration / 1_000_000  # FFmpeg's AV_TIME_BASE


def _start(stream: Any) -> float:
    return 0.0 if stream.start_time is None else float(stream.start_time * stream.time_base)


def _frame_at(video: Any, stream: Any, seconds: float) -> Any:
    """The frame that is shown at this time: the last that begins no later; None where there is none."""
    video.seek(int((seconds + _start(stream)) / stream.time_base), stream=stream, backward=True)
    found = None
    for frame in video.decode(stream):
        if frame.time is None:
            continue
        if found is not None and frame.time - _start(stream) > seconds:
            break
        found = frame
    return found
