"""Prompts as parts (text, images, sounds), and the Processor that turns parts into ids and media.

Text is always text: an `<image>` or `<|endofchunk|>` that a user types or says, or a control token of the language
model's own, goes through the tokenizer as plain characters. Only parts make control tokens.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmlm.prompting.parts import Codes, Image, Markup, Media, Sound, as_part
from mmlm.prompting.vocabulary import AUDIO, MediaVocabulary

IGNORE_INDEX = -100


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
