"""The wording around media: templates for captions, questions, drawing and speaking, and chat templates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmlm.prompting.parts import END_OF_CHUNK, Image, Markup, Media, Part, Sound


@dataclass(frozen=True)
class PromptTemplate:
    """Wording around the media; the first two are OpenFlamingo's (open_flamingo/eval/models/open_flamingo.py).

    `transcript` stands before what was said in a recording, and asks for it; `reply` follows a recording that is itself
    the question. `draw` and `speak` stand before the codes of a picture and of sound; with an empty text they are what
    guidance leads away from.
    """

    caption: str = "Output:"
    question: str = "Question:{question} Short answer:"
    transcript: str = "Transcript:"
    reply: str = "Short answer:"
    draw: str = "Draw:{text}"
    speak: str = "Say:{text}"

    def __post_init__(self):
        if "{question}" not in self.question:
            raise ValueError(f"a question template needs the field {{question}}: {self.question!r}")
        for wording in (self.draw, self.speak):
            if "{text}" not in wording:
                raise ValueError(f"a template for drawing or speaking needs the field {{text}}: {wording!r}")

    def caption_prompt(self, media: Any) -> list[Part]:
        """Parts that ask for a caption of a picture or a sound (a Sound part)."""
        return [_media(media), self.caption]

    def question_prompt(self, media: Any, question: str) -> list[Part]:
        """Parts that ask `question` about a picture or a sound; it is inserted as it stands, braces and all."""
        return [_media(media), self._question(question)]

    def spoken_prompt(
        self, media: Sequence[Media], transcript: str | None = None, question: str | None = None
    ) -> list[Part]:
        """Parts that ask about a recording, or, without a `question`, that answer what it asks.

        media: what is looked at and listened to, in order; transcript: what was said in the recording, as text.
        """
        if question is None:
            text = self.reply if transcript is None else self._question(transcript)
        else:
            text = self._question(question)
            text = text if transcript is None else f"{self.transcript}{transcript} {text}"
        return [*media, text]

    def writing_prompt(self, modality: str, text: str) -> list[Part]:
        """Parts before the codes of an "image" or of "audio"; the text is inserted as it stands, braces and all."""
        before, after = (self.draw if modality == "image" else self.speak).split("{text}", 1)
        return [before + text + after]

    def _question(self, question: str) -> str:
        if not question.strip():
            raise ValueError("the question is empty")
        before, after = self.question.split("{question}", 1)
        return before + question + after


CHAT = PromptTemplate(
    question="{question}", transcript="Transcript of a recording: ", reply="Answer the question in the recording."
)
"""What is said to a model that has a chat template of its own, which marks where questions and answers begin."""


def chat_prompt(tokenizer: Any, parts: Sequence[Part]) -> list[Part]:
    """The parts as a user's message, between what the tokenizer's chat template writes before and after one."""
    place = "\N{OBJECT REPLACEMENT CHARACTER}"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": place}], tokenize=False, add_generation_prompt=True
    )
    if text.count(place) != 1:
        raise ValueError("the tokenizer's chat template does not write a user's message exactly once")
    before, after = text.split(place)
    return [Markup(before), *parts, Markup(after)]


def _media(source: Any) -> Media:
    return source if isinstance(source, (Image, Sound)) else Image(source)


def demonstrations(pairs: Sequence[tuple[list[Part], str]]) -> list[Part]:
    """Few-shot parts: each prompt with its answer, closed by END_OF_CHUNK."""
    return [part for prompt, answer in pairs for part in (*prompt, answer, END_OF_CHUNK)]
