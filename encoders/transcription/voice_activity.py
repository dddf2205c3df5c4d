"""Voice activity detection with silero-vad (https://github.com/snakers4/silero-vad), which the extra `vad` installs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from encoders.media.sound import SAMPLE_RATE
from encoders.transcription.threads import keeping_threads

VoiceDetector = Callable[[Tensor], list[tuple[float, float]]]


def voice_detector() -> VoiceDetector:
    """A function: samples [T] at 16 kHz → the stretches of speech in them, as (start, end) in seconds.

    Its model is its own, since silero-vad keeps in it what it has heard so far. ImportError if silero-vad is not
    installed.
    """
    load, timestamps = _silero()
    model = load()

    def detect(samples: Tensor) -> list[tuple[float, float]]:
        found = timestamps(samples, model, sampling_rate=SAMPLE_RATE)
        return [(one["start"] / SAMPLE_RATE, one["end"] / SAMPLE_RATE) for one in found]

    return detect


@functools.cache
def _silero() -> tuple[Callable[[], Any], Callable[..., Any]]:
    """What loads silero-vad, and its function that gives the stretches of speech."""
    try:
        with keeping_threads():  # importing silero_vad sets one
            from silero_vad import get_speech_timestamps, load_silero_vad
    except ImportError as error:
        raise ImportError("voice activity detection needs the extra: pip install 'mmlm[vad]'") from error
    return load_silero_vad, get_speech_timestamps
