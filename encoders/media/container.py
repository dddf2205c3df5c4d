"""Containers of audio and video (mp4, webm, …), opened with PyAV, which the extra `media` installs."""

from __future__ import annotations

from typing import Any, BinaryIO

from encoders.media.source import MediaError, reason_of

# Default limits on recordings and videos.
MAX_BYTES = 2_000_000_000
MAX_SECONDS = 4 * 3600.0

# (offset, first bytes, FFmpeg's name) of the formats that PyAV is given. With a name FFmpeg does not guess the format:
# some of the formats that it knows are lists of addresses, which it would fetch.
_FORMATS: tuple[tuple[int, bytes, str], ...] = (
    (4, b"ftyp", "mp4"),
    (0, b"\x1aE\xdf\xa3", "matroska"),
    (0, b"\xff\xf1", "aac"),
    (0, b"\xff\xf9", "aac"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "asf"),
    (0, b"FLV\x01", "flv"),
    (8, b"AVI ", "avi"),
)


def container_format(start: bytes) -> str | None:
    """FFmpeg's name of the container that begins with these 32 bytes; None if it is none of the known ones."""
    return next((name for place, magic, name in _FORMATS if start[place:].startswith(magic)), None)


def open_container(file: BinaryIO, container: str, label: str) -> Any:
    """Open a container of this format with PyAV. MediaError if PyAV is not installed or the file is damaged."""
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        raise MediaError(f"{label}: {container} needs the extra: pip install 'mmlm[media]'") from error
    try:
        opened = av.open(file, format=container, metadata_errors="ignore")
    except (FFmpegError, ValueError) as error:
        raise damaged(label, error) from error
    if not opened.streams:  # many mp4 files have the list of streams at their end
        opened.close()
        raise MediaError(f"{label}: truncated or damaged (it has no streams); get a whole copy")
    return opened


def damaged(label: str, error: Exception) -> MediaError:
    """The error for a container that is truncated or cannot be decoded."""
    return MediaError(f"{label}: truncated or damaged ({reason_of(error)}); get a whole copy")


def too_long(label: str, max_seconds: float) -> MediaError:
    """The error for a recording or video that is longer than `max_seconds`."""
    return MediaError(f"{label}: longer than {max_seconds:,.0f} s; cut it, or raise max_seconds")
