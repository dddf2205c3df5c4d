"""What the verbs share: one input or a list of them, and results as texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from mmlm.generation.result import GenerationResult

Results = list[GenerationResult] | list[list[GenerationResult]]
"""A result per prompt; with `num_return_sequences` above 1 a list of results per prompt."""

Answers = str | list[str] | list[list[str]] | GenerationResult | Results
"""What a short verb returns: a text, or with `details` results; for several inputs or sequences, lists."""


def as_rows(**columns: Any) -> tuple[list[tuple[Any, ...]], bool]:
    """Columns, each a list or one value for all rows, → rows, and whether there was a list at all.

    ValueError for lists of unequal lengths.
    """
    lists = {name: value for name, value in columns.items() if isinstance(value, list)}
    lengths = {name: len(value) for name, value in lists.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(" but ".join(f"{length} {name}" for name, length in lengths.items()))
    count = next(iter(lengths.values()), 1)
    whole = [lists.get(name, [value] * count) for name, value in columns.items()]
    return list(zip(*whole, strict=True)), bool(lists)


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


def answers_of(results: GenerationResult | Results, batch: bool, details: bool) -> Answers:
    """What a short verb returns: texts without the spaces around them, or with `details` the results themselves."""
    assert isinstance(results, list), "a batch of prompts gives a list"
    given: Sequence[Any] = results if details else [_text(result) for result in results]
    return list(given) if batch else given[0]


def _text(result: GenerationResult | list[GenerationResult]) -> str | list[str]:
    return [own.text.strip() for own in result] if isinstance(result, list) else result.text.strip()
