"""Reading videos: evenly spaced frames, each with its time."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from PIL import Image

from encoders.media.container import MAX_BYTES, MAX_SECONDS, container_format, damaged, open_container, too_long
from encoders.media.image import MAX_PIXELS, check_pixels, load_image
from encoders.media.source import MediaError, label_of, opened

NUM_FRAMES = 8
SUFFIXES = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "flv", "wmv")


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
    max_bytes: int = MAX_BYTES,
) -> Video:
    """`num_frames` frames from the middles of as many equal parts of a video; fewer if it has fewer.

    source: a path, bytes, a binary file object or a `data:` URL of an mp4, webm, mkv, avi, … with the extra `media`;
        a `Video` is returned as it is.
    max_pixels, max_seconds, max_bytes: limits on a frame, on the video and on the file, checked by the header.
    Each frame is reached by seeking, so that a long video is not decoded from start to end.
    Raises MediaError (a ValueError) for a source without a video stream, a damaged one, or one beyond the limits.
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
        from av.error import FFmpegError

        try:
            return _evenly_spaced(video, num_frames, label, max_pixels, max_seconds)
        except FFmpegError as error:
            raise damaged(label, error) from error
        finally:
            video.close()


def _evenly_spaced(video: Any, num_frames: int, label: str, max_pixels: int, max_seconds: float) -> Video:
    """Frames of an open container, after the checks that its header allows."""
    if not video.streams.video:
        raise MediaError(f"{label}: there is no video stream in it")
    stream = video.streams.video[0]
    check_pixels(stream.codec_context.width, stream.codec_context.height, label, max_pixels)
    seconds = _seconds(video, stream)
    if seconds is None or seconds <= 0:
        raise MediaError(f"{label}: damaged (its header gives no length); get a whole copy")
    if seconds > max_seconds:
        raise too_long(label, max_seconds)
    shown: dict[float, Any] = {}
    for index in range(num_frames):
        frame = _frame_at(video, stream, (index + 0.5) * seconds / num_frames)
        if frame is not None:
            shown[frame.time - _start(stream)] = frame
    if not shown:
        raise MediaError(f"{label}: damaged (none of its frames can be decoded); get a whole copy")
    times = sorted(shown)
    frames = tuple(load_image(shown[time].to_image(), max_pixels=max_pixels) for time in times)
    return Video(frames, tuple(times))


def _seconds(video: Any, stream: Any) -> float | None:
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return None if video.duration is None else video.duration / 1_000_000  # FFmpeg's AV_TIME_BASE


def _start(stream: Any) -> float:
    return 0.0 if stream.start_time is None else float(stream.start_time * stream.time_base)


def _frame_at(video: Any, stream: Any, seconds: float) -> Any:
    """The frame shown at this time: the last one that begins no later than that. None if there is none."""
    video.seek(int((seconds + _start(stream)) / stream.time_base), stream=stream, backward=True)
    found = None
    for frame in video.decode(stream):
        if frame.time is None:
            continue
        if found is not None and frame.time - _start(stream) > seconds:
            break
        found = frame
    return found
