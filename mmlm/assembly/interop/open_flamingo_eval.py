"""What OpenFlamingo's published figures were measured with: prompts, decoding, and how an answer is cut.

Of open_flamingo/eval/evaluate.py and eval/models/open_flamingo.py, version 2.0.1. Which examples demonstrate is up to
the caller: there they are drawn at random, or by RICES (`mmlm.Rices`).
"""

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from mmlm.prompting.parts import END_OF_CHUNK, Image, Part
from mmlm.prompting.templates import PromptTemplate

CAPTION_DECODING = {"num_beams": 3, "length_penalty": 0.0, "max_new_tokens": 20}
ANSWER_DECODING = {"num_beams": 3, "length_penalty": 0.0, "max_new_tokens": 5}
"""Options of `model.generate` for COCO and Flickr30k, and for VQAv2, OK-VQA, VizWiz and TextVQA."""
ZERO_SHOT = 2  # demonstrations, without their pictures, that "0-shot" has


def caption_prompt(
    image: Any, examples: Sequence[tuple[Any, str]], shots: int, template: PromptTemplate = PromptTemplate()
) -> list[Part]:
    """Parts that ask for a caption after `shots` of the (picture, caption) examples; with 0, after two texts alone."""
    texts = [(picture, template.caption + caption.strip()) for picture, caption in examples]
    return _prompt(texts, shots, template.caption_prompt(image))


def question_prompt(
    image: Any,
    question: str,
    examples: Sequence[tuple[Any, str, str]],
    shots: int,
    template: PromptTemplate = PromptTemplate(),
) -> list[Part]:
    """The same for a question, after (picture, question, answer) examples."""
    texts = [(picture, template.question_prompt(picture, asked)[1] + answer) for picture, asked, answer in examples]
    return _prompt(texts, shots, template.question_prompt(image, question))


def caption_of(text: str) -> str:
    """The caption in what was written."""
    return text.split("Output")[0].replace('"', "")


def answer_of(text: str) -> str:
    """The answer in what was written. Of OK-VQA's, upstream takes the words' stems, which is left to the caller."""
    return re.split("Question|Answer|Short", text)[0].split(", ")[0]


def _prompt(examples: Sequence[tuple[Any, str]], shots: int, query: list[Part]) -> list[Part]:
    needed = shots or ZERO_SHOT
    if shots < 0 or len(examples) < needed:
        raise ValueError(f"{shots} shots need {needed} examples, not {len(examples)}")
    parts: list[Part] = []
    for picture, text in examples[:needed]:
        parts += [*([Image(picture)] if shots else []), text, END_OF_CHUNK, "\n"]
    # What no control token divides goes through the tokenizer as one text, as upstream's prompts do.
    runs = groupby([*parts, *query], key=lambda part: isinstance(part, str))
    return [part for text, run in runs for part in (["".join(run)] if text else run)]
