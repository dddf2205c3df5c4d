"""What the verbs share: one input or a list of them, and results as texts."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from numbers import Real
from pathlib import PurePath
from typing import Any

import numpy as np
from torch import Tensor

from decoders.values import check_kind
from encoders.media.sound import SUFFIXES as SOUNDS
from encoders.media.video import SUFFIXES as FILMS
from mmlm.generation.result import GenerationResult
from mmlm.prompting.parts import Image, Markup, Sound
from mmlm.prompting.sources import without_dropped

PICTURES = ("avif", "bmp", "gif", "jpeg", "jpg", "png", "ppm", "tif", "tiff", "webp")

log = logging.getLogger(__name__)

Results = list[GenerationResult] | list[list[GenerationResult]]
"""A result per prompt; with `num_return_sequences` above 1 a list of results per prompt."""

Answers = str | list[str] | list[list[str]] | GenerationResult | Results
"""What a short verb returns: a text, or with `details` results; for several inputs or sequences, lists."""


def listed(value: Any) -> list[Any] | None:
    """The values of an argument that is given several; None for one value.

    Several are a list, a tuple, an iterator, an array of texts or objects, and a stack of pictures, an array or tensor
    `[N, ., ., .]`, which may be nested. One are a recording as (samples, rate) and an open file, though Python can
    iterate over them.
    """
    if isinstance(value, tuple) and len(value) == 2 and hasattr(type(value[0]), "shape") and isinstance(value[1], Real):
        return None
    if isinstance(value, (list, tuple)) or (isinstance(value, Iterator) and not hasattr(value, "read")):
        return list(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "UO" and value.ndim == 1:
        return value.tolist()
    if isinstance(value, Tensor) and value.ndim == 4:
        return list(value.unbind())
    return list(value) if isinstance(value, np.ndarray) and value.ndim == 4 else None


def as_rows(**columns: Any) -> tuple[list[tuple[Any, ...]], bool]:
    """Columns, each several values (`listed`) or one for all rows, → rows, and whether there were several at all.

    ValueError for lists of unequal lengths.
    """
    found = {name: listed(value) for name, value in columns.items()}
    lists = {name: values for name, values in found.items() if values is not None}
    lengths = {name: len(value) for name, value in lists.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(" but ".join(f"{length} {name}" for name, length in lengths.items()))
    count = next(iter(lengths.values()), 1)
    whole = [lists.get(name, [value] * count) for name, value in columns.items()]
    return list(zip(*whole, strict=True)), bool(lists)


def bare(value: Any, kind: type[Image] | type[Sound]) -> Any:
    """What a part of this kind holds, `mmlm.Sound("talk.wav")`, for a verb that takes nothing else; other values."""
    return value.source if isinstance(value, kind) else value


def as_examples(examples: Any, form: str) -> list[tuple[Any, ...]]:
    """The demonstrations of a few-shot prompt; TypeError where they are none of the `form` "(picture, caption)"."""
    size = form.count(",") + 1
    several = isinstance(examples, (list, tuple, Iterator))
    found = list(examples) if several else None
    if found is None or not all(isinstance(one, (list, tuple)) and len(one) == size for one in found):
        raise TypeError(f"examples is a list of {form}, () for none, not {str(examples)[:60]!r}")
    for one in found:
        for text in one[1:]:
            check_kind(f"in examples, a text of {form}", text, str)
    return [tuple(one) for one in found]


def as_prompts(prompt: Any) -> tuple[list[Any], bool]:
    """Prompts, and whether several were given; lists, tuples and iterators mean the same.

    ValueError for a text that is the name of a picture or recording.
    """
    if (parts := listed(prompt)) is not None:
        prompt = [part if (inner := listed(part)) is None else inner for part in parts]
    batch = is_batch(prompt)
    prompts = list(prompt) if batch else [prompt]
    for row in prompts:
        _refuse_file_names(row if isinstance(row, list) else [row])
    return prompts, batch


def _refuse_file_names(parts: list[Any]) -> None:
    """ValueError for a text that is the name of a file with media: captions would take it for that, a prompt does not.

    A chat's prompt, with its markup, holds a user's own words and no names.
    """
    if any(isinstance(part, Markup) for part in parts):
        return
    for text in parts:
        if isinstance(text, str) and len(text) < 4096 and "\n" not in text:
            suffix = os.path.splitext(text)[1].lower().lstrip(".")
            if suffix in (*PICTURES, *SOUNDS, *FILMS) and os.path.isfile(text):
                kind = "Sound" if suffix in SOUNDS else "Image"
                raise ValueError(
                    f"the prompt's text {text!r} is the name of a file, and a text is read as it is: for what the file "
                    f"holds, write mmlm.{kind}({text!r})"
                )


def is_batch(prompt: Any) -> bool:
    """Whether a prompt is a list of lists of parts; a string or a list of parts is one prompt."""
    if isinstance(prompt, (list, tuple)):
        nested = [isinstance(part, (list, tuple)) for part in prompt]
        if any(nested) and not all(nested):
            raise TypeError("a batch of prompts is a list of lists of parts; here lists and parts are mixed")
        return any(nested) or not prompt
    if isinstance(prompt, (str, PurePath)):
        return False
    raise TypeError(f"a prompt is a list of parts (text, images), not {type(prompt).__name__}")


def one_result(found: object) -> GenerationResult:
    """The result of one prompt; TypeError for several."""
    if not isinstance(found, GenerationResult):
        raise TypeError("several results where one was expected: leave num_return_sequences at 1")
    return found


def results_of(found: object) -> list[GenerationResult]:
    """The results of a batch, or the one of a single prompt."""
    return [one_result(result) for result in found] if isinstance(found, list) else [one_result(found)]


def answers_of(results: GenerationResult | Results, batch: bool, details: bool) -> Answers:
    """What a short verb returns: texts without the spaces around them, or with `details` the results themselves.

    The thinking of a model that thinks is no part of the texts.
    """
    assert isinstance(results, list), "a batch of prompts gives a list"
    given: list[Any] = list(results) if details else [_text(result) for result in results]
    return given if batch else given[0]


def _text(result: GenerationResult | list[GenerationResult]) -> str | list[str]:
    return [_answer(own) for own in result] if isinstance(result, list) else _answer(result)


def _answer(result: GenerationResult) -> str:
    answer = result.answer.strip()
    if result.text.strip() and not answer and result.finish_reason == "length":
        log.warning(
            "the model was still thinking after %d tokens, so there is no answer: raise max_new_tokens",
            result.usage.generated_tokens,
        )
    if dropped := result.citations.dropped:
        log.warning("the answer names sources that were not offered, %s: these numbers are left out", list(dropped))
        answer = without_dropped(answer, len(result.sources or ())).strip()
    return answer
