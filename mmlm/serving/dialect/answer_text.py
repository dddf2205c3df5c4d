"""The answer in a text that is being written: without the model's thinking, and without spaces around it."""

from __future__ import annotations

from mmlm.prompting.thinking import after_thinking

OPENING, CLOSING = "<think>", "</think>"


class AnswerText:
    """Takes pieces of a text, and gives those of its answer: joined, they are `GenerationResult.answer.strip()`.

    begun: whether the prompt has begun the thinking.
    """

    def __init__(self, begun: bool = False) -> None:
        self._begun = begun
        self._before: str | None = ""  # the text so far, while it may be thinking; None once the answer has begun
        self._spaces = ""  # which belong to the answer if more of it comes

    def push(self, piece: str) -> str:
        """The piece of the answer that is settled by a piece of the text."""
        if self._before is not None:
            self._before += piece
            text = self._before.lstrip()
            thinks = self._begun or text.startswith(OPENING) or OPENING.startswith(text)
            piece = "" if thinks and CLOSING not in text else after_thinking(self._before, self._begun).lstrip()
            if not piece:
                return ""
            self._before = None
        text = self._spaces + piece
        shown = text.rstrip()
        self._spaces = text[len(shown) :]
        return shown

    def rest(self) -> str:
        """What is left when no more comes: of a text that only looked like the beginning of a thinking block."""
        return "" if self._before is None else after_thinking(self._before, self._begun).strip()
