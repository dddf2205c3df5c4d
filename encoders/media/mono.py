"""From blocks of any channels and rate to mono at one rate."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from numbers import Integral

import numpy as np

from encoders.media.notices import notice
from encoders.media.samples import BLOCK, Block
from encoders.media.source import MediaError

log = logging.getLogger(__name__)

_CANCELLED = 0.1  # of the power that the mean of channels with nothing in common has, one nth of theirs


def joined(blocks: Iterable[Block]) -> Iterator[Block]:
    """Blocks of about `BLOCK` samples: decoders give a thousand at a time, too few to judge or to resample at."""
    held: list[np.ndarray] = []
    rate = count = 0
    for block in blocks:
        if held and (block.rate != rate or block.samples.shape[1] != held[0].shape[1]):
            yield Block(np.concatenate(held), rate)
            held, count = [], 0
        held.append(block.samples)
        rate, count = block.rate, count + len(block.samples)
        if count >= BLOCK:
            yield Block(held[0] if len(held) == 1 else np.concatenate(held), rate)
            held, count = [], 0
    if held:
        yield Block(np.concatenate(held), rate)


class Mixer:
    """Channels [n, channels] → their mean [n]; of those that cancel each other, the loudest."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.warned = False

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """[n, channels] → [n]"""
        if samples.shape[1] == 1:
            return np.ascontiguousarray(samples[:, 0])
        mean = samples.mean(axis=1)
        power = np.square(samples, dtype=np.float64).mean(axis=0)
        if float(np.square(mean, dtype=np.float64).mean()) >= _CANCELLED * float(power.mean()) / len(power):
            return mean
        if not self.warned:
            notice(log, "%s: its channels cancel each other; the loudest is used", self.label)
            self.warned = True
        return np.ascontiguousarray(samples[:, power.argmax()])


class Picker:
    """Channels [n, channels] → one of them [n]; `channel` 1 is the first. MediaError where there is none such."""

    def __init__(self, label: str, channel: int, channels: int) -> None:
        if not isinstance(channel, Integral) or isinstance(channel, bool):
            raise TypeError(f"channel is a whole number, where 1 is the first, not {channel!r}")
        self.label, self.channel = label, channel
        self._check(channels)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """[n, channels] → [n]"""
        self._check(samples.shape[1])  # which may change on the way
        return np.ascontiguousarray(samples[:, self.channel - 1])

    def _check(self, channels: int) -> None:
        if not 1 <= self.channel <= channels:
            raise MediaError(f"{self.label}: there is no channel {self.channel}: it has {channels}")


class Resampler:
    """Mono blocks of changing rates → mono at `rate` Hz, without a seam between blocks of one rate."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.source_rate = rate
        self.stream = None

    def __call__(self, mono: np.ndarray, source_rate: int) -> Iterator[np.ndarray]:
        """[n] at `source_rate` → what is ready of it at `rate`, none of it empty."""
        import soxr

        if source_rate != self.source_rate:
            yield from self.rest()
            self.source_rate = source_rate
            if source_rate != self.rate:
                self.stream = soxr.ResampleStream(source_rate, self.rate, 1, dtype="float32", quality="HQ")
        if self.stream is not None:
            mono = self.stream.resample_chunk(mono)
        if len(mono):
            yield mono

    def rest(self) -> Iterator[np.ndarray]:
        """What is still held back."""
        if self.stream is not None:
            rest = self.stream.resample_chunk(np.zeros(0, np.float32), last=True)
            self.stream = None
            self.source_rate = self.rate
            if len(rest):
                yield rest
