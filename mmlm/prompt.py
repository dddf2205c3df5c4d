"""Prompts as parts (text, images, sounds), and the Processor that turns parts into ids and media.

Text is always text: an `<image>` or `<|endofchunk|>` that a user types or says, or a control token of the language
model's own, goes through the tokenizer as plain characters. Only parts make control tokens.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

import torch
from torch import Tensor

from encoders.sound import SUFFIXES, Audio
from mmlm.vocabulary import AUDIO, MediaVocabulary

IGNORE_INDEX = -100


@dataclass(frozen=True)
class Image:
    """An image part: anything `encoders.media.load_image` reads, or ready-made `encoders.base.Features`."""

    source: Any


@dataclass(frozen=True)
class Sound:
    """A sound part: anything `encoders.sound.open_audio` reads, or ready-made `encoders.base.Features`."""

    source: Any


@dataclass(frozen=True)
class Markup:
    """Text of a program, never of a user, in which control tokens count: what a chat template puts around a message.

    A prompt that begins with it gets no token of beginning besides what it holds.
    """

    text: str


@dataclass(frozen=True, eq=False)
class Codes:
    """A picture or sound as its codes, [K, h, w] or [K, T], between the words: to be learned, or gone on from."""

    modality: str
    codes: Tensor


class _EndOfChunk:
    def __repr__(self) -> str:
        return "END_OF_CHUNK"


END_OF_CHUNK: Final = _EndOfChunk()
"""The part that closes one demonstration or document: the `<|endofchunk|>` token."""

Media = Image | Sound
Part = str | Image | Sound | Codes | Markup | _EndOfChunk


def as_part(value: Any) -> Part:
    """A prompt part from what users pass: text stays text; a path, PIL image, array or Features becomes an Image.

    A path with a suffix of sound, and `Audio`, become a Sound.
    """
    if isinstance(value, (str, Image, Sound, Codes, Markup, _EndOfChunk)):
        return value
    if value is None or isinstance(value, (bool, int, float, dict, list, tuple)):
        raise TypeError(
            "a prompt part is text, an mmlm.Image(...), an mmlm.Sound(...), a pathlib.Path, a PIL image or an array, "
            f"not {type(value).__name__}"
        )
    if isinstance(value, Audio) or (isinstance(value, PurePath) and value.suffix.lower().lstrip(".") in SUFFIXES):
        return Sound(value)
    return Image(value)


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


@dataclass(frozen=True)
class Example:
    """One row: `input_ids` and `labels` (-100 where no loss) of equal length, and its media in order."""

    input_ids: list[int]
    labels: list[int]
    media: list[Media]


@dataclass
class Batch:
    """`input_ids`, `attention_mask`, `labels`: `[B, T]` each; labels are -100 where no loss is taken."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        labels = None if self.labels is None else self.labels.to(device)
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), labels)


def _spell(tokenizer: Any, token: str) -> list[int]:
    """Ids of a token's characters, one by one."""
    ids = tokenizer.convert_tokens_to_ids(list(token))
    if all(i is not None and i != tokenizer.unk_token_id for i in ids):
        return ids
    return [i for character in token for i in tokenizer(character, add_special_tokens=False)["input_ids"]]


class Processor:
    """Parts → ids and media, and ids → text, for one tokenizer and its added tokens."""

    def __init__(self, tokenizer: Any, vocabulary: MediaVocabulary, max_length: int | None = None):
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.max_length = max_length
        # Asked of the tokenizer itself, since configs and behaviour disagree: some set a bos token and never write it.
        bos = tokenizer.bos_token_id
        self.prefix = [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []
        # Some vocabularies hold a control token as a plain piece too, which text can spell: its characters instead.
        # Others add control tokens ("<|fim_prefix|>") without calling them special. Added words stay words.
        control = {i: t for t, i in zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)}
        added = getattr(tokenizer, "added_tokens_decoder", {})
        control |= {i: token.content for i, token in added.items() if re.fullmatch(r"<\S+>", token.content)}
        control.pop(tokenizer.unk_token_id, None)
        self._spelled = {i: _spell(tokenizer, token) for i, token in control.items()}

    def text_ids(self, text: str) -> list[int]:
        """Ids of plain text; control tokens typed in it stay plain characters.

        `ValueError` when the tokenizer knows a token of this text that the language model has no row for.
        """
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids = [piece for token in ids for piece in self._spelled.get(token, [token])]
        if max(ids, default=0) >= self.vocabulary.offset:
            raise ValueError(
                f"the tokenizer gives id {max(ids)} in {text[:80]!r}, but the language model has "
                f"{self.vocabulary.offset} rows: resize its vocabulary, or take the tokenizer that belongs to it"
            )
        return ids

    def encode(self, parts: Sequence[Any], target: str | Codes | Sequence[str | Codes] | None = None) -> Example:
        """Ids and media of a prompt, and with `target` the answer that training asks for, closed by `<|endofchunk|>`.

        The answer is text, codes, or both in turn.
        Prompt and target are tokenized apart, so the loss mask is exact by construction. Errors: an empty prompt, a
        part of another kind, more tokens than the language model has positions.
        """
        if isinstance(parts, str):
            parts = [parts]
        parts = [as_part(part) for part in parts]
        ids = [] if parts and isinstance(parts[0], Markup) else list(self.prefix)
        media: list[Media] = []
        for part in parts:
            if isinstance(part, str):
                ids += self.text_ids(part)
            elif isinstance(part, Markup):
                ids += self.tokenizer(part.text, add_special_tokens=False)["input_ids"]
            elif isinstance(part, Image):
                ids.append(self.vocabulary.image_id)
                media.append(part)
            elif isinstance(part, Sound):
                if AUDIO not in self.vocabulary.tokens:
                    raise ValueError("the prompt has a sound, but the model has no audio encoder: assemble it with one")
                ids.append(self.vocabulary.audio_id)
                media.append(part)
            elif isinstance(part, Codes):
                ids += self.code_ids(part)
            else:
                ids.append(self.vocabulary.end_of_chunk_id)
        labels = [IGNORE_INDEX] * len(ids)
        if target is not None:
            targets = [target] if isinstance(target, (str, Codes)) else target
            written = [self.text_ids(part) if isinstance(part, str) else self.code_ids(part) for part in targets]
            answer = [*(token for own in written for token in own), self.vocabulary.end_of_chunk_id]
            ids, labels = ids + answer, labels + answer
        if not ids:
            raise ValueError("the prompt is empty: give text, a picture or a sound")
        if self.max_length is not None and len(ids) > self.max_length:
            raise ValueError(
                f"the prompt has {len(ids)} tokens, but the language model has {self.max_length} positions"
            )
        return Example(ids, labels, media)

    def code_ids(self, part: Codes) -> list[int]:
        """Ids of codes with their boundaries; ValueError where the model does not write such, or they do not fit."""
        span = self.vocabulary.spans.get(part.modality)
        if span is None:
            raise ValueError(f"the model writes no {part.modality} codes: assemble it with an {part.modality} codec")
        return span.to_ids(part.codes)

    def collate(self, examples: Sequence[Example], padding_side: str = "right") -> Batch:
        """Pads rows to the longest: on the right for training, on the left for generation."""
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side is 'left' or 'right', not {padding_side!r}")
        longest = max(len(example.input_ids) for example in examples)
        ids = torch.full((len(examples), longest), self.vocabulary.pad_id)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, IGNORE_INDEX)
        for row, example in enumerate(examples):
            length = len(example.input_ids)
            span = slice(longest - length, longest) if padding_side == "left" else slice(0, length)
            ids[row, span] = torch.tensor(example.input_ids)
            labels[row, span] = torch.tensor(example.labels)
            mask[row, span] = 1
        return Batch(ids, mask, labels)

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Text of generated ids; added tokens and the language model's control tokens are left out."""
        own = [token for token in (ids.tolist() if isinstance(ids, Tensor) else ids) if token not in self.vocabulary]
        return self.tokenizer.decode(own, skip_special_tokens=True, clean_up_tokenization_spaces=False)
