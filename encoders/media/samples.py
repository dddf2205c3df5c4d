"""Samples from arrays, raw PCM and what only libsndfile reads, as blocks at their own rate."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from encoders.media.arrays import plain_array
from encoders.media.source import MediaError

BLOCK = 1 << 16  # frames decoded at a time

_FFMPEG_READS = ("AIFF", "AU", "CAF", "FLAC", "MP3", "NIST", "OGG", "RF64", "VOC", "W64", "WAV", "WAVEX")
_FULL_SCALE = 1 << 15  # what the loudest of 16-bit samples reaches


class Block(NamedTuple):
    """Samples [n, channels] float32 at `rate` Hz."""

    samples: np.ndarray
    rate: int


@dataclass
class Samples:
    """A source before it is decoded: its length in `seconds`, its rate in Hz, and its blocks."""

    seconds: float
    rate: int
    channels: int
    blocks: Iterator[Block]


def whole_rate(rate: Any, what: str) -> int:
    """A rate in Hz, of any kind of number without a fraction; MediaError, which says `what` it is, for others."""
    number = rate.item() if getattr(rate, "shape", None) == () else rate  # of NumPy or torch
    if not isinstance(number, int | float) or isinstance(number, bool) or number != number // 1:
        raise MediaError(f"{what} must be a whole number of Hz, such as 16000, not {rate!r}")
    return int(number)


def from_pcm(file: BinaryIO, pcm_rate: float, label: str) -> Samples:
    """Raw 16-bit little-endian mono samples."""
    rate = whole_rate(pcm_rate, "pcm_rate")
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size % 2:
        raise MediaError(f"{label}: {size} bytes are not a whole number of 16-bit samples")

    def blocks() -> Iterator[Block]:
        while data := file.read(2 * BLOCK):
            yield Block(to_float(np.frombuffer(data, "<i2")[:, None]), rate)

    return Samples(size / 2 / max(rate, 1), rate, 1, blocks())


def from_array(pair: tuple, label: str) -> Samples:
    """A pair of samples (an array or tensor: [T], [C, T] or [T, C]) and their rate in Hz."""
    if len(pair) != 2 or not hasattr(pair[0], "shape"):
        raise MediaError("give sound as (samples, rate in Hz), a path, bytes, a file object, a data: URL or Audio")
    rate = whole_rate(pair[1], f"{label}: the sample rate")
    samples = _array(pair[0], label)
    if samples.ndim not in (1, 2):
        raise MediaError(f"{label}: give samples as [T], [C, T] or [T, C]")
    if samples.ndim == 1:
        samples = samples[:, None]
    elif samples.shape[0] < samples.shape[1]:
        samples = samples.T
    if samples.size == 0:
        raise MediaError(f"{label}: there is no sound in it (0 samples)")
    _check_scale(samples, label)

    def blocks() -> Iterator[Block]:
        for start in range(0, len(samples), BLOCK):
            yield Block(to_float(samples[start : start + BLOCK]), rate)

    return Samples(len(samples) / max(rate, 1), rate, samples.shape[1], blocks())


def from_libsndfile(file: BinaryIO, label: str, error: MediaError) -> Samples:
    """A file that FFmpeg cannot read (`error` says why) and libsndfile can, as some of laboratories and studios."""
    import soundfile

    file.seek(0)
    forgiving: Any = _Forgiving(file)
    try:
        sound = soundfile.SoundFile(forgiving)
    except (soundfile.LibsndfileError, TypeError, ValueError):
        raise error from None
    if sound.format in _FFMPEG_READS:  # it is damaged, then, and libsndfile would give a part of it without a word
        raise error

    def blocks() -> Iterator[Block]:
        try:
            while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
                yield Block(block, sound.samplerate)
        except soundfile.LibsndfileError as broken:
            raise MediaError(f"{label}: truncated or damaged ({broken}); get a whole copy of the file") from broken

    return Samples(sound.frames / sound.samplerate, sound.samplerate, sound.channels, blocks())


class _Forgiving:
    """A file for libsndfile, which asks for places before its beginning by a damaged head: a seek there does nothing.

    An error of the file's own would be printed, as nothing can be raised through libsndfile.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.read, self.tell = file, file.read, file.tell

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.file.seek(offset, whence)


def to_float(samples: np.ndarray) -> np.ndarray:
    """Integers at full scale → float32 in −1..1; floats are only cast."""
    if samples.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused with the rest of its kind
            return samples.astype(np.float32)
    half = 2.0 ** (8 * samples.dtype.itemsize - 1)
    return ((samples.astype(np.float64) - (half if samples.dtype.kind == "u" else 0)) / half).astype(np.float32)


def _array(source: Any, label: str) -> np.ndarray:
    """An array or tensor of numbers → an array. Nothing has full scale at 64 bits."""
    samples = plain_array(source, label)
    if samples.dtype.kind not in "iuf" or samples.dtype in (np.int64, np.uint64):
        raise MediaError(
            f"{label}: values of type {samples.dtype}; give integers of 8, 16 or 32 bits at full scale, "
            "or floats in -1..1"
        )
    return samples


def _check_scale(samples: np.ndarray, label: str) -> None:
    """MediaError for 16-bit samples in integers of 32 bits, which would be all but silent."""
    if samples.dtype == np.int32 and 0 < np.abs(samples.astype(np.float64)).max(initial=0) <= _FULL_SCALE:
        raise MediaError(
            f"{label}: 32-bit integers that do not exceed {_FULL_SCALE:,}: 16-bit samples, it seems; give them as "
            "int16, or at the full scale of 32 bits"
        )
