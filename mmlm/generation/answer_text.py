"""The answer in a text that is being written: without the model's thinking, and without spaces around it."""

from __future__ import annotations

import copy

from mmlm.generation.text import held_back
from mmlm.prompting.thinking import THINK


class Trimmed:
    """Takes pieces of a text, and gives those of it without the spaces around it."""

    def __init__(self) -> None:
        self._begun, self._spaces = False, ""  # spaces belong to the text if more of it comes

    def push(self, piece: str) -> str:
        """What may be given out after one more piece."""
        text = self._spaces + piece if self._begun else piece.lstrip()
        shown = text.rstrip()
        self._begun, self._spaces = self._begun or bool(shown), text[len(shown) :]
        return shown


class AnswerText:
    """Takes pieces of a text, and gives those of its answer: joined, they are `GenerationResult.answer.strip()`.

    begun: whether the prompt has begun the thinking. thought: the piece of the thought that the last call has settled.
    """

    def __init__(self, begun: bool = False) -> None:
        self._thinks: bool | None = True if begun else None  # None while the text may begin with the opening mark
        self._waiting = ""
        self._answer, self._thought, self.thought = Trimmed(), Trimmed(), ""

    def push(self, piece: str) -> str:
        """The piece of the answer that is settled by a piece of the text."""
        self.thought = ""
        self._waiting += piece
        if self._thinks is None:
            text = self._waiting.lstrip()
            if text.startswith(THINK.open):
                self._thinks, self._waiting = True, text[len(THINK.open) :]
            elif THINK.open.startswith(text):
                return ""
            else:
                self._thinks = False
        if self._thinks:
            thought, mark, self._waiting = self._waiting.partition(THINK.close)
            if not mark:
                kept = len(thought) - held_back(thought, (THINK.close,))
                thought, self._waiting = thought[:kept], thought[kept:]
            self.thought = self._thought.push(thought)
            if not mark:
                return ""
            self._thinks = False
        answer, self._waiting = self._waiting, ""
        return self._answer.push(answer)

    def copied(self) -> AnswerText:
        """The same, which goes on by itself."""
        made = copy.copy(self)
        made._answer, made._thought = copy.copy(self._answer), copy.copy(self._thought)
        return made

    def rest(self) -> str:
        """What is left when no more comes: of a text that only looked like the beginning of a thinking block."""
        rest, self._waiting = self._waiting, ""
        self.thought = self._thought.push(rest) if self._thinks else ""
        return "" if self._thinks else self._answer.push(rest)
