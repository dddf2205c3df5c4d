"""What a room and a microphone do to clean speech: echoes, noise, level. Every draw comes from the generator given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

SPEED_OF_DECAY = 3 * np.log(10)  # of the amplitude, in units of the reverberation time: 60 dB


@dataclass(frozen=True)
class Room:
    """Ranges that `recorded` draws from: reverberation time in seconds, direct sound over echoes and speech over noise
    in dB, peak of the result; and how often there are echoes and noise at all (0–1)."""

    reverberation: tuple[float, float] = (0.1, 0.6)
    direct: tuple[float, float] = (0.0, 12.0)
    speech_over_noise: tuple[float, float] = (5.0, 35.0)
    peak: tuple[float, float] = (0.1, 0.95)
    echoes_share: float = 0.5
    noise_share: float = 0.7


def recorded(speech: np.ndarray, rate: int, room: Room, rng: Generator) -> np.ndarray:
    """Speech [T] at `rate` Hz as a microphone in such a room takes it; [T] float32, as long as it came."""
    if rng.random() < room.echoes_share:
        speech = reverberant(speech, rate, rng.uniform(*room.reverberation), rng.uniform(*room.direct), rng)
    if rng.random() < room.noise_share:
        noise = coloured_noise(len(speech), rng.uniform(0.0, 2.0), rng)
        speech = mixed(speech, noise, rng.uniform(*room.speech_over_noise))
    loudest = np.abs(speech).max()
    return (speech * (rng.uniform(*room.peak) / max(loudest, 1e-9))).astype(np.float32)


def reverberant(speech: np.ndarray, rate: int, reverberation: float, direct: float, rng: Generator) -> np.ndarray:
    """Speech with the echoes of a room: noise that decays by 60 dB in `reverberation` seconds (Polack 1988).

    `direct`: energy of the direct sound over that of all echoes, in dB.
    """
    time = np.arange(1, int(reverberation * rate)) / rate
    echoes = rng.standard_normal(len(time)) * np.exp(-SPEED_OF_DECAY * time / reverberation)
    echoes *= 10 ** (-direct / 20) / np.sqrt(np.square(echoes).sum())
    response = np.concatenate([[1.0], echoes])
    length = len(speech) + len(response) - 1  # a circle so long that the end does not meet the beginning
    return np.fft.irfft(np.fft.rfft(speech, length) * np.fft.rfft(response, length), length)[: len(speech)]


def coloured_noise(length: int, exponent: float, rng: Generator) -> np.ndarray:
    """Noise [length] with power falling as frequency to the `exponent`: 0 white, 1 pink, 2 brown; mean square 1."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1) ** (-exponent / 2)
    noise = np.fft.irfft(spectrum, length)
    return noise / np.sqrt(np.square(noise).mean())


def mixed(speech: np.ndarray, noise: np.ndarray, speech_over_noise: float) -> np.ndarray:
    """Both together, the noise scaled so that the speech's mean square stands `speech_over_noise` dB above its own."""
    ratio = np.square(speech).mean() / np.square(noise).mean()
    return speech + noise * np.sqrt(ratio * 10 ** (-speech_over_noise / 10))
