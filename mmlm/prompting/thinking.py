"""Marks of a model's thinking, `<think>…</think>` in most models that think: which there are, and what lies between."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decoders.values import check_kinds
from mmlm.prompting.parts import Markup


@dataclass(frozen=True)
class ThinkingMarks:
    """What stands around a thought.

    open: written before it, as markup at the end of a prompt; "" where a prompt by itself asks for a thought. close:
    what ends it. bridge: what comes before `close` where a budget ends the thought, such as a line break.
    ValueError without a closing mark; TypeError for what is no text.
    """

    open: str = "<think>"
    close: str = "</think>"
    bridge: str = ""

    def __post_init__(self) -> None:
        check_kinds(self)
        if not self.close.strip():
            raise ValueError("the marks of thinking need a closing one, which tells where the answer begins")


@dataclass(frozen=True)
class Opening(Markup):
    """The end of a prompt after which a thought comes, and the marks around it; "" where a template wrote the first."""

    marks: ThinkingMarks


THINK = ThinkingMarks()
IRREGULAR = (
    ThinkingMarks("<|START_THINKING|>", "<|END_THINKING|>"),
    ThinkingMarks("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
)
"""Marks in use whose closing one is not the opening one with a stroke."""

MARK = 16
"""Tokens that are set aside for a closing mark, before it is known how many it takes."""

SWITCHES = ("enable_thinking", "thinking")
"""What chat templates call their own switch."""

_PAIR = re.compile(r"<([\w:|-]*(?:think|thought|reason)[\w:|-]*)>|\[(think|thought|reasoning)\]", re.IGNORECASE)
_CONTROL = re.compile(r"<\|[^<>|]+\|>")


def marks_of(tokenizer: Any) -> ThinkingMarks | None:
    """The marks that a tokenizer knows: as control tokens of its own, or in its chat template; None for neither."""
    added = {token.content for token in getattr(tokenizer, "added_tokens_decoder", {}).values()}
    known = {*added, *tokenizer.all_special_tokens}
    for marks in IRREGULAR:
        if set(_CONTROL.findall(marks.open + marks.close)) <= known:
            return marks
    tokens = [token for token in sorted(known) if _PAIR.fullmatch(token)]
    for found in [*(_PAIR.fullmatch(token) for token in tokens), *_PAIR.finditer(template_source(tokenizer))]:
        assert found is not None, "those that match were kept"
        close = f"{found[0][0]}/{found[0][1:]}"
        if close in known or (found[0] not in known and close in template_source(tokenizer)):
            return ThinkingMarks(found[0], close)
    return None


def template_source(tokenizer: Any) -> str:
    """The program of a tokenizer's chat template; "" where it has none."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, Mapping):
        template = template.get("default", "")
    return template if isinstance(template, str) else ""


def switched(tokenizer: Any, on: bool, keywords: Mapping[str, Any] | None) -> dict[str, Any]:
    """Keywords of a chat template that has a switch of its own, turned on or off; what is given already stays."""
    names = re.findall(r"[A-Za-z_]\w*", template_source(tokenizer))
    return {name: on for name in SWITCHES if name in names} | dict(keywords or {})


def begins_thinking(parts: Sequence[Any], marks: ThinkingMarks = THINK) -> bool:
    """Whether a prompt ends in the opening mark of a thought, which some chat templates write."""
    markup = itertools.takewhile(lambda part: isinstance(part, Markup), reversed(parts))
    return "".join(reversed([part.text for part in markup])).rstrip().endswith(marks.open.rstrip())


def opened(parts: Sequence[Any], marks: ThinkingMarks) -> list[Any]:
    """A prompt after which a thought comes: the opening mark is written where the prompt does not end in it."""
    return [*parts, Opening("" if begins_thinking(parts, marks) else marks.open, marks)]


def after_thinking(text: str, begun: bool = False) -> str:
    """The text after a model's thinking, `<think>…</think>`; "" while it thinks; all of a text without thinking.

    begun: whether the prompt has written the opening mark, so that only the closing one is in the text.
    """
    return text[answer_start(text, begun) :]


def answer_start(text: str, begun: bool = False) -> int:
    """How many characters of a text come before its answer, which `after_thinking` gives."""
    place = text.rfind(THINK.close)
    if place >= 0:
        return place + len(THINK.close)
    return len(text) if begun or text.lstrip().startswith(THINK.open) else 0


def thought_in(text: str) -> str | None:
    """The thought in what comes before an answer, without its marks; None where nothing comes before."""
    if not text:
        return None
    return text.strip().removeprefix(THINK.open).removesuffix(THINK.close).strip()
