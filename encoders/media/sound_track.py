"""The sound of a file, decoded with FFmpeg through PyAV.

All packets are read before the first is decoded, which takes a small part of the time. That tells how long the sound is
and whether its end is missing; what a header says of its length is often an estimate, or wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from encoders.media.container import Lost, decoded, open_container, packets_of, seconds_of
from encoders.media.frames import missing_of_frame
from encoders.media.notices import notice
from encoders.media.raw_aac import is_raw_aac, raw_frames
from encoders.media.samples import BLOCK, Block, to_float
from encoders.media.source import MediaError
from encoders.media.timeline import Timeline
from encoders.media.truncation import reason_of_missing, unread_bytes

log = logging.getLogger(__name__)

_XING_FRAME = 2881  # bytes of the largest frame of an MP3
_OF_FRAMES = tuple("aac ac3 amr dts eac3 gsm loas mlp mp3 truehd wav".split())  # FFmpeg finds their frames by itself
_COUNTED = ("flac", "tta", "wavpack")  # codecs of which a header states how many samples there are
_BEHIND = 1 << 16  # bytes behind the last packet in which another frame may begin
_UNREAD = 1000  # bytes behind the sound of a file that may be anything
_TOLERANCE = 0.25  # seconds by which a header may overstate the length, since encoders pad


@dataclass(frozen=True)
class SoundTrack:
    """The sound of a file before it is decoded. `seconds`: its length; `missing`: what its end lacks, "" if nothing."""

    file: BinaryIO
    label: str
    seconds: float
    rate: int
    channels: int
    missing: str


def survey(file: BinaryIO, label: str) -> SoundTrack:
    """Read all packets of the sound of a file. MediaError if there is none."""
    reason = reason_of_missing(file)
    try:
        container = open_container(file, label)
    except MediaError:
        if reason:
            raise MediaError(f"{label}: truncated: {reason}; get a whole copy") from None
        raise
    with container:
        stream = _sound_of(container, label)
        if is_raw_aac(container, stream):
            return _raw_track(file, label, raw_frames(container, stream, label), reason)
        timeline = Timeline.of(container)
        first = last = None
        for packet in packets_of(container, stream):
            if not isinstance(packet, Lost) and packet.size:
                _pass(packet, timeline)
                first, last = first or packet, packet
        if first is None or last is None:
            raise MediaError(f"{label}: there is no sound in it (0 samples)")
        reason = reason or _reason_of_last(file, container, stream, last)
        if (unread := unread_bytes(file, (last.pos or 0) + last.size)) > _UNREAD:
            notice(log, "%s: %d bytes behind its sound are not read: a second recording, or more of it", label, unread)
        if not reason:
            _warn_of_header(file, first, stream, timeline.position, label)
        context = stream.codec_context
        return SoundTrack(file, label, timeline.position, context.sample_rate, context.channels, reason)


def decode(track: SoundTrack) -> Iterator[Block]:
    """The samples of a sound track, and silence where its timestamps leave a gap.

    A packet that cannot be decoded costs that packet, with one warning in the end.
    """
    track.file.seek(0)
    with open_container(track.file, track.label) as container:
        stream = _sound_of(container, track.label)
        timeline = Timeline.of(container)
        if is_raw_aac(container, stream):
            yield from (_block(frame, timeline) for frame in raw_frames(container, stream, track.label))
            return
        lost = gaps = 0
        for frame in decoded(container, stream, track.label):
            if isinstance(frame, Lost):
                lost += 1
                yield from _silence(frame.seconds, track.rate, track.channels, timeline)
                continue
            if not frame.samples:
                continue
            if frame.sample_rate != track.rate:
                timeline.follow_samples()
            silence = timeline.silence_before(frame.time)
            gaps += silence > 0 and timeline.position > 0
            yield from _silence(silence, frame.sample_rate, frame.layout.nb_channels, timeline)
            yield _block(frame, timeline)
    if lost or gaps:
        notice(log, "%s: silence is put in place of %d damaged packets and %d gaps", track.label, lost, gaps)


def _raw_track(file: BinaryIO, label: str, frames: list[Any], missing: str) -> SoundTrack:
    """The track of frames that only their decoder could count."""
    if not frames:
        raise MediaError(f"{label}: there is no sound in it (0 samples)")
    seconds = sum(frame.samples / frame.sample_rate for frame in frames)
    return SoundTrack(file, label, seconds, frames[0].sample_rate, frames[0].layout.nb_channels, missing)


def _sound_of(container: Any, label: str) -> Any:
    """The stream of sound that FFmpeg prefers among those that it can decode; the others are not read."""
    best = container.streams.best("audio")
    if best is None:
        raise MediaError(f"{label}: there is no sound in it")
    known = [stream for stream in (best, *container.streams.audio) if stream.codec_context is not None]
    if not known:
        raise MediaError(f"{label}: its sound is of a kind that FFmpeg cannot decode; convert it to FLAC or MP3")
    stream = next((one for one in known if one.codec_context.sample_rate and one.codec_context.channels), None)
    if stream is None:
        raise MediaError(f"{label}: damaged (its sound has no rate or no channels); get a whole copy")
    from av.stream import Discard

    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    return stream


def _pass(packet: Any, timeline: Timeline) -> None:
    """Move on by a packet, and by what lies before it."""
    time = None if packet.pts is None else packet.pts * float(packet.time_base)
    timeline.advance(timeline.silence_before(time) + seconds_of(packet))


def _block(frame: Any, timeline: Timeline) -> Block:
    """The samples of a frame."""
    samples = _samples(frame)
    timeline.advance(len(samples) / frame.sample_rate)
    return Block(to_float(samples), frame.sample_rate)


def _samples(frame: Any) -> np.ndarray:
    """The samples `[N, channels]` of a frame, in its own dtype.

    Planes are counted by the channels. PyAV's `planes` and `to_ndarray` count up to a null pointer, which FFmpeg leaves
    behind up to 8 planes alone: of more channels they read memory that is not the frame's.
    """
    from av.audio.frame import format_dtypes
    from av.audio.plane import AudioPlane

    channels = frame.layout.nb_channels
    if not frame.format.is_planar:
        return frame.to_ndarray().reshape(-1, channels)
    dtype = np.dtype(format_dtypes[frame.format.name])
    planes: list[Any] = [AudioPlane(frame, channel) for channel in range(channels)]
    return np.stack([np.frombuffer(plane, dtype, frame.samples) for plane in planes]).T


def _silence(seconds: float, rate: int, channels: int, timeline: Timeline) -> Iterator[Block]:
    """Nothing, for so long."""
    count = round(seconds * rate)
    timeline.advance(count / rate)
    while count > 0:
        yield Block(np.zeros((min(count, BLOCK), channels), np.float32), rate)
        count -= BLOCK


def _reason_of_last(file: BinaryIO, container: Any, stream: Any, packet: Any) -> str:
    """Why the last packet is not whole; "" if it is."""
    from av.error import FFmpegError

    codec = stream.codec_context.name
    if packet.is_corrupt and container.format.name != "wav":  # of which `missing_bytes` knows more
        return "its last packet is not whole"
    if container.format.name in _OF_FRAMES and missing_of_frame(codec, _from_there(file, packet)):
        return "its last frame is not whole"
    if codec == "flac":  # each frame can be decoded by itself
        try:
            packet.decode()
        except FFmpegError:
            return "its last frame is not whole"
    return ""


def _from_there(file: BinaryIO, packet: Any) -> bytes:
    """A packet and what lies behind it, which FFmpeg may have left out as no whole frame."""
    if packet.pos is None:
        return bytes(packet)
    file.seek(packet.pos + packet.size)
    return bytes(packet) + file.read(_BEHIND)


def _warn_of_header(file: BinaryIO, first: Any, stream: Any, seconds: float, label: str) -> None:
    """Say where an encoder counted more than is there, as in a file that was cut between two frames."""
    rate, stated = stream.codec_context.sample_rate, 0.0
    if stream.codec_context.name in _COUNTED and stream.duration is not None:
        stated = float(stream.duration * stream.time_base)
    elif first.pos is not None:  # the count of an MP3 is in a frame of its own, which FFmpeg does not show
        file.seek(max(0, first.pos - _XING_FRAME))
        head = file.read(_XING_FRAME)
        at = max(head.rfind(b"Xing"), head.rfind(b"Info"))
        if at >= 0 and len(head) >= at + 12 and head[at + 7] & 1:
            stated = int.from_bytes(head[at + 8 : at + 12], "big") * (1152 if rate >= 32_000 else 576) / rate
    if stated - seconds > _TOLERANCE:
        notice(log, "%s: its header says %.1f s, %.1f s are there, which are used", label, stated, seconds)
