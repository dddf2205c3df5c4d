"""Reading audio: a recording from any source → checked mono samples at one rate, block by block."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import numpy as np

from encoders.media.container import MAX_BYTES, MAX_SECONDS, too_long
from encoders.media.sound_decoders import Decoder, decode_array, decode_file, decode_pcm, report_truncated
from encoders.media.source import MediaError, label_of, opened

SAMPLE_RATE = 16_000  # Hz, Whisper's
MAX_SAMPLES_PER_SECOND = 8 * 192_000  # of all channels together
SUFFIXES = ("wav", "flac", "mp3", "ogg", "oga", "opus", "aif", "aiff", "m4a", "aac", "wma")  # of files of audio only

_TOLERANCE = 0.25  # seconds by which a header may overstate the length, since encoders pad


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
    """An open recording. `seconds`: its length by the header, None if unknown; `blocks`: mono float32 samples [n]."""

    seconds: float | None
    blocks: Iterator[np.ndarray]


class ReadingOptions(TypedDict, total=False):
    """Keyword arguments of `open_audio` besides the sample rate."""

    max_seconds: float
    max_bytes: int
    pcm_rate: int | None
    allow_truncated: bool
    allow_url: bool


def load_audio(source: Any, *, sample_rate: int = SAMPLE_RATE, **reading: Unpack[ReadingOptions]) -> Audio:
    """Any audio source → the whole recording in memory, mono, at `sample_rate`.

    `reading` and errors are those of `open_audio`.
    """
    with open_audio(source, sample_rate=sample_rate, **reading) as sound:
        return Audio(np.concatenate(list(sound.blocks)), sample_rate)


@contextmanager
def open_audio(
    source: Any,
    *,
    sample_rate: int = SAMPLE_RATE,
    max_seconds: float = MAX_SECONDS,
    max_bytes: int = MAX_BYTES,
    pcm_rate: int | None = None,
    allow_truncated: bool = False,
    allow_url: bool = False,
) -> Iterator[SoundStream]:
    """Any audio source → its samples block by block: hours of audio take the memory of one block.

    source: a path, bytes, a binary file object, a `data:` URL, an `Audio`, or a pair of an array or tensor and its rate
        in Hz. Arrays are [T], [C, T] or [T, C], where the shorter axis is the channels; integers at full scale, or
        floats in −1..1. Formats are wav, flac, mp3, ogg, opus and whatever else libsndfile reads; with the extra
        `media` also m4a, aac, webm and videos.
    sample_rate: of the samples returned, in Hz; soxr resamples in high quality. Channels are averaged.
    max_seconds, max_bytes: limits on the recording and on the encoded file. They are checked by the header before
        anything is decoded, and again while decoding.
    pcm_rate: the source is raw 16-bit little-endian mono at this rate without a header, as from a microphone.
    allow_truncated: use what is there of a file that ends early, with a warning, instead of an error.
    allow_url: fetch http(s) addresses. Addresses inside your network are not excluded: keep it off for untrusted input.
    Raises MediaError (a ValueError), also for samples that are not finite; for a path that does not exist,
    MissingMediaError (also a FileNotFoundError).
    """
    pair = (source.waveform, source.sample_rate) if isinstance(source, Audio) else source
    label = label_of(pair[0]) if isinstance(pair, tuple) else label_of(source)
    if isinstance(pair, tuple):
        decoder = decode_array(pair, label)
        yield _checked(decoder, label, sample_rate, max_seconds, allow_truncated)
        return
    if hasattr(source, "shape"):
        raise MediaError(f"{label}: an array has no sample rate; give (samples, rate in Hz)")
    with opened(source, label, max_bytes, allow_url) as file:
        if pcm_rate is not None:
            decoder = decode_pcm(file, pcm_rate, label)
        else:
            decoder = decode_file(file, label, allow_truncated)
        yield _checked(decoder, label, sample_rate, max_seconds, allow_truncated)


def audio_key(source: Any, *, max_bytes: int = MAX_BYTES) -> str:
    """SHA-256 in hex of a source's content, as a cache key: of the bytes of encoded sources, of samples otherwise."""
    if isinstance(source, Audio | tuple):
        audio = load_audio(source)
        return hashlib.sha256(b"mono %d " % audio.sample_rate + audio.waveform.tobytes()).hexdigest()
    digest = hashlib.sha256()
    with opened(source, label_of(source), max_bytes, allow_url=False) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _checked(decoder: Decoder, label: str, sample_rate: int, max_seconds: float, allow_truncated: bool) -> SoundStream:
    """The stream of a decoder, after the checks that its header allows."""
    rate = decoder.rate
    if not 1000 <= rate <= MAX_SAMPLES_PER_SECOND or rate * decoder.channels > MAX_SAMPLES_PER_SECOND:
        raise MediaError(
            f"{label}: {decoder.channels} channels at {rate:,} Hz; the rate must be at least 1,000 Hz, and at most "
            f"{MAX_SAMPLES_PER_SECOND:,} Hz for all channels together; resample it, or mix its channels"
        )
    seconds = None if decoder.frames is None else decoder.frames / rate
    if seconds == 0:
        raise _empty(label)
    if seconds is not None and seconds > max_seconds:
        raise too_long(label, max_seconds)
    return SoundStream(seconds, _blocks(decoder, label, sample_rate, max_seconds, allow_truncated))


def _blocks(
    decoder: Decoder, label: str, sample_rate: int, max_seconds: float, allow_truncated: bool
) -> Iterator[np.ndarray]:
    """Mono blocks at `sample_rate`, checked while they are decoded."""
    import soxr

    resampler = None
    if decoder.rate != sample_rate:
        resampler = soxr.ResampleStream(decoder.rate, sample_rate, 1, dtype="float32", quality="HQ")
    decoded = given = 0
    for block in decoder.blocks:
        if not np.isfinite(block).all():
            raise MediaError(f"{label}: a sample is not a finite number, after {decoded / decoder.rate:.2f} s")
        decoded += len(block)
        if decoded > max_seconds * decoder.rate:
            raise too_long(label, max_seconds)
        mono = block.mean(axis=1) if block.shape[1] > 1 else np.ascontiguousarray(block[:, 0])
        mono = mono if resampler is None else resampler.resample_chunk(mono)
        if len(mono):
            given += len(mono)
            yield mono
    if decoded == 0:
        raise _empty(label)
    missing = 0 if decoder.frames is None else (decoder.frames - decoded) / decoder.rate
    if missing > _TOLERANCE:
        report_truncated(label, f"it ends {missing:.1f} s before its header says", allow_truncated)
    rest = np.zeros(0, np.float32)
    if resampler is not None:
        rest = resampler.resample_chunk(rest, last=True)
    if given + len(rest) == 0:
        raise MediaError(f"{label}: too short: {decoded} samples at {decoder.rate:,} Hz give none at {sample_rate:,}")
    if len(rest):
        yield rest


def _empty(label: str) -> MediaError:
    return MediaError(f"{label}: there is no sound in it (0 samples)")
