"""What the verbs do with an index: look up, show what was found before the question, and give it with the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from mmlm.generation.options import GenerationOptions
from mmlm.generation.result import GenerationResult
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.sources import INSTRUCTION, Offered
from mmlm.prompting.thinking import MARK
from mmlm.tasks.positions import positions_of
from mmlm.tasks.rows import Results

if TYPE_CHECKING:
    from mmlm.retrieval.index import Index
    from mmlm.retrieval.lookup import Finder


TOLD = f"\n{INSTRUCTION}\n\n"


class Asked(NamedTuple):
    """A question. parts: of the prompt, that ask it. words: where it has any. picture: what it is about, or None."""

    parts: list[Any]
    words: str | None
    picture: Any


def looked_up(
    model: MultimodalNetwork,
    index: Index | Finder,
    asked: Sequence[Asked],
    prompt_of: Callable[[list[Any]], list[Any]],
    chat: bool,
    options: Mapping[str, Any],
) -> list[Offered]:
    """What is found for each question, as much as fits beside the rest of its prompt and its answer.

    prompt_of: the whole prompt of such parts. chat: whether it is a chat model's, which is told what sources are.
    ValueError for a question that is heard and not written down.
    """
    from mmlm.retrieval.lookup import as_finder, offered  # only who looks something up needs the index

    finder, most = as_finder(index), model.language_model.max_length
    settings = GenerationOptions.of(dict(options))
    written = settings.max_new_tokens
    if settings.is_thinking:  # a thought without a number takes what is left, and is left something
        written += MARK + ((most or 0) // 4 if settings.thinking is True else settings.thinking)
    found = []
    for parts, words, picture in asked:
        if words is None:
            raise ValueError("an index is asked in words: choose mode='transcript' or 'both', or give the question")
        used = positions_of(model, prompt_of([TOLD, *parts] if chat else parts))
        found.append(offered(model, finder, words, picture, None if most is None else most - used - written))
    return found


def grounded(found: Sequence[Offered], asked: Sequence[Asked], chat: bool) -> list[list[Any]]:
    """The parts of questions, each behind its sources. chat: whether a chat model is told what these are."""
    if not found:
        return [one.parts for one in asked]
    return [
        [*own.parts, *([TOLD] if chat else []), *one.parts] if own.sources else one.parts
        for own, one in zip(found, asked, strict=True)
    ]


def with_sources(results: GenerationResult | Results, found: Sequence[Offered]) -> GenerationResult | Results:
    """Results with what their prompts offered; as they are where nothing was looked up."""
    if not found:
        return results
    assert isinstance(results, list), "a batch of prompts gives a list"
    given: list[Any] = [
        [replace(result, sources=own.sources) for result in row]
        if isinstance(row, list)
        else replace(row, sources=own.sources)
        for row, own in zip(results, found, strict=True)
    ]
    return given
