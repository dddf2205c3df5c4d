"""Captions of pictures, videos and sounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from mmlm.generation.options import GenerationKeywords, takes_options
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.templates import demonstrations
from mmlm.tasks.generate import generate
from mmlm.tasks.rows import Answers, answers_of, as_examples, as_rows


@takes_options
def caption(
    model: MultimodalNetwork,
    images: Any,
    examples: Sequence[tuple[Any, str]] = (),
    *,
    details: bool = False,
    batch_size: int = 32,
    **options: Unpack[GenerationKeywords],
) -> Answers:
    """A caption of a picture (path, bytes, PIL image, array), a video or a sound; several give a list.

    examples: (picture, caption) pairs for a few-shot prompt, the most similar last.
    details: return a `GenerationResult` in place of each text.
    """
    shown = as_examples(examples, "(picture, caption)")
    shots = demonstrations([(model.template.caption_prompt(image), text) for image, text in shown])
    rows, batch = as_rows(pictures=images)
    prompts = [[*shots, *model.template.caption_prompt(image)] for (image,) in rows]
    return answers_of(generate(model, prompts, batch_size=batch_size, **options), batch, details)
