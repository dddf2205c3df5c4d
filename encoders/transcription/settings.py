"""Checks of what a transcription is asked for, before anything is read or decoded."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import whisper
from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE

from encoders.texts import check_texts


def spoken_language(model: whisper.Whisper, language: str | None, task: str) -> str | None:
    """The code of the language that a model is asked for by code or name; None where it is to be detected.

    ValueError for a language or a task that this model does not have.
    """
    if task not in ("transcribe", "translate"):
        raise ValueError(f"task must be 'transcribe' or 'translate', not {task!r}")
    if language is not None and not isinstance(language, str):
        raise TypeError(f"language is a code such as 'en', a name, or None to have it detected, not {language!r}")
    code = None if language is None else TO_LANGUAGE_CODE.get(language.lower(), language.lower())
    if code is not None and code not in LANGUAGES:
        raise ValueError(
            f"Whisper has no language {language!r}; give a code such as 'en', or a name, or none to have it detected"
        )
    if not model.is_multilingual:
        if task == "translate":
            raise ValueError(f"this Whisper knows English alone and cannot translate: {MULTILINGUAL}")
        if code not in (None, "en"):
            raise ValueError(f"this Whisper knows English alone, and no {LANGUAGES[code].title()}: {MULTILINGUAL}")
        return "en"
    if code is not None and code not in list(LANGUAGES)[: model.num_languages]:
        raise ValueError(
            f"this Whisper has no {LANGUAGES[code].title()} ({code!r} is not among its {model.num_languages} "
            "languages): take a newer model, such as large-v3"
        )
    return code


MAX_BEAMS = 100  # each has keys and values of its own, for Whisper's whole text
MULTILINGUAL = "take a multilingual model, such as small instead of small.en"


def check_settings(
    prompt: str | None, temperatures: Iterable[float] | float, beam_size: int | None, seed: int
) -> tuple[float, ...]:
    """The temperatures, of which one may stand alone; TypeError or ValueError for a value that cannot be meant."""
    if prompt is not None and not isinstance(prompt, str):
        raise TypeError(f"prompt is a text, not {prompt!r}")
    check_texts([] if prompt is None else [prompt], "prompt")
    given: Any = temperatures
    if not isinstance(given, Iterable) or getattr(given, "shape", None) == ():  # a tensor of no dimension is one number
        given = (given,)
    tried = tuple(given)
    if not all(isinstance(temperature, Real) and not isinstance(temperature, bool) for temperature in tried):
        raise TypeError(f"temperatures are numbers, not {temperatures!r}")
    if not tried or any(not 0 <= temperature <= 2 for temperature in tried):
        raise ValueError(f"temperatures must be one or more numbers in 0..2, not {tried!r}")
    if beam_size is not None and (not isinstance(beam_size, Integral) or isinstance(beam_size, bool) or beam_size < 1):
        raise ValueError(f"beam_size must be a whole number of at least 1, not {beam_size!r}")
    if beam_size is not None and beam_size > MAX_BEAMS:
        raise ValueError(f"beam_size must be at most {MAX_BEAMS}, not {beam_size!r}")
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise TypeError(f"seed must be a whole number, not {seed!r}")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must be a whole number of 64 bits, not {seed!r}")
    return tuple(float(temperature) for temperature in tried)
