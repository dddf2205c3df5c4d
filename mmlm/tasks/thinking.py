"""Prompts after which a model thinks: by marks that it knows, else in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmlm.generation.options import GenerationKeywords
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.conversation import chat_prompt
from mmlm.prompting.messages import Message
from mmlm.prompting.parts import END_OF_CHUNK, Markup
from mmlm.prompting.templates import PromptTemplate
from mmlm.prompting.thinking import Opening, ThinkingMarks, marks_of, opened, switched
from mmlm.tasks.rows import as_examples

INSTRUCTION = "Think step by step. Then write 'Answer:' and the answer alone, in as few words as possible."
"""What a chat model is told that has no marks of thinking."""

ANSWER = ThinkingMarks("", "Answer:", "\n")
"""What ends a thought that follows `INSTRUCTION`."""

STEPS = " Let's think step by step."
"""What a language model that continues text reads before its thought (Kojima et al. 2022, arXiv 2205.11916)."""

THOUGHTS = (
    ("what is 3 plus 4, minus 2?", "3 plus 4 is 7. 7 minus 2 is 5.", "5"),
    ("which has more legs, a dog or a bird?", "A dog has 4 legs. A bird has 2 legs. 4 is more than 2.", "a dog"),
    ("what is the first letter of the word for the color of grass?", "Grass is green. Green begins with g.", "g"),
)
"""(question, thought, answer) for the `examples` of `ask` with thinking, as `EXAMPLES` are without."""


def thinking_chat(
    tokenizer: Any,
    turns: Sequence[Message],
    keywords: Mapping[str, Any] | None,
    thinking: bool | int,
    marks: ThinkingMarks | None = None,
) -> list[Any]:
    """The prompt of a conversation by the chat template, whose own switch of thinking is turned on or off.

    A model without marks is told to think in words. ValueError where the answer has been begun.
    """
    if thinking is False:
        return chat_prompt(tokenizer, turns, switched(tokenizer, False, keywords))
    if turns[-1].role == "assistant":
        raise ValueError("thinking: the last message is the assistant's, and a thought comes before an answer")
    marks = marks or marks_of(tokenizer)
    if marks is None:
        return opened(chat_prompt(tokenizer, [*turns[:-1], instructed(turns[-1])], keywords), ANSWER)
    return opened(chat_prompt(tokenizer, turns, switched(tokenizer, True, keywords)), marks)


def as_shown(examples: Any, form: str, options: GenerationKeywords) -> list[tuple[Any, ...]]:
    """The demonstrations of a prompt, `as_examples` of a `form`; with thinking each has a thought before its answer."""
    thinks = options.get("thinking", False) is not False
    return as_examples(examples, form.replace("answer)", "thought, answer)") if thinks else form)


def instructed(turn: Message) -> Message:
    """A message with the instruction to think."""
    return replace(turn, content=(*turn.content, INSTRUCTION))


def thinking_prompt(
    model: MultimodalNetwork, parts: Sequence[Any], thinking: bool | int, marks: ThinkingMarks | None = None
) -> list[Any]:
    """A prompt of the model's own template; with `thinking` one after which a thought comes.

    Without marks, what asks for the answer ("Short answer:") follows the thought, whose end it marks.
    """
    if thinking is False:
        return [*parts]
    marks = marks or marks_of(model.processor.tokenizer)
    if marks is not None:
        return opened(parts, marks)
    *before, last = parts
    ask = asks_for_the_answer(model.template, last) if isinstance(last, str) else ""
    if not ask:
        raise ValueError("thinking: the prompt does not end in what asks for an answer, and no marks are known")
    return opened([*before, last.rstrip().removesuffix(ask).rstrip() + STEPS], ThinkingMarks("", ask, " "))


def asks_for_the_answer(template: PromptTemplate, text: str) -> str:
    """The end of a prompt that asks for the answer, such as "Short answer:"; "" where there is none."""
    endings = (template.question.partition("{question}")[2].strip(), template.reply.strip())
    return next((ending for ending in endings if ending and text.rstrip().endswith(ending)), "")


def thought_shown(prompt: Sequence[Any], thought: str, answer: str) -> list[Any]:
    """A demonstration: a prompt that ends in an `Opening`, what is thought after it, and the answer."""
    *_, opening = prompt
    assert isinstance(opening, Opening), "see `thinking_prompt`"
    if opening.marks.open:
        return [*prompt, thought, Markup(opening.marks.close), answer, END_OF_CHUNK]
    return [*prompt[:-1], f" {thought}{opening.marks.bridge}{opening.marks.close} {answer}", END_OF_CHUNK]
