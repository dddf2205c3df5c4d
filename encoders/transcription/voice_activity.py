"""Where somebody speaks, by silero-vad (https://github.com/snakers4/silero-vad), with the extra `vad`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from encoders.media.sound import SAMPLE_RATE

Stretches = list[tuple[float, float]]


def voice_detector() -> Callable[[Tensor], Stretches]:
    """A function from samples [T] at 16 kHz to the stretches in which somebody speaks: (start, end) in seconds."""
    model, timestamps = _silero()

    def detect(samples: Tensor) -> Stretches:
        found = timestamps(samples, model, sampling_rate=SAMPLE_RATE)
        return [(one["start"] / SAMPLE_RATE, one["end"] / SAMPLE_RATE) for one in found]

    return detect


@functools.cache
def _silero() -> tuple[Any, Any]:
    threads = torch.get_num_threads()
    try:
        from silero_vad import get_speech_timestamps, load_silero_vad
    except ImportError as error:
        raise ImportError("finding where somebody speaks needs the extra: pip install 'mmlm[vad]'") from error
    finally:
        torch.set_num_threads(threads)  # its import sets one for all of torch
    return load_silero_vad(), get_speech_timestamps
