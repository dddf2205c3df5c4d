"""Thinking in OpenAI's dialect: how much is asked for, and the pieces of a thought and an answer as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from mmlm.generation.answer_text import AnswerText, Trimmed
from mmlm.generation.constraints.thinking import Thinks
from mmlm.generation.options import GenerationOptions
from mmlm.generation.thoughts import Told, thinks
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.thinking import Opening
from mmlm.tasks.chat import MARK, room

Effort = Literal["none", "minimal", "low", "medium", "high"]

BUDGETS: dict[Effort, int] = {"none": 0, "minimal": 0, "low": 256, "medium": 1024, "high": 4096}
"""The most tokens of a thought, where limit and positions allow them; 0 for no thought."""


def is_asked_for(effort: Effort | None, budget: int | None) -> bool:
    """Whether a request asks for a thought; by a budget that is given, be it 0, or by an effort that has one."""
    return budget is not None or BUDGETS[effort or "none"] > 0


def shares(
    model: MultimodalNetwork, prompt: Sequence[Any], effort: Effort | None, budget: int | None, limit: int | None
) -> tuple[bool | int, int]:
    """How many tokens a thought may have, False for none, and how many the answer.

    budget: None for that of the effort, which takes no more than half of the limit or of the positions; −1 for as many
    as there are. limit: of both together, as in OpenAI's API; None for what `mmlm.tasks.chat.room` gives the answer.
    """
    if not is_asked_for(effort, budget):
        return False, limit or room(model, [prompt])
    whole = limit or room(model, [prompt], True) * 2 - MARK
    most = BUDGETS["high"] if budget == -1 else budget
    thought = min(BUDGETS[effort or "none"], whole // 2) if most is None else min(most, whole - 1)
    return max(0, thought), max(1, whole - thought) if limit else room(model, [prompt], thought)


def how_it_thinks(model: MultimodalNetwork, prompt: Sequence[Any], options: GenerationOptions) -> Thinks | None:
    """How the rows of a request think whose prompt is of `chat_prompt`; None where they do so unasked at most."""
    if not options.is_thinking:
        return None
    opening = prompt[-1]
    assert isinstance(opening, Opening), "chat_prompt was asked for a thought"
    return thinks(model, opening.marks, options, 0)


class ThoughtRow:
    """One row of a stream: its thought and its answer in pieces, without the spaces around them.

    begun: whether the prompt has begun a thought that nobody asked for. plain: whether the answer is text alone; where
    calls of tools are in it, its pieces come as they are, and who reads the calls leaves out such a thought.
    """

    def __init__(self, how: Thinks | None, decode: Any, stop: Sequence[str], begun: bool, plain: bool = True) -> None:
        self._told, self._plain = Told(how, decode, stop), plain
        self._unasked = AnswerText(begun) if how is None and plain else None
        self._thought, self._answer = Trimmed(), Trimmed()

    def push(self, token: int) -> tuple[str, str]:
        """The pieces of the thought and of the answer that one more token settles."""
        return self._trimmed(*self._told.push(token))

    def rest(self) -> tuple[str, str]:
        """What is left of both when no more tokens come."""
        thought, answer = self._trimmed(*self._told.rest())
        if self._unasked is None:
            return thought, answer
        more = self._unasked.rest()
        return thought + self._unasked.thought, answer + more

    def _trimmed(self, thought: str, answer: str) -> tuple[str, str]:
        if self._unasked is not None:
            answer = self._unasked.push(answer)
            return self._unasked.thought, answer
        return self._thought.push(thought), self._answer.push(answer) if self._plain else answer


def deltas(thought: str, answer: str) -> list[dict[str, Any]]:
    """The deltas of a stream for pieces of a thought and of an answer, by both names that clients read thoughts by."""
    found: list[dict[str, Any]] = [message_of(thought)] if thought else []
    return [*found, {"content": answer}] if answer else found


def message_of(thought: str | None) -> dict[str, Any]:
    """The fields of a message that hold a thought."""
    return {} if thought is None else {"reasoning_content": thought, "reasoning": thought}
