"""Reading audio: a recording from any source → checked mono samples at one rate, block by block."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TypedDict, Unpack

import numpy as np

from encoders.media.container import MAX_BYTES, MAX_SECONDS, too_long
from encoders.media.mono import Mixer, Picker, Resampler, joined
from encoders.media.notices import notice
from encoders.media.parts import parts_of
from encoders.media.samples import Samples, from_array, from_libsndfile, from_pcm, whole_rate
from encoders.media.sound_track import SoundTrack, decode, survey
from encoders.media.source import MediaError, check_limits, label_of, opened
from encoders.media.truncation import reason_of_missing

log = logging.getLogger(__name__)

SAMPLE_RATE = 16_000  # Hz, Whisper's
MAX_SAMPLES_PER_SECOND = 8 * 192_000  # of all channels together
SUFFIXES = tuple("wav flac mp3 ogg oga opus aif aiff m4a aac wma amr caf mka".split())  # of files of audio only

MAX_WHOLE_SECONDS = 3600.0  # of recordings that are read into memory as a whole
MAX_WHOLE_SAMPLES = 1 << 28

MAX_AMPLITUDE = 16.0  # of floats: mixes go a little beyond 1, and 16-bit values far beyond it

_PADDING = 0.25  # seconds that an encoder may have added, and the decoder will leave out


@dataclass(frozen=True, eq=False)
class Audio:
    """A recording: `waveform` [T] float32, mono, in −1..1; `sample_rate` in Hz."""

    waveform: np.ndarray
    sample_rate: int

    @property
    def seconds(self) -> float:
        """Its length in seconds."""
        return len(self.waveform) / self.sample_rate


@dataclass(frozen=True)
class SoundStream:
    """An open recording. `seconds`: its length, to some milliseconds; `blocks`: mono float32 samples [n].

    channels: how many the source has, of which `blocks` are the mean, or one.
    """

    seconds: float
    blocks: Iterator[np.ndarray]
    channels: int = 1


class ReadingOptions(TypedDict, total=False):
    """Keyword arguments of `open_audio` besides the sample rate."""

    max_seconds: float
    max_bytes: float
    pcm_rate: float | None
    channel: int | None
    allow_truncated: bool
    allow_url: bool


def load_audio(source: Any, *, sample_rate: int = SAMPLE_RATE, **reading: Unpack[ReadingOptions]) -> Audio:
    """Any audio source → the whole recording in memory, mono, at `sample_rate`: 4 bytes a sample.

    `reading` and errors are those of `open_audio`, but `max_seconds` is an hour where it is not given, and no more than
    2^28 samples (1 GB) are read.
    """
    sample_rate = _own_rate(sample_rate)
    label, data = label_of(source[0] if isinstance(source, tuple) and source else source), bytearray()
    with open_audio(source, sample_rate=sample_rate, **{"max_seconds": MAX_WHOLE_SECONDS, **reading}) as sound:
        _check_count((sound.seconds - _PADDING) * sample_rate, label)
        for block in sound.blocks:
            data += block.tobytes()  # in place: a list of blocks and then all of them would take twice the memory
            _check_count(len(data) // 4, label)
    return Audio(np.frombuffer(data, np.float32), sample_rate)


@contextmanager
def open_audio(
    source: Any,
    *,
    sample_rate: int = SAMPLE_RATE,
    max_seconds: float = MAX_SECONDS,
    max_bytes: float = MAX_BYTES,
    pcm_rate: float | None = None,
    channel: int | None = None,
    allow_truncated: bool = False,
    allow_url: bool = False,
) -> Iterator[SoundStream]:
    """Any audio source → its samples block by block: hours of audio take the memory of one block.

    source: a path, bytes, a binary file object, a `data:` URL, an `Audio`, or a pair of an array or tensor and its rate
        in Hz. Arrays are [T], [C, T] or [T, C], where the shorter axis is the channels; integers of at most 32 bits
        at full scale, or floats in −1..1. Files are of any format of sound or film that FFmpeg or libsndfile reads.
    sample_rate: of the samples returned, in Hz; soxr resamples in high quality. Channels are averaged; where two
        cancel each other (one is the other upside down), the loudest is taken, with a warning.
    max_seconds, max_bytes: limits on the recording and on the encoded file, checked before anything is decoded.
    pcm_rate: the source is raw 16-bit little-endian mono at this rate without a header, as from a microphone.
    channel: this one alone, where 1 is the first, in place of the mean of all.
    allow_truncated: use what is there of a file whose end is missing, with a warning, instead of an error.
    allow_url: fetch http(s) addresses, from public machines alone, within 20 s.
    The sound of a film keeps its time: silence stands for a late beginning, for gaps, and for what is damaged within.
    What is decoded is the truth: lengths in a header are not believed, and tell nothing about truncation.
    Raises MediaError (a ValueError), also for samples that are not finite or far outside −1..1; for a path that does
    not exist, MissingMediaError (also a FileNotFoundError).
    """
    check_limits(max_seconds=max_seconds, max_bytes=max_bytes)
    sample_rate = _own_rate(sample_rate)
    label = label_of(source[0] if isinstance(source, tuple) and source else source)
    if isinstance(source, Audio):
        source = (source.waveform, source.sample_rate)
    if isinstance(source, tuple):
        samples = from_array(source, label)
        yield _stream(samples, label, sample_rate, max_seconds, channel)
        return
    if hasattr(source, "shape") and not isinstance(source, memoryview):
        raise MediaError(f"{label}: an array has no sample rate; give (samples, rate in Hz)")
    with opened(source, label, max_bytes, allow_url) as file:
        if pcm_rate is not None:
            samples = from_pcm(file, pcm_rate, label)
        else:
            samples = _from_file(file, label, allow_truncated)
        yield _stream(samples, label, sample_rate, max_seconds, channel)


def audio_key(source: Any, *, max_bytes: float = MAX_BYTES) -> str:
    """SHA-256 in hex of a source's content, as a cache key: of the bytes of encoded sources, of samples otherwise."""
    if isinstance(source, Audio | tuple):
        audio = load_audio(source, max_seconds=MAX_SECONDS)
        return hashlib.sha256(b"mono %d " % audio.sample_rate + audio.waveform.tobytes()).hexdigest()
    digest = hashlib.sha256()
    with opened(source, label_of(source), max_bytes, allow_url=False) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _from_file(file: BinaryIO, label: str, allow_truncated: bool) -> Samples:
    """The sound of a file, by FFmpeg where it can, refused here if its end is missing."""
    parts = parts_of(file, label)
    try:
        tracks = [survey(file, label)] if len(parts) == 1 else _joined_tracks(parts, label, allow_truncated)
    except MediaError as error:
        missing = reason_of_missing(file)
        samples = from_libsndfile(file, label, error)
        _check_whole(label, missing, allow_truncated)
        return samples
    for track in tracks:
        _check_whole(track.label, track.missing, allow_truncated)
    blocks = (block for track in tracks for block in decode(track))
    return Samples(sum(track.seconds for track in tracks), tracks[0].rate, tracks[0].channels, blocks)


def _joined_tracks(parts: Sequence[BinaryIO], label: str, allow_truncated: bool) -> list[SoundTrack]:
    """The tracks of joined recordings, but for those that break off in their heads, where that is allowed."""
    tracks = []
    for number, part in enumerate(parts, 1):
        try:
            tracks.append(survey(part, f"{label}, part {number} of {len(parts)}"))
        except MediaError as error:
            if not allow_truncated:
                raise MediaError(f"{error} (to leave this part out, pass allow_truncated=True)") from error
            notice(log, "%s; this part is left out", error)
    if not tracks:
        raise MediaError(f"{label}: none of its {len(parts)} joined recordings can be read; get a whole copy")
    return tracks


def _check_whole(label: str, missing: str, allow_truncated: bool) -> None:
    """MediaError for a file of which something is missing, unless that is allowed, which is said."""
    if missing and not allow_truncated:
        raise MediaError(f"{label}: truncated: {missing}; get a whole copy, or pass allow_truncated=True")
    if missing:
        notice(log, "%s: truncated: %s; what is there is used", label, missing)


def _stream(samples: Samples, label: str, sample_rate: int, max_seconds: float, channel: int | None) -> SoundStream:
    """The mono samples of a source, after the checks that come before decoding."""
    _check_rate(samples.rate, samples.channels, label)
    if samples.seconds == 0:
        raise _empty(label)
    if samples.seconds - _PADDING > max_seconds:
        raise too_long(label, max_seconds)
    mix = Mixer(label) if channel is None else Picker(label, channel, samples.channels)
    return SoundStream(samples.seconds, _mono_at(sample_rate, samples, label, max_seconds, mix), samples.channels)


def _mono_at(
    sample_rate: int, samples: Samples, label: str, max_seconds: float, mix: Mixer | Picker
) -> Iterator[np.ndarray]:
    """Mono blocks at `sample_rate`, checked while they are decoded. A rate that changes on the way is followed."""
    resampler, decoded, given = Resampler(sample_rate), 0.0, 0
    for block in joined(samples.blocks):
        _check_rate(block.rate, block.samples.shape[1], label)
        _check_values(block.samples, decoded, label)
        decoded += len(block.samples) / block.rate
        if decoded > max_seconds:
            raise too_long(label, max_seconds)
        for mono in resampler(mix(block.samples), block.rate):
            given += len(mono)
            yield mono
    if decoded == 0:
        raise _empty(label)
    for mono in resampler.rest():
        given += len(mono)
        yield mono
    if given == 0:
        raise MediaError(f"{label}: too short: {decoded:.6f} s give no sample at {sample_rate:,} Hz")


def _own_rate(sample_rate: Any) -> int:
    """The rate of the samples that are returned."""
    rate = whole_rate(sample_rate, "sample_rate")
    if not 1 <= rate <= MAX_SAMPLES_PER_SECOND:
        raise MediaError(f"sample_rate must be at least 1 Hz and at most {MAX_SAMPLES_PER_SECOND:,}, not {rate:,}")
    return rate


def _check_rate(rate: int, channels: int, label: str) -> None:
    if not 1000 <= rate <= MAX_SAMPLES_PER_SECOND or rate * channels > MAX_SAMPLES_PER_SECOND:
        raise MediaError(
            f"{label}: {channels} channels at {rate:,} Hz; the rate must be at least 1,000 Hz, and at most "
            f"{MAX_SAMPLES_PER_SECOND:,} Hz for all channels together; resample it, or mix its channels"
        )


def _check_values(samples: np.ndarray, seconds: float, label: str) -> None:
    """MediaError for samples that are not finite, or are 16-bit values that nobody divided."""
    peak = float(np.abs(samples).max(initial=0))
    if not np.isfinite(peak):
        raise MediaError(f"{label}: a sample is not a finite number, after {seconds:.2f} s")
    if peak > MAX_AMPLITUDE:
        raise MediaError(
            f"{label}: samples reach {peak:,.0f}, where floats must lie in -1..1; divide 16-bit values by 32,768, "
            "or give them as int16"
        )


def _check_count(samples: float, label: str) -> None:
    if samples > MAX_WHOLE_SAMPLES:
        raise MediaError(
            f"{label}: more than {MAX_WHOLE_SAMPLES:,} samples, which are not read into memory at once; cut it, take a "
            "lower sample_rate, or read it block by block with open_audio"
        )


def _empty(label: str) -> MediaError:
    return MediaError(f"{label}: there is no sound in it (0 samples)")
