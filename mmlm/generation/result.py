"""What a generation gives: text, ids, log-probabilities, why it ended, and what it used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from encoders.media.sound import Audio
from mmlm.generation.forms import Form
from mmlm.prompting.parts import Codes
from mmlm.prompting.sources import Citations, Source, citations

if TYPE_CHECKING:
    from PIL import Image

FinishReason = Literal["stop", "length"]
"""Why a generation ended: at a stop token, a stop string or the end of what was asked for; or at the token limit."""

TopLogProbs = tuple[tuple[int, float], ...]
"""Ids and their log-probabilities, the most likely first."""


@dataclass(frozen=True)
class Usage:
    """What a generation used: tokens of the prompt, media in it, their latents, and tokens generated.

    thinking_tokens: those of the generated tokens that were a thought or its closing mark, where one was asked for.
    known_tokens: of the prompt, those that an engine knew from an earlier request and did not read again.
    """

    prompt_tokens: int
    media_items: int
    media_latents: int
    generated_tokens: int
    thinking_tokens: int = 0
    known_tokens: int = field(default=0, compare=False)


@dataclass(frozen=True, eq=False)
class GenerationResult:
    """One generated sequence; `str(result)` is its text.

    text: without end tokens and stop strings; where thinking was asked for, the answer alone.
    token_ids: all generated ids, an end token included.
    log_probs: of each of these ids, in nats, under the model's plain distribution: before temperature, penalties,
        constraints and guidance. They are those of one forward pass over the same ids.
    top_log_probs: at each of them, the (id, log-probability) of the most likely tokens that can be written, the most
        likely first; empty unless the option of this name asked for them.
    finish_reason: "stop" or "length".
    score: of a beam: its log-probability divided by length ** length_penalty; None without beams.
    parts: text, pictures, sounds (or their codes) in the order in which they were written.
    sources: what the prompt offered, in the order of its numbers, 1 the first; None where nothing was looked up.
    thinking: the thought before the answer; None where there was none.
    answer_start: how many characters of the text come before its answer: of a model that thinks without being asked.
    votes: how often each answer was given in several attempts, most often first; empty where nobody voted.
    attempts: the results that voted, this one among them.
    form: that the answer was held to: choices, an expression or a schema.
    """

    text: str
    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    finish_reason: FinishReason
    usage: Usage
    score: float | None = None
    parts: tuple[str | Codes | Image.Image | Audio, ...] = ()
    thinking: str | None = None
    answer_start: int = 0
    sources: tuple[Source, ...] | None = None
    votes: Mapping[str, int] = field(default_factory=dict)
    attempts: tuple[GenerationResult, ...] = ()
    form: Form | None = None
    top_log_probs: tuple[TopLogProbs, ...] = ()

    @property
    def answer(self) -> str:
        """The text after the model's thinking, if it thinks; "" where the limit came before."""
        return self.text[self.answer_start :]

    @property
    def agreement(self) -> float | None:
        """The share of the votes that this answer got; None where nobody voted."""
        return max(self.votes.values()) / sum(self.votes.values()) if self.votes else None

    @property
    def mean_log_prob(self) -> float:
        """The mean of the tokens' log-probabilities, in nats; −inf without a token."""
        return sum(self.log_probs) / len(self.log_probs) if self.log_probs else -math.inf

    @property
    def citations(self) -> Citations:
        """The numbers in the answer: those of sources, and those that were not offered, which count for nothing."""
        return Citations() if self.sources is None else citations(self.answer, len(self.sources))

    @property
    def parsed(self) -> Any:
        """What an answer of a form says: the choice, the text of the expression, the object of the schema, which is an
        instance of the pydantic class where one was given. None without a form, and where a stop string cut the text.

        ValidationError where the class has rules of its own that the answer breaks.
        """
        return None if self.form is None else self.form.parse(self.answer)

    def __str__(self) -> str:
        return self.text

    @property
    def media(self) -> tuple[Codes | Image.Image | Audio, ...]:
        """The pictures and sounds among the parts."""
        return tuple(part for part in self.parts if not isinstance(part, str))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; media are described by their kind and size. With a form there is `parsed`."""
        form = {} if self.form is None else {"parsed": replace(self.form, model=None).parse(self.answer)}
        found: dict[str, Any] = {
            "text": self.text,
            "answer": self.answer,
            **({} if self.thinking is None else {"thinking": self.thinking}),
            **({"votes": dict(self.votes), "agreement": self.agreement} if self.votes else {}),
            "token_ids": list(self.token_ids),
            "log_probs": [round(value, 6) for value in self.log_probs],
            **(
                {"top_log_probs": [[[i, round(value, 6)] for i, value in top] for top in self.top_log_probs]}
                if self.top_log_probs
                else {}
            ),
            "finish_reason": self.finish_reason,
            "score": self.score,
            "usage": vars(self.usage),
            "media": [_described(part) for part in self.media],
            **form,
        }
        if self.sources is not None:
            named = self.citations
            found["sources"] = [
                {"number": number, "cited": number in named.cited, **source.to_dict()}
                for number, source in enumerate(self.sources, start=1)
            ]
            found["dropped_citations"] = list(named.dropped)
        return found


def _described(part: Codes | Image.Image | Audio) -> dict[str, Any]:
    if isinstance(part, Audio):
        return {"kind": "audio", "seconds": round(part.seconds, 3), "sample_rate": part.sample_rate}
    if isinstance(part, Codes):
        return {"kind": f"{part.modality} codes", "shape": list(part.codes.shape)}
    return {"kind": "image", "size": list(part.size)}
