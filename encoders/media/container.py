"""Containers of sound and video (mp4, webm, …), opened by PyAV with the extra `media`."""

from __future__ import annotations

from typing import Any, BinaryIO

from encoders.media.source import MediaError, reason_of

# By their first bytes, what PyAV is handed, each with FFmpeg's own name for it. Naming it keeps FFmpeg from guessing:
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
    """FFmpeg's name of the container that begins with these 32 bytes; None if it is none of those known here."""
    return next((name for place, magic, name in _FORMATS if start[place:].startswith(magic)), None)


def open_container(file: BinaryIO, container: str, label: str) -> Any:
    """The container in `file`, of this format, as PyAV opens it; MediaError without PyAV, or where it is damaged."""
    try:
        import av
    except ImportError as error:
        raise MediaError(f"{label}: {container} needs the extra: pip install 'mmlm[media]'") from error
    try:
        opened = av.open(file, format=container, metadata_errors="ignore")
    except (av.error.FFmpegError, ValueError) as error:
        raise damaged(label, error) from error
    if not opened.streams:  # the list of them comes last in many an mp4
        opened.close()
        raise MediaError(f"{label}: truncated or damaged (nothing in it can be found); get a whole copy")
    return opened


def damaged(label: str, error: Exception) -> MediaError:
    """What to raise where a container breaks off or does not decode."""
    return MediaError(f"{label}: truncated or damaged ({reason_of(error)}); get a whole copy")
