"""Answers to questions: about pictures, or from an index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from mmlm.generation.options import GenerationKeywords, takes_options
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.templates import demonstrations
from mmlm.tasks.ask import ask
from mmlm.tasks.rows import Answers, answers_of, as_rows
from mmlm.tasks.thinking import as_shown, thinking_prompt, thought_shown
from mmlm.tasks.votes import generated

if TYPE_CHECKING:
    from mmlm.retrieval.index import Index
    from mmlm.retrieval.lookup import Finder


@takes_options
def answer(
    model: MultimodalNetwork,
    images: Any,
    questions: str | Sequence[str] | None = None,
    examples: Sequence[tuple[Any, ...]] = (),
    *,
    index: Index | Finder | None = None,
    votes: int | None = None,
    details: bool = False,
    batch_size: int = 32,
    **options: Unpack[GenerationKeywords],
) -> Answers:
    """The answer to a question about a picture; lists of pictures and questions (or of one of them) give a list.

    examples: (picture, question, answer) demonstrations for a few-shot prompt, the most similar last; with `thinking`
        (picture, question, thought, answer).
    index: look up first what an `mmlm.Index` has about the question, as `ask` does it. Then a question may stand alone:
        `model.answer("who was here?", index=index)`.
    votes: how many samples vote; the answer given most often wins, see `mmlm.tasks.votes.voted`.
    details: return a `GenerationResult` in place of each text; with an index it has the `sources` and the `citations`.
    """
    if index is not None:
        if examples:
            raise ValueError("examples are about pictures alone: leave them out, or the index")
        if questions is None:
            images, questions = None, images
        return ask(
            model, None, questions, images, index=index, votes=votes, details=details, batch_size=batch_size, **options
        )
    if questions is None:
        raise TypeError("give a picture and a question about it, or a question and an index to look it up in")
    thinking, marks = options.get("thinking", False), options.get("thinking_marks")

    def prompt(image: Any, question: str) -> list[Any]:
        return thinking_prompt(model, model.template.question_prompt(image, question), thinking, marks)

    shown = as_shown(examples, "(picture, question, answer)", options)
    if thinking is False:
        shots = demonstrations([(prompt(image, q), text) for image, q, text in shown])
    else:
        shots = [part for image, q, *said in shown for part in thought_shown(prompt(image, q), *said)]
    pairs, batch = as_rows(pictures=images, questions=questions)
    prompts = [[*shots, *prompt(image, question)] for image, question in pairs]
    return answers_of(generated(model, prompts, votes, batch_size=batch_size, **options), batch, details)
