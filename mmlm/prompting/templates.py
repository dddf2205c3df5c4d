"""The text around media: templates for captions, questions, drawing and speaking."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from decoders.values import check_kind, check_kinds
from mmlm.prompting.messages import Message
from mmlm.prompting.parts import END_OF_CHUNK, Image, Media, Part, Sound


@dataclass(frozen=True)
class PromptTemplate:
    """The text around media.

    caption, question: as in OpenFlamingo (open_flamingo/eval/models/open_flamingo.py).
    transcript: asks for a transcript, and precedes one in a prompt.
    reply: follows a recording that is itself the question.
    draw, speak: precede the codes of an image and of audio. With an empty text they make the unconditional prompt of
        classifier-free guidance.
    ValueError when `question` has no field {question}, or `draw` or `speak` no field {text}; TypeError for what is no
    text.
    """

    caption: str = "Output:"
    question: str = "Question:{question} Short answer:"
    transcript: str = "Transcript:"
    reply: str = "Short answer:"
    draw: str = "Draw:{text}"
    speak: str = "Say:{text}"

    def __post_init__(self) -> None:
        check_kinds(self)
        if "{question}" not in self.question:
            raise ValueError(f"a question template needs the field {{question}}: {self.question!r}")
        for wording in (self.draw, self.speak):
            if "{text}" not in wording:
                raise ValueError(f"a template for drawing or speaking needs the field {{text}}: {wording!r}")

    def caption_prompt(self, media: Any) -> list[Part]:
        """Parts that ask for a caption. media: a Sound part, or an Image part or its source."""
        return [_image_or_sound(media), self.caption]

    def question_prompt(self, media: Any, question: str) -> list[Part]:
        """Parts that ask `question` about `media`, a Sound part, or an Image part or its source.

        The question is inserted literally, braces included. ValueError for an empty question.
        """
        return [_image_or_sound(media), self._question(question)]

    def spoken_prompt(
        self, media: Sequence[Media], transcript: str | None = None, question: str | None = None
    ) -> list[Part]:
        """Parts that ask `question` about a recording; without `question`, the recording asks it.

        media: images and sounds, in order. transcript: the words of the recording, where they are known.
        """
        if question is None:
            text = self.reply if transcript is None else self._question(transcript)
        else:
            text = self._question(question)
            text = text if transcript is None else f"{self.transcript}{transcript} {text}"
        return [*media, text]

    def writing_prompt(self, modality: str, text: str) -> list[Part]:
        """Parts that precede the codes of an "image" or of "audio". The text is inserted literally, braces included."""
        before, after = (self.draw if modality == "image" else self.speak).split("{text}", 1)
        return [before + text + after]

    def conversation(self, turns: Sequence[Message]) -> list[Part]:
        """Parts of a conversation for a language model without a chat template: questions, and answers that end chunks.

        ValueError for messages of tools, which only a chat template can write.
        """
        parts: list[Part] = []
        for turn in turns:
            texts = [part for part in turn.content if isinstance(part, str)]
            media = [part for part in turn.content if not isinstance(part, str)]
            if turn.role == "tool" or turn.tool_calls:
                raise ValueError("the tokenizer has no chat template, which alone could write calls of tools")
            if turn.role == "system":
                parts += [*media, "\n".join(texts) + "\n"]
            elif turn.role == "assistant":
                parts += [*media, *texts, END_OF_CHUNK]
            elif texts:
                parts += [*media, self._question("\n".join(texts))]
            else:
                parts += [*media, self.reply if isinstance(media[-1], Sound) else self.caption]
        return parts[:-1] if turns and turns[-1].role == "assistant" else parts  # where it goes on

    def _question(self, question: str) -> str:
        check_kind("question", question, str)
        if not question.strip():
            raise ValueError("the question is empty")
        before, after = self.question.split("{question}", 1)
        return before + question + after


CHAT = PromptTemplate(
    question="{question}", transcript="Transcript of a recording: ", reply="Answer the question in the recording."
)
"""The template for language models with a chat template, which itself marks where questions and answers begin."""


def _image_or_sound(source: Any) -> Media:
    return source if isinstance(source, (Image, Sound)) else Image(source)


def demonstrations(pairs: Sequence[tuple[list[Part], str]]) -> list[Part]:
    """The parts of few-shot demonstrations: each prompt with its answer, closed by END_OF_CHUNK."""
    return [part for prompt, answer in pairs for part in (*prompt, answer, END_OF_CHUNK)]
