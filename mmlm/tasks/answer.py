"""Answers to questions: about pictures, or from an index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from mmlm.generation.options import GenerationKeywords, takes_options
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.templates import demonstrations
from mmlm.tasks.ask import ask
from mmlm.tasks.generate import generate
from mmlm.tasks.rows import Answers, answers_of, as_examples, as_rows

if TYPE_CHECKING:
    from mmlm.retrieval.index import Index
    from mmlm.retrieval.lookup import Finder


@takes_options
def answer(
    model: MultimodalNetwork,
    images: Any,
    questions: str | Sequence[str] | None = None,
    examples: Sequence[tuple[Any, str, str]] = (),
    *,
    index: Index | Finder | None = None,
    details: bool = False,
    batch_size: int = 32,
    **options: Unpack[GenerationKeywords],
) -> Answers:
    """The answer to a question about a picture; lists of pictures and questions (or of one of them) give a list.

    examples: (picture, question, answer) demonstrations for a few-shot prompt, the most similar last.
    index: look up first what an `mmlm.Index` has about the question, as `ask` does it. Then a question may stand alone:
        `model.answer("who was here?", index=index)`.
    details: return a `GenerationResult` in place of each text; with an index it has the `sources` and the `citations`.
    """
    if index is not None:
        if examples:
            raise ValueError("examples are about pictures alone: leave them out, or the index")
        if questions is None:
            images, questions = None, images
        return ask(model, None, questions, images, index=index, details=details, batch_size=batch_size, **options)
    if questions is None:
        raise TypeError("give a picture and a question about it, or a question and an index to look it up in")
    shown = as_examples(examples, "(picture, question, answer)")
    shots = demonstrations([(model.template.question_prompt(image, q), text) for image, q, text in shown])
    pairs, batch = as_rows(pictures=images, questions=questions)
    prompts = [[*shots, *model.template.question_prompt(image, question)] for image, question in pairs]
    return answers_of(generate(model, prompts, batch_size=batch_size, **options), batch, details)
