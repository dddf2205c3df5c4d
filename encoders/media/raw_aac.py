"""AAC in a WAV file, whose frames have no heads: only the decoder finds where one ends, so it gets all of them at once.

FFmpeg cuts such a file into packets anywhere, and loses most frames.
"""

from __future__ import annotations

from typing import Any

from encoders.media.container import damaged
from encoders.media.source import MediaError

MOST = 8 << 20  # bytes, some ten minutes: their frames are in memory together


def is_raw_aac(container: Any, stream: Any) -> bool:
    """Whether a stream is AAC in a WAV file that states how it is decoded."""
    context = stream.codec_context
    return container.format.name == "wav" and context.name == "aac" and bool(context.extradata)


def raw_frames(container: Any, stream: Any, label: str) -> list[Any]:
    """All frames of such a stream. MediaError where they are too many, or one is damaged."""
    import av
    from av.error import FFmpegError

    data = bytearray()
    try:
        for packet in container.demux(stream):
            data += bytes(packet)
            if len(data) > MOST:
                raise MediaError(
                    f"{label}: AAC without frame heads in a WAV file, of more than {MOST:,} bytes, which must be read "
                    "at once; have it written as M4A or FLAC"
                )
        decoder = av.CodecContext.create("aac", "r")
        decoder.extradata = stream.codec_context.extradata
        return [frame for own in (av.Packet(bytes(data)), None) for frame in decoder.decode(own) if frame.samples]
    except MediaError:
        raise
    except (FFmpegError, ValueError) as error:
        raise damaged(label, error) from error
