"""What a generation gives: text, ids, log-probabilities, why it ended, and what it used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from encoders.media.sound import Audio
from mmlm.prompting.parts import Codes
from mmlm.prompting.thinking import after_thinking

if TYPE_CHECKING:
    from PIL import Image

FinishReason = Literal["stop", "length"]
"""Why a generation ended: at a stop token, a stop string or the end of what was asked for; or at the token limit."""


@dataclass(frozen=True)
class Usage:
    """What a generation used: tokens of the prompt, media in it, their latents, and tokens generated.

    known_tokens: of the prompt, those that an engine knew from an earlier request and did not read again.
    """

    prompt_tokens: int
    media_items: int
    media_latents: int
    generated_tokens: int
    known_tokens: int = field(default=0, compare=False)


@dataclass(frozen=True, eq=False)
class GenerationResult:
    """One generated sequence; `str(result)` is its text.

    text: without end tokens and stop strings.
    token_ids: all generated ids, an end token included.
    log_probs: of each of these ids, in nats, under the model's plain distribution: before temperature, penalties,
        constraints and guidance. They are those of one forward pass over the same ids.
    finish_reason: "stop" or "length".
    score: of a beam: its log-probability divided by length ** length_penalty; None without beams.
    parts: text, pictures, sounds (or their codes) in the order in which they were written.
    thinking: whether the prompt had begun the model's thinking with `<think>`, as some chat templates do.
    """

    text: str
    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    finish_reason: FinishReason
    usage: Usage
    score: float | None = None
    parts: tuple[str | Codes | Image.Image | Audio, ...] = ()
    thinking: bool = False

    @property
    def answer(self) -> str:
        """The text after the model's thinking (`<think>…</think>`), if it thinks; "" where the limit came before."""
        return after_thinking(self.text, self.thinking)

    def __str__(self) -> str:
        return self.text

    @property
    def media(self) -> tuple[Codes | Image.Image | Audio, ...]:
        """The pictures and sounds among the parts."""
        return tuple(part for part in self.parts if not isinstance(part, str))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; media are described by their kind and size."""
        return {
            "text": self.text,
            "answer": self.answer,
            "token_ids": list(self.token_ids),
            "log_probs": [round(value, 6) for value in self.log_probs],
            "finish_reason": self.finish_reason,
            "score": self.score,
            "usage": vars(self.usage),
            "media": [_described(part) for part in self.media],
        }


def _described(part: Codes | Image.Image | Audio) -> dict[str, Any]:
    if isinstance(part, Audio):
        return {"kind": "audio", "seconds": round(part.seconds, 3), "sample_rate": part.sample_rate}
    if isinstance(part, Codes):
        return {"kind": f"{part.modality} codes", "shape": list(part.codes.shape)}
    return {"kind": "image", "size": list(part.size)}
