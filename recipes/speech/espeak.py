"""Speech made by espeak-ng (https://github.com/espeak-ng/espeak-ng), many voices of it, in one process.

    pip install -e '.[speech]'        # the library and its data, without a system package

The library keeps one voice at a time for the whole process, so `speak` must not run in two threads at once. Some of its
state goes on from one utterance to the next whatever the seed: the same utterances in the same order, from the start of
a process, give the same samples; what is said alone differs a little from what is said later.
"""

from __future__ import annotations

import ctypes
import functools
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ACCENTS = ("en", "en-us", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc", "en-029")
# Voices that sound like people, of those under espeak-ng-data/voices/!v. The second set is for evaluation alone.
SPEAKERS = (
    "m1", "m2", "m3", "m4", "m6", "m8", "f1", "f2", "f3", "f5", "Alex", "Andy", "Annie", "Denis", "Gene", "Hugo", "Lee",
    "Marco", "Michael", "adam", "anika", "aunty", "belinda", "caleb", "david", "edward", "grandma", "ian", "john",
    "klatt", "klatt3", "linda", "max", "norbert", "paul", "robert", "shelby", "steph", "travis", "victor",
)  # fmt: skip
UNHEARD_SPEAKERS = ("m5", "m7", "f4", "Andrea", "Mike", "benjamin", "klatt2", "quincy", "steph2", "zac")

_SYNCHRONOUS, _UTF8 = 2, 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4  # espeak_PARAMETER in speak_lib.h
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Voice:
    """How something is said. `rate` in words a minute; `pitch` and `range` 0–100, the library's scale."""

    accent: str = "en-us"
    speaker: str = "m1"
    rate: int = 175
    pitch: int = 50
    range: int = 50


def random_voice(rng: random.Random, speakers: tuple[str, ...] = SPEAKERS) -> Voice:
    """One of `speakers` with an accent, a speed and a pitch of its own."""
    return Voice(
        rng.choice(ACCENTS), rng.choice(speakers), rng.randint(130, 210), rng.randint(25, 75), rng.randint(25, 75)
    )


class _Espeak:
    """The library, opened once; samples arrive by a callback while it speaks."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise ImportError("making speech needs espeak-ng: pip install -e .[speech]") from error
        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        self.data = Path(espeakng_loader.get_data_path())
        self.sample_rate = self.library.espeak_Initialize(_SYNCHRONOUS, 0, str(self.data).encode(), 0)
        if self.sample_rate <= 0:
            raise RuntimeError(f"espeak-ng could not start: error {self.sample_rate}")
        self.pieces: list[np.ndarray] = []
        self._callback = _CALLBACK(self._receive)  # kept: the library holds no reference
        self.library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self.pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(self, text: str, voice: Voice, seed: int) -> np.ndarray:
        name = f"{voice.accent}+{voice.speaker}"
        known = (self.data / "voices/!v" / voice.speaker).is_file()  # of a speaker unknown to it, the library is silent
        if not known or self.library.espeak_SetVoiceByName(name.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {name!r}")
        for parameter, value in ((_RATE, voice.rate), (_VOLUME, 100), (_PITCH, voice.pitch), (_RANGE, voice.range)):
            self.library.espeak_SetParameter(parameter, value, 0)
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(seed))  # it starts from the time of day
        self.pieces = []
        data = text.encode()
        failed = self.library.espeak_Synth(data, len(data) + 1, 0, 0, 0, _UTF8, None, None)
        if failed or not self.pieces:
            raise RuntimeError(f"espeak-ng said nothing for {text[:60]!r} (error {failed})")
        return np.concatenate(self.pieces).astype(np.float32) / 32768


@functools.cache
def _espeak() -> _Espeak:
    return _Espeak()


def speak(text: str, voice: Voice, seed: int = 0) -> tuple[np.ndarray, int]:
    """Samples [T] float32 in −1..1, and their rate in Hz. `seed` is for the voice's breath and flutter.

    ValueError for a voice that espeak-ng does not have.
    """
    return _espeak().speak(text, voice, seed), _espeak().sample_rate
