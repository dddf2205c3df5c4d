"""Answers to questions about pictures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmlm.prompting.templates import demonstrations

if TYPE_CHECKING:
    from mmlm.model.network import MultimodalNetwork
from mmlm.tasks.generate import generate
from mmlm.tasks.rows import _rows, _stripped


def answer(
    model: "MultimodalNetwork",
    images: Any,
    questions: Any,
    examples: Sequence[tuple[Any, str, str]] = (),
    **options: Any,
) -> Any:
    """The answer to a question about a picture; lists of pictures and questions (or one of either) give a list.

    `examples` are (picture, question, answer) demonstrations.
    """
    shots = demonstrations([(model.template.question_prompt(image, q), text) for image, q, text in examples])
    listed = [list(values) if isinstance(values, tuple) else values for values in (images, questions)]
    pairs, batch = _rows(pictures=listed[0], questions=listed[1])
    prompts = [[*shots, *model.template.question_prompt(image, question)] for image, question in pairs]
    return _stripped(generate(model, prompts, **options), batch)
