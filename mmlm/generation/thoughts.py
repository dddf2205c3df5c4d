"""Texts with a thought before the answer: told apart token by token, the thought and what follows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from mmlm.generation.constraints.thinking import Thinking, Thinks
from mmlm.generation.options import GenerationOptions
from mmlm.generation.text import Pieces
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.thinking import Opening, ThinkingMarks, marks_of, opened

BUDGET = 1024  # tokens of a thought where none is given, as far as there are positions for them


class Told:
    """The text of a row, token by token, as pieces of its thought and of its answer.

    how: how the row thinks; None for one that does not. The pieces of the answer are those of `Pieces`, of the tokens
    after the thought.
    """

    def __init__(self, how: Thinks | None, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._state = None if how is None else Thinking.begin(how)
        self._answer = Pieces(decode, stop)

    @property
    def is_thinking(self) -> bool:
        """Whether the thought goes on."""
        return self._state is not None and not self._state.closed

    @property
    def spent(self) -> int:
        """Tokens of the thought and its closing mark."""
        return 0 if self._state is None else self._state.spent

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._answer.stopped

    def push(self, token: int) -> tuple[str, str]:
        """What of the thought, and what of the answer, one more token settles; no end token of the answer."""
        if self._state is None or self._state.closed:
            return "", self._answer.push(token)
        self._state = self._state.advance(token)
        return self._state.piece, self._state.after

    def rest(self) -> tuple[str, str]:
        """What is left when no more tokens come."""
        state = self._state
        cut_off = state is not None and not state.closed and not state.forced
        return state.tail + state.text.rest() if state is not None and cut_off else "", self._answer.rest()


def opened_rows(
    tokenizer: Any, rows: Sequence[Sequence[Any]], options: GenerationOptions
) -> tuple[list[list[Any]], ThinkingMarks]:
    """Prompts after each of which a thought comes, and the marks around it.

    ValueError where neither the prompts nor the options say what the marks are, and the tokenizer knows none; and for
    prompts of different marks.
    """
    found = {row[-1].marks for row in rows if row and isinstance(row[-1], Opening)}
    marks = next(iter(found), None) or options.thinking_marks or marks_of(tokenizer)
    if marks is None:
        raise ValueError(
            "thinking: the tokenizer knows no marks of it. Pass thinking_marks=mmlm.prompting.ThinkingMarks(open, "
            "close), or ask with answer, ask or chat, which then think in plain words"
        )
    if len(found) > 1:
        raise ValueError("thinking: the prompts of one call have the same marks")
    return [[*row] if row and isinstance(row[-1], Opening) else opened(row, marks) for row in rows], marks


def thinks(model: MultimodalNetwork, marks: ThinkingMarks, options: GenerationOptions, length: int) -> Thinks:
    """How the rows of a request think whose prompts have `length` positions.

    ValueError where the language model has too few positions for thought, mark and answer.
    """
    processor, host = model.processor, model.language_model
    how = Thinks(
        marks,
        0 if options.thinking is True else options.thinking,
        options.max_new_tokens,
        frozenset(host.stop_ids).union(options.stop_token_ids).difference(processor.markup_ids(marks.close)),
        processor.control_ids,
        processor.markup_ids,
        processor.decode_marked,
    )
    budget = how.budget
    if options.thinking is True:
        left = BUDGET if host.max_length is None else host.max_length - length - how.most - how.answer
        budget = max(0, min(BUDGET, left))
    how = replace(how, budget=budget)
    if host.max_length is not None and length + how.room > host.max_length:
        raise ValueError(
            f"{length} tokens of the prompt, a thought of up to {budget} with its mark and max_new_tokens={how.answer} "
            f"take {length + how.room} positions, and the language model has {host.max_length}: lower thinking or "
            "max_new_tokens"
        )
    return how
