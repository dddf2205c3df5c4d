"""What an exchange with tools gives: what was written and called, in order, and why it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from decoders.values import check_kinds
from mmlm.generation.result import GenerationResult
from mmlm.prompting.messages import Message
from mmlm.reasoning.tools.calling import Called, described

Ended = Literal["answer", "length", "turns", "seconds"]


@dataclass(frozen=True)
class Limits:
    """Where an exchange ends.

    turns: how often the model writes. seconds: after which no turn and no call is begun; a call that runs is given up.
    calls: of one turn; the model is told that more are not made. characters: of the texts that one call gives, after
    which they are cut, and the model is told how many are left out.
    ValueError for one that is not above 0.
    """

    turns: int = 8
    seconds: float = 120.0
    calls: int = 8
    characters: int = 8_000

    def __post_init__(self) -> None:
        check_kinds(self)
        for name in ("turns", "seconds", "calls", "characters"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"limits: {name} must be above 0, not {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Turn:
    """What the model wrote at once.

    text: without its thinking and its calls. calls: in order. result: the generation. seconds: of it and the calls.
    """

    text: str
    calls: tuple[Called, ...]
    result: GenerationResult
    seconds: float


@dataclass(frozen=True, eq=False)
class Exchange:
    """A whole exchange; `print` shows it.

    answer: the model's last word; "" where the exchange ended before it.
    ended: "answer"; "length" where the text was cut off, or no positions are left; "turns", "seconds" at these limits.
    messages: those that were given, the calls, their results and the answer: what a next question goes on from.
    turns: what the model wrote, in order. seconds: of all.
    """

    answer: str
    ended: Ended
    messages: tuple[Message, ...]
    turns: tuple[Turn, ...]
    seconds: float

    @property
    def calls(self) -> tuple[Called, ...]:
        """All calls, in order."""
        return tuple(call for turn in self.turns for call in turn.calls)

    def __str__(self) -> str:
        lines: list[str] = []
        for turn in self.turns:
            lines += [turn.text, *map(str, turn.calls)] if turn.calls else []
        end = "" if self.ended == "answer" else f"(ended by the limit of {self.ended})"
        return "\n".join(line for line in (*lines, self.answer, end) if line)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; pictures and recordings are described."""
        return {
            "answer": self.answer,
            "ended": self.ended,
            "turns": [
                {
                    "text": turn.text,
                    "calls": [_plain(one) for one in turn.calls],
                    "seconds": round(turn.seconds, 3),
                    "usage": vars(turn.result.usage),
                }
                for turn in self.turns
            ],
            "seconds": round(self.seconds, 3),
        }


def _plain(one: Called) -> dict[str, Any]:
    return {
        "name": one.call.name,
        "arguments": dict(one.call.arguments),
        "result": [described(part) for part in one.parts],
        "error": one.error,
        "seconds": round(one.seconds, 3),
    }
