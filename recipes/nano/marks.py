"""The control tokens of thoughts and tool calls in nano's tokenizer, and exercises as the parts of a prompt.

The marks are those of Hermes and Qwen. As in Qwen's tokenizers they are added tokens that are not special: texts that
are decoded keep them, and a `Processor` never gives them to what a user types.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from encoders.guarded import from_pretrained
from mmlm.prompting.messages import Message
from mmlm.prompting.parts import END_OF_CHUNK, Learned, Markup, Part
from mmlm.prompting.sources import INSTRUCTION
from mmlm.prompting.templates import PromptTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINK, THOUGHT = "<think>", "</think>"
CALL, CALLED = "<tool_call>", "</tool_call>"
RESPONSE, RESPONDED = "<tool_response>", "</tool_response>"
MARKS = (THINK, THOUGHT, CALL, CALLED, RESPONSE, RESPONDED)
# What nano's template writes around questions, for conversations and tools. Media stand where a message has them.
CHAT_TEMPLATE = (
    "{% if tools %}Tools: {% for tool in tools %}{{ tool.function.name }}{{ '\\n' if loop.last else ', ' }}{% endfor %}"
    "{% endif %}"
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}{{ '\\n' }}"
    "{% elif message.role == 'user' %}Question:{{ message.content }} Short answer:"
    "{% elif message.role == 'tool' %}<tool_response>{{ message.content }}</tool_response>"
    "{% else %}{{ message.content or '' }}{% for call in message.tool_calls or [] %}"
    "<tool_call>{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}</tool_call>"
    "{% endfor %}"
    "{{ '' if message.tool_calls else eos_token }}"
    "{% endif %}{% endfor %}"
)
_MARKED = re.compile("(" + "|".join(map(re.escape, MARKS)) + ")")


def add_marks(tokenizer: PreTrainedTokenizerBase) -> int:
    """Give the tokenizer its marks, each an id behind all others; returns how many were new."""
    from transformers import AddedToken

    return tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in MARKS])


def grow(language_model: Path, output: Path, seed: int) -> None:
    """The language model with its tokenizer in the folder `output`, with a row for each mark, and in float32.

    Rows begin as the mean of all others, and a little noise that tells them apart. Those that were there stay.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    advice = "take one that is files alone"
    tokenizer = from_pretrained(AutoTokenizer, language_model, advice)
    model = from_pretrained(AutoModelForCausalLM, language_model, advice, dtype=torch.float32)
    new = add_marks(tokenizer)
    tokenizer.chat_template = CHAT_TEMPLATE
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        rows = model.get_input_embeddings().weight
        old = rows[: len(tokenizer) - new]
        noise = torch.randn(new, rows.shape[1], generator=torch.Generator().manual_seed(seed))
        rows[len(old) :] = old.mean(0) + 0.5 * old.std(0) * noise
    partial = output.with_name(output.name + ".partial")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(output)


def exercise_parts(
    template: PromptTemplate,
    messages: Sequence[Message],
    ended: bool = True,
    chat: bool = False,
    kept: float = 1.0,
) -> list[Part]:
    """A whole exercise as parts: what is asked by the template, and all that the assistant says, to be learned.

    A thought is asked for by its opening mark, which is part of the prompt. ended: whether a call is closed by the end
    of a chunk, as the assistant's other turns are; without it what the tool returned follows at once, as CHAT_TEMPLATE
    has it. chat: notes and media behind "Question:", as it has them too, and the instruction for chat models behind
    notes. kept: the share of each thought that is there, below 1 as a budget leaves it; then what follows it is
    learned, and it is not.
    """
    parts: list[Part] = []
    for number, turn in enumerate(messages):
        if turn.role == "assistant":
            parts += _said(str(turn.content[0]), ended or number == len(messages) - 1, kept)
        elif turn.role == "tool":
            parts += [Markup(RESPONSE), *turn.content, Markup(RESPONDED)]
        elif turn.role == "system":
            parts += [f"{turn.content[0]}\n"]
        else:
            *before, question = turn.content
            asked = str(template.spoken_prompt((), question=str(question))[0])
            start = asked.index(str(question)) if chat else 0
            if chat and before and str(before[0]).startswith("[1]"):
                before.insert(1, f"\n{INSTRUCTION}\n\n")
            parts += [*([asked[:start]] if start else []), *before, asked[start:]]
    return parts


def _said(text: str, ended: bool, kept: float) -> list[Part]:
    """What the assistant says, to be learned but for the mark that asks for a thought, and a thought that is cut."""
    pieces = [Markup(piece) if piece in MARKS else piece for piece in _MARKED.split(text) if piece]
    given: list[Part] = []
    if pieces[0] == Markup(THINK):
        given.append(pieces.pop(0))
        if kept < 1.0:
            words = str(pieces[0]).split(" ")
            given += [" ".join(words[: int(kept * len(words))]), Markup(THOUGHT)]
            pieces = pieces[2:]
    return [*given, Learned((*pieces, *([END_OF_CHUNK] if ended else [])))]
