"""Recitation: the model first writes down what it remembers, and answers from that (Sun et al. 2022, 2210.01296)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decoders.values import check_kinds, check_least
from mmlm.generation.options import GenerationOptions
from mmlm.generation.request import request
from mmlm.prompting.conversation import chat_prompt
from mmlm.prompting.parts import Image
from mmlm.prompting.sources import Source

if TYPE_CHECKING:
    from mmlm.model.network import MultimodalNetwork


@dataclass(frozen=True)
class Recitation:
    """In place of an index: the one source is what the model itself remembers, and its path says so.

    wording: what asks for it, with the field {question}. max_new_tokens: how many are written at most.
    """

    wording: str = "Write down in a few sentences what is known about this, without answering it: {question}\n"
    max_new_tokens: int = 96

    def __post_init__(self) -> None:
        check_kinds(self)
        if "{question}" not in self.wording:
            raise ValueError(f"the wording of a recitation needs the field {{question}}: {self.wording!r}")
        check_least(self, max_new_tokens=1)

    @property
    def tokens(self) -> int:
        """As `Finder` has it: what was written may be more tokens when it is read, and has a number."""
        return 2 * self.max_new_tokens + 16

    def find(self, model: MultimodalNetwork, question: str, picture: Any) -> list[Source]:
        """What the model remembers, if it is anything."""
        before, after = self.wording.split("{question}", 1)
        asked = [*([] if picture is None else [Image(picture)]), before + question + after]
        tokenizer = model.processor.tokenizer
        if getattr(tokenizer, "chat_template", None):
            asked = chat_prompt(tokenizer, [{"role": "user", "content": asked}])
        options = GenerationOptions(max_new_tokens=self.max_new_tokens)
        ((result,),) = request(model, [asked], options).results(options.sampler(model.device))
        said = result.answer.strip()
        return [Source(0, "(the model's memory)", "text", said)] if said else []

    def picture(self, source: Source) -> bytes:
        """There is none."""
        raise ValueError(f"{source.path} holds no picture")
