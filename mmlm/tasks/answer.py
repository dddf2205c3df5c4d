"""Answers to questions about pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from mmlm.generation.options import GenerationKeywords, takes_options
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.templates import demonstrations
from mmlm.tasks.generate import generate
from mmlm.tasks.rows import Answers, answers_of, as_examples, as_rows


@takes_options
def answer(
    model: MultimodalNetwork,
    images: Any,
    questions: str | Sequence[str],
    examples: Sequence[tuple[Any, str, str]] = (),
    *,
    details: bool = False,
    batch_size: int = 32,
    **options: Unpack[GenerationKeywords],
) -> Answers:
    """The answer to a question about a picture; lists of pictures and questions (or of one of them) give a list.

    examples: (picture, question, answer) demonstrations for a few-shot prompt, the most similar last.
    details: return a `GenerationResult` in place of each text.
    """
    shown = as_examples(examples, "(picture, question, answer)")
    shots = demonstrations([(model.template.question_prompt(image, q), text) for image, q, text in shown])
    pairs, batch = as_rows(pictures=images, questions=questions)
    prompts = [[*shots, *model.template.question_prompt(image, question)] for image, question in pairs]
    return answers_of(generate(model, prompts, batch_size=batch_size, **options), batch, details)
