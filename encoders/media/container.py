"""Files of sound and film, opened with FFmpeg through PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from encoders.media.source import MediaError, reason_of

# Default limits on recordings and videos.
MAX_BYTES = 2_000_000_000
MAX_SECONDS = 4 * 3600.0

# Formats of FFmpeg that hold sound or film. Left out are those that are lists of addresses or of other files, which it
# would open (hls, dash, concat, imf, sdp), those that run scripts or devices, and raw samples without a header.
_FORMATS = (
    "3gp aac ac3 aiff amr amrnb amrwb ape apng asf au avi caf dsf dts dv eac3 flac flv gif gsm ircam ivf loas matroska "
    "mlp mov mp2 mp3 mp4 mpeg mpegts mpc mpc8 mxf nistsphere nut ogg opus rm shn tak truehd tta voc w64 wav webm wv "
    "xwma"
)
_LONGEST_PACKET = 60.0  # seconds
_GIVE_UP = 1000  # failures in a row after which the rest of a file is not tried


def open_container(file: BinaryIO, label: str) -> Any:
    """Open a file of sound or film with PyAV; FFmpeg recognises its format by its content.

    MediaError if it is none, or damaged.
    """
    import av
    from av.error import FFmpegError

    if not file.read(1):
        raise MediaError(f"{label}: the source is empty")
    file.seek(0)
    options = {"format_whitelist": ",".join(_FORMATS.split()), "protocol_whitelist": "none"}
    try:
        opened = av.open(file, options=options, metadata_errors="ignore")
    except (FFmpegError, OSError, ValueError) as error:  # OSError: FFmpeg asked for a place before the file
        raise MediaError(
            f"{label}: not a sound file or video that can be read, or damaged ({reason_of(error)}); get a whole copy, "
            "or convert it to FLAC, MP3 or MP4"
        ) from error
    if not opened.streams:
        opened.close()
        raise MediaError(f"{label}: truncated or damaged (it has no streams); get a whole copy")
    return opened


@dataclass(frozen=True)
class Lost:
    """A packet that cannot be read or decoded, how many seconds it would have lasted, and why."""

    seconds: float
    error: Exception


def packets_of(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of a stream, and a `Lost` for each place that cannot be read; what lies behind it is read on."""
    from av.error import FFmpegError

    failed = 0
    while True:
        try:
            for packet in container.demux(stream):
                failed = 0
                yield packet
            return
        except IndexError:  # a packet of a stream that begins within the file, which PyAV has no place for
            continue
        except (FFmpegError, OSError) as error:  # OSError: FFmpeg asked for a place before the file
            failed += 1
            yield Lost(0.0, error)
            if failed == _GIVE_UP:
                return


def decoded(container: Any, stream: Any, label: str) -> Iterator[Any]:
    """The frames of a stream, and a `Lost` for each packet that cannot be decoded. MediaError if most cannot.

    Packets without data are passed over: in Theora they say that the picture stays as it is.
    """
    from av.error import FFmpegError

    found = lost = 0
    error = None
    for packet in packets_of(container, stream):
        if not isinstance(packet, Lost) and not packet.size and packet.dts is not None:  # the last one has no time
            continue
        try:
            frames = [packet] if isinstance(packet, Lost) else packet.decode()
        except (FFmpegError, ValueError) as reason:
            frames = [Lost(seconds_of(packet), reason)]
        for frame in frames:
            if isinstance(frame, Lost):
                error, lost = frame.error, lost + 1
            else:
                found += 1
            yield frame
    if error is not None and lost > found:
        raise damaged(label, error) from error


def seconds_of(packet: Any) -> float:
    """How long a packet lasts; 0 if that is unknown, or more than a packet holds (FFmpeg gives 2^32 − n for −n)."""
    seconds = (packet.duration or 0) * float(packet.time_base)
    return seconds if 0 <= seconds < _LONGEST_PACKET else 0.0


def start_of(container: Any) -> float:
    """The timestamp at which a file begins to be shown or heard, in seconds."""
    return 0.0 if container.start_time is None else container.start_time / 1_000_000  # FFmpeg's AV_TIME_BASE


def damaged(label: str, error: Exception) -> MediaError:
    """The error for a container that is truncated or cannot be decoded."""
    return MediaError(f"{label}: truncated or damaged ({reason_of(error)}); get a whole copy")


def too_long(label: str, max_seconds: float) -> MediaError:
    """The error for a recording or video that is longer than `max_seconds`."""
    return MediaError(f"{label}: longer than {max_seconds:,.10g} s; cut it, or raise max_seconds")
