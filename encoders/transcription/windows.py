"""Whisper's input windows of a recording, in flat memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from whisper.audio import HOP_LENGTH, N_FFT, N_FRAMES

from encoders.media.notices import unnoticed
from encoders.media.sound import SoundStream
from encoders.whisper import log_power, scale


@dataclass(frozen=True)
class Window:
    """A log-mel spectrogram [n_mels, 3000]; `frames` of it are of the recording, the rest is padding.

    samples: [T], the samples of those frames, at 16 kHz.
    """

    mel: Tensor
    frames: int
    samples: Tensor


class Windows:
    """Whisper's input windows of a recording, given as blocks of samples at 16 kHz.

    Blocks are read as they are needed, and samples before the current window are dropped.
    loudest: the greatest log-power of the recording, see `loudest_in_turns`, which is the top of the dynamic range of
        all windows; of those so far, where it is not known.
    """

    def __init__(self, blocks: Iterator[np.ndarray], n_mels: int, loudest: float = -np.inf) -> None:
        self.blocks, self.n_mels = blocks, n_mels
        self.samples = np.zeros(0, np.float32)
        self.start = 0  # position in the recording of the first sample kept
        self.ended = False
        self.loudest = loudest

    @property
    def frames(self) -> int:
        """How many frames have been read: the length of the recording, once it has ended."""
        return (self.start + len(self.samples)) // HOP_LENGTH

    def at(self, seek: int) -> Window | None:
        """The window that begins at frame `seek`, which must not be before the last one's; None past the end."""
        margin = N_FFT // 2
        first, last = seek * HOP_LENGTH - margin, (seek + N_FRAMES) * HOP_LENGTH + margin
        self._read(first, last)
        frames = min(N_FRAMES, self.frames - seek)
        if frames <= 0:
            return None
        here = self.samples[max(0, first) - self.start :][: last - max(0, first)]
        here = torch.from_numpy(here[: frames * HOP_LENGTH + 2 * margin - max(0, -first)])
        if first < 0:  # mirrored at the start of the recording, and zeros after its end, as in openai-whisper
            here = torch.cat([F.pad(here, (0, max(0, margin + 1 - len(here))))[1 : margin + 1].flip(0), here])
        here = F.pad(here, (0, frames * HOP_LENGTH + 2 * margin - len(here)))
        power = log_power(here, self.n_mels)
        self.loudest = max(self.loudest, float(power.max()))
        mel = F.pad(scale(power, self.loudest), (0, N_FRAMES - frames))
        return Window(mel, frames, here[margin:-margin])

    def _read(self, first: int, last: int) -> None:
        """Keep the samples from `first` to `last`, as far as the recording goes."""
        kept, count = [self.samples[max(0, first - self.start) :]], len(self.samples)
        self.start = max(self.start, min(first, self.start + count), 0)
        held = len(kept[0])
        while not self.ended and self.start + held < last:
            block = next(self.blocks, None)
            if block is None:
                self.ended = True
            else:
                kept.append(block)
                held += len(block)
        self.samples = np.concatenate(kept)


def loudest_in_turns(
    opened: Callable[[], AbstractContextManager[SoundStream]], n_mels: int
) -> Generator[None, Any, float]:
    """The greatest log-power in a recording, which `opened` opens at 16 kHz; −inf where there is no sound.

    A turn is a window. What is wrong with the recording is not told: it is read again.
    """

    def read() -> Generator[None, Any, float]:
        with opened() as sound:
            windows, seek = Windows(sound.blocks, n_mels), 0
            while windows.at(seek) is not None:
                yield
                seek += N_FRAMES
            return windows.loudest

    with closing(read()) as turns:
        while True:
            with unnoticed():
                try:
                    next(turns)
                except StopIteration as ended:
                    return ended.value
            yield
