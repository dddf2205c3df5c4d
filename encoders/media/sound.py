"""The guarded door for sound: whatever a recording comes as, checked mono samples at one rate come out, in blocks."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from encoders.media.container import container_format, damaged, open_container
from encoders.media.source import MediaError, label_of, opened, reason_of

log = logging.getLogger(__name__)

SAMPLE_RATE = 16_000  # Hz, Whisper's
MAX_BYTES = 2_000_000_000
MAX_SECONDS = 4 * 3600.0
MAX_SAMPLES_PER_SECOND = 8 * 192_000  # of all channels together
BLOCK = 1 << 16  # frames decoded at a time
SUFFIXES = ("wav", "flac", "mp3", "ogg", "oga", "opus", "aif", "aiff", "m4a", "aac", "wma")  # of files of sound alone

_UNKNOWN_LENGTH = 0x7FFFFFFF - 4096  # what writers to a pipe leave in a WAV header is about this or more
_SHORTER = re.compile(r"(?:data|SSND|Data Size|riff) *: (\d+) \(should be (\d+)\)")  # libsndfile's log
_TOLERANCE = 0.25  # seconds that encoders pad, and that a header may promise too much


@dataclass(frozen=True, eq=False)
class Audio:
    """A recording: `waveform` [T] float32, mono, full scale −1..1; `sample_rate` in Hz."""

    waveform: np.ndarray
    sample_rate: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.waveform) / self.sample_rate


@dataclass(frozen=True)
class SoundStream:
    """An open recording. `seconds`: its length by its header, None if that does not say; `blocks`: mono float32 [n]."""

    seconds: float | None
    blocks: Iterator[np.ndarray]


@dataclass
class _Decoder:
    """What decodes a source: blocks [n, channels] float32 at its own rate; `frames` is None where no header tells."""

    rate: int
    channels: int
    frames: int | None
    blocks: Iterator[np.ndarray]


def load_audio(source: Any, *, sample_rate: int = SAMPLE_RATE, **limits: Any) -> Audio:
    """Any sound source → all of it in memory, mono, at `sample_rate`. `limits` and errors are those of `open_audio`."""
    with open_audio(source, sample_rate=sample_rate, **limits) as sound:
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
    """Any sound source → its samples block by block, so that hours of it take the memory of one block.

    source: a path, bytes, a binary file object, a `data:` URL, `Audio`, or a pair of an array or tensor ([T], [C, T] or
        [T, C], the shorter axis is the channels; integers at full scale, or floats in −1..1) and its rate in Hz.
        wav, flac, mp3, ogg, opus and what else libsndfile reads; m4a, aac, webm and videos with the extra `media`.
    max_seconds, max_bytes: limits on the recording and on the encoded file, checked before anything is decoded where
        the header tells, and again while decoding.
    pcm_rate: the source is raw 16-bit little-endian mono at this rate, without a header, as microphones give it.
    allow_truncated: take what is there of a file that ends early, with a warning, instead of refusing it.
    allow_url: fetch http(s) addresses. Addresses inside your network are not told apart: keep it off for strangers.
    Channels are averaged; the resampler is soxr's high quality. A sample that is not finite is refused.
    Raises MediaError (a ValueError); for a path that does not exist, MissingMediaError (also a FileNotFoundError).
    """
    pair = (source.waveform, source.sample_rate) if isinstance(source, Audio) else source
    label = label_of(pair[0]) if isinstance(pair, tuple) else label_of(source)
    if isinstance(pair, tuple):
        decoder = _from_array(pair, label)
        yield _checked(decoder, label, sample_rate, max_seconds, allow_truncated)
        return
    if hasattr(source, "shape"):
        raise MediaError(f"{label}: an array alone does not tell its rate; give (samples, rate in Hz)")
    with opened(source, label, max_bytes, allow_url) as file:
        if pcm_rate is not None:
            decoder = _from_pcm(file, pcm_rate, label)
        else:
            decoder = _decoder(file, label, allow_truncated)
        yield _checked(decoder, label, sample_rate, max_seconds, allow_truncated)


def audio_key(source: Any, *, max_bytes: int = MAX_BYTES) -> str:
    """SHA-256 in hex of what a source holds, to key caches by: encoded sources by their bytes, others by samples."""
    if isinstance(source, Audio | tuple):
        audio = load_audio(source)
        return hashlib.sha256(b"mono %d " % audio.sample_rate + audio.waveform.tobytes()).hexdigest()
    with opened(source, label_of(source), max_bytes, allow_url=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- opening


def _decoder(file: BinaryIO, label: str, allow_truncated: bool) -> _Decoder:
    start = file.read(32)
    file.seek(0)
    if not start:
        raise MediaError(f"{label}: the source is empty")
    container = container_format(start)
    if container is not None:
        return _from_container(file, container, label)
    return _from_soundfile(file, label, allow_truncated)


def _from_soundfile(file: BinaryIO, label: str, allow_truncated: bool) -> _Decoder:
    import soundfile

    try:
        sound = soundfile.SoundFile(file)
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        raise MediaError(f"{label}: not a sound file that can be read, or damaged ({reason_of(error)})") from error
    cut = any(int(right) < int(said) < _UNKNOWN_LENGTH for said, right in _SHORTER.findall(sound.extra_info)) or (
        sound.format == "OGG" and not _ogg_ends(file)
    )
    if cut:
        _truncated(label, "the file is shorter than its header says", allow_truncated)

    def blocks() -> Iterator[np.ndarray]:
        try:
            while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
                yield block
        except soundfile.LibsndfileError as error:
            raise MediaError(f"{label}: truncated or damaged ({error}); get a whole copy of the file") from error

    return _Decoder(sound.samplerate, sound.channels, sound.frames, blocks())


def _ogg_ends(file: BinaryIO) -> bool:
    """Whether the last page of an Ogg file is marked as the stream's end (RFC 3533): libsndfile does not look."""
    here = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 65_307 - 27))  # a page has at most 65,307 bytes
    tail = file.read()
    file.seek(here)
    page = tail.rfind(b"OggS")
    return 0 <= page < len(tail) - 5 and bool(tail[page + 5] & 4)


def _from_container(file: BinaryIO, container: str, label: str) -> _Decoder:
    opened = open_container(file, container, label)
    import av

    if not opened.streams.audio:
        raise MediaError(f"{label}: there is no sound in it")
    stream = opened.streams.audio[0]
    rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
    if not rate or not channels:
        raise MediaError(f"{label}: its sound has no rate or no channels: damaged; get a whole copy")
    frames = None if opened.duration is None else int(opened.duration / av.time_base * rate)

    def blocks() -> Iterator[np.ndarray]:
        resampler = av.AudioResampler(format="fltp")
        try:
            for frame in opened.decode(stream):
                for part in resampler.resample(frame):
                    yield part.to_ndarray().T
            for part in resampler.resample(None):
                yield part.to_ndarray().T
        except av.error.FFmpegError as error:
            raise damaged(label, error) from error
        finally:
            opened.close()

    return _Decoder(rate, channels, frames, blocks())


def _from_pcm(file: BinaryIO, rate: int, label: str) -> _Decoder:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size % 2:
        raise MediaError(f"{label}: {size} bytes do not make whole 16-bit samples")

    def blocks() -> Iterator[np.ndarray]:
        while data := file.read(2 * BLOCK):
            yield np.frombuffer(data, "<i2").astype(np.float32)[:, None] / 32768

    return _Decoder(rate, 1, size // 2, blocks())


def _from_array(pair: tuple, label: str) -> _Decoder:
    if len(pair) != 2 or not hasattr(pair[0], "shape") or not isinstance(pair[1], int | np.integer):
        raise MediaError("give sound as (samples, rate in Hz), a path, bytes, a file object, a data: URL or Audio")
    samples, rate = pair
    if hasattr(samples, "detach"):  # a tensor; NumPy has no bfloat16
        samples = samples.detach().cpu()
        samples = (samples.float() if samples.is_floating_point() else samples).numpy()
    if samples.ndim not in (1, 2):
        raise MediaError(f"{label}: give samples as [T], [C, T] or [T, C]")
    if samples.ndim == 1:
        samples = samples[:, None]
    elif samples.shape[0] < samples.shape[1]:
        samples = samples.T
    if samples.dtype.kind not in "iuf":
        raise MediaError(f"{label}: values of type {samples.dtype}; give integers at full scale, or floats in -1..1")

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(samples), BLOCK):
            yield _to_float(samples[start : start + BLOCK])

    return _Decoder(int(rate), samples.shape[1], len(samples), blocks())


def _to_float(samples: np.ndarray) -> np.ndarray:
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    half = 2.0 ** (8 * samples.dtype.itemsize - 1)
    return ((samples.astype(np.float64) - (half if samples.dtype.kind == "u" else 0)) / half).astype(np.float32)


# ---- checking and resampling


def _checked(decoder: _Decoder, label: str, sample_rate: int, max_seconds: float, allow_truncated: bool) -> SoundStream:
    rate = decoder.rate
    if not 1000 <= rate <= MAX_SAMPLES_PER_SECOND or rate * decoder.channels > MAX_SAMPLES_PER_SECOND:
        raise MediaError(
            f"{label}: {decoder.channels} channels at {rate:,} Hz; at most {MAX_SAMPLES_PER_SECOND:,} samples a second "
            "of all channels together, at 1,000 Hz or more, are read"
        )
    seconds = None if decoder.frames is None else decoder.frames / rate
    if seconds == 0:
        raise MediaError(f"{label}: there is no sound in it (0 samples)")
    if seconds is not None and seconds > max_seconds:
        raise _too_long(label, max_seconds)
    return SoundStream(seconds, _blocks(decoder, label, sample_rate, max_seconds, allow_truncated))


def _blocks(
    decoder: _Decoder, label: str, sample_rate: int, max_seconds: float, allow_truncated: bool
) -> Iterator[np.ndarray]:
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
            raise _too_long(label, max_seconds)
        mono = block.mean(axis=1) if block.shape[1] > 1 else np.ascontiguousarray(block[:, 0])
        mono = mono if resampler is None else resampler.resample_chunk(mono)
        if len(mono):
            given += len(mono)
            yield mono
    if decoded == 0:
        raise MediaError(f"{label}: there is no sound in it (0 samples)")
    missing = 0 if decoder.frames is None else (decoder.frames - decoded) / decoder.rate
    if missing > _TOLERANCE:
        reason = f"it ends {missing:.1f} s before its header says"
        _truncated(label, reason, allow_truncated)
    rest = np.zeros(0, np.float32)
    if resampler is not None:
        rest = resampler.resample_chunk(rest, last=True)
    if given + len(rest) == 0:
        raise MediaError(f"{label}: too short: {decoded} samples at {decoder.rate:,} Hz make none at {sample_rate:,}")
    if len(rest):
        yield rest


def _too_long(label: str, max_seconds: float) -> MediaError:
    return MediaError(f"{label}: longer than {max_seconds:,.0f} s; cut it, or raise max_seconds")


def _truncated(label: str, reason: str, allowed: bool) -> None:
    if not allowed:
        raise MediaError(f"{label}: truncated: {reason}; get a whole copy, or pass allow_truncated=True")
    log.warning("%s: truncated: %s; what is there is used", label, reason)
