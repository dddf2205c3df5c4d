"""The setup of OpenFlamingo's published figures: its prompts, decoding options, and how answers are cut.

From open_flamingo/eval/evaluate.py and eval/models/open_flamingo.py, version 2.0.1. The caller chooses the few-shot
examples; upstream draws them at random or by RICES (`mmlm.Rices`).
"""

import re
from collections.abc import Sequence
from typing import Any

from mmlm.prompting.parts import END_OF_CHUNK, Image, Part
from mmlm.prompting.templates import PromptTemplate

CAPTION_DECODING = {"num_beams": 3, "length_penalty": 0.0, "max_new_tokens": 20}
ANSWER_DECODING = {"num_beams": 3, "length_penalty": 0.0, "max_new_tokens": 5}
"""Options of `model.generate` for COCO and Flickr30k, and for VQAv2, OK-VQA, VizWiz and TextVQA."""
ZERO_SHOT = 2  # examples, without their images, in a "0-shot" prompt


def caption_prompt(
    image: Any, examples: Sequence[tuple[Any, str]], shots: int, template: PromptTemplate = PromptTemplate()
) -> list[Part]:
    """A prompt for a caption after `shots` (image, caption) examples; 0 shots use two captions without images."""
    texts = [(shown, template.caption + caption.strip()) for shown, caption in examples]
    return _prompt(texts, shots, template.caption_prompt(image))


def question_prompt(
    image: Any,
    question: str,
    examples: Sequence[tuple[Any, str, str]],
    shots: int,
    template: PromptTemplate = PromptTemplate(),
) -> list[Part]:
    """The same for an answer to a question, after (image, question, answer) examples."""
    texts = [(shown, _text(template.question_prompt(shown, asked)) + answer) for shown, asked, answer in examples]
    return _prompt(texts, shots, template.question_prompt(image, question))


def caption_of(text: str) -> str:
    """The caption in a generated text."""
    return text.split("Output")[0].replace('"', "")


def answer_of(text: str) -> str:
    """The answer in a generated text. For OK-VQA, upstream also stems its words, which is left to the caller."""
    return re.split("Question|Answer|Short", text)[0].split(", ")[0]


def _text(parts: Sequence[Part]) -> str:
    return "".join(part for part in parts if isinstance(part, str))


def _prompt(examples: Sequence[tuple[Any, str]], shots: int, query: list[Part]) -> list[Part]:
    needed = shots or ZERO_SHOT
    if shots < 0 or len(examples) < needed:
        raise ValueError(f"{shots} shots need {needed} examples, not {len(examples)}")
    parts: list[Part] = []
    for image, text in examples[:needed]:
        parts += [*([Image(image)] if shots else []), text, END_OF_CHUNK, "\n"]
    # Text between two control tokens is tokenized as one, as in upstream's prompts.
    merged: list[Part] = []
    for part in [*parts, *query]:
        if merged and isinstance(part, str) and isinstance(last := merged[-1], str):
            merged[-1] = last + part
        else:
            merged.append(part)
    return merged
