"""The decoders behind `encoders.media.sound`: files, raw PCM and arrays → blocks of samples at their own rate."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from encoders.media.container import container_format, damaged, open_container
from encoders.media.source import MediaError, reason_of

log = logging.getLogger(__name__)

BLOCK = 1 << 16  # frames decoded at a time

_UNKNOWN_LENGTH = 0x7FFFFFFF - 4096  # a WAV header written to a pipe has about this length or more
_SHORTER = re.compile(r"(?:data|SSND|Data Size|riff) *: (\d+) \(should be (\d+)\)")  # in libsndfile's log


@dataclass
class Decoder:
    """A decoded source: `blocks` [n, channels] float32 at `rate` Hz. `frames`: its length by the header, or None."""

    rate: int
    channels: int
    frames: int | None
    blocks: Iterator[np.ndarray]


def decode_file(file: BinaryIO, label: str, allow_truncated: bool) -> Decoder:
    """Decode an audio file with libsndfile, or a container with PyAV, as its first bytes require."""
    start = file.read(32)
    file.seek(0)
    if not start:
        raise MediaError(f"{label}: the source is empty")
    container = container_format(start)
    if container is not None:
        return _decode_container(file, container, label)
    return _decode_soundfile(file, label, allow_truncated)


def decode_pcm(file: BinaryIO, rate: int, label: str) -> Decoder:
    """Decode raw 16-bit little-endian mono samples."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size % 2:
        raise MediaError(f"{label}: {size} bytes are not a whole number of 16-bit samples")

    def blocks() -> Iterator[np.ndarray]:
        while data := file.read(2 * BLOCK):
            yield np.frombuffer(data, "<i2").astype(np.float32)[:, None] / 32768

    return Decoder(rate, 1, size // 2, blocks())


def decode_array(pair: tuple, label: str) -> Decoder:
    """Decode a pair of samples (an array or tensor: [T], [C, T] or [T, C]) and their rate in Hz."""
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

    return Decoder(int(rate), samples.shape[1], len(samples), blocks())


def report_truncated(label: str, reason: str, allowed: bool) -> None:
    """MediaError for a truncated source, or a warning in the log if truncated sources are allowed."""
    if not allowed:
        raise MediaError(f"{label}: truncated: {reason}; get a whole copy, or pass allow_truncated=True")
    log.warning("%s: truncated: %s; what is there is used", label, reason)


def _decode_soundfile(file: BinaryIO, label: str, allow_truncated: bool) -> Decoder:
    import soundfile

    try:
        sound = soundfile.SoundFile(file)
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        raise MediaError(f"{label}: not a sound file that can be read, or damaged ({reason_of(error)})") from error
    cut = any(int(right) < int(said) < _UNKNOWN_LENGTH for said, right in _SHORTER.findall(sound.extra_info)) or (
        sound.format == "OGG" and not _ogg_ends(file)
    )
    if cut:
        report_truncated(label, "the file is shorter than its header says", allow_truncated)

    def blocks() -> Iterator[np.ndarray]:
        try:
            while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
                yield block
        except soundfile.LibsndfileError as error:
            raise MediaError(f"{label}: truncated or damaged ({error}); get a whole copy of the file") from error

    return Decoder(sound.samplerate, sound.channels, sound.frames, blocks())


def _ogg_ends(file: BinaryIO) -> bool:
    """Whether the last page of an Ogg file is marked as the end of the stream (RFC 3533), which libsndfile ignores."""
    here = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 65_307 - 27))  # a page has at most 65,307 bytes
    tail = file.read()
    file.seek(here)
    page = tail.rfind(b"OggS")
    return 0 <= page < len(tail) - 5 and bool(tail[page + 5] & 4)


def _decode_container(file: BinaryIO, container: str, label: str) -> Decoder:
    opened = open_container(file, container, label)
    import av
    from av.error import FFmpegError

    if not opened.streams.audio:
        raise MediaError(f"{label}: there is no sound in it")
    stream = opened.streams.audio[0]
    rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
    if not rate or not channels:
        raise MediaError(f"{label}: damaged (its sound has no rate or no channels); get a whole copy")
    frames = None if opened.duration is None else int(opened.duration / av.time_base * rate)

    def blocks() -> Iterator[np.ndarray]:
        resampler: Any = av.AudioResampler(format="fltp")
        try:
            for frame in opened.decode(stream):
                for part in resampler.resample(frame):
                    yield part.to_ndarray().T
            for part in resampler.resample(None):
                yield part.to_ndarray().T
        except FFmpegError as error:
            raise damaged(label, error) from error
        finally:
            opened.close()

    return Decoder(rate, channels, frames, blocks())


def _to_float(samples: np.ndarray) -> np.ndarray:
    """Integers at full scale → float32 in −1..1; floats are only cast."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    half = 2.0 ** (8 * samples.dtype.itemsize - 1)
    return ((samples.astype(np.float64) - (half if samples.dtype.kind == "u" else 0)) / half).astype(np.float32)
