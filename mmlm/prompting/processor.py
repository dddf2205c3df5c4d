"""The Processor, which turns the parts of a prompt into token ids and media, and ids back into text.

User text never becomes a control token. If a user types or says `<image>`, `<|endofchunk|>` or a control token of the
language model, the tokenizer gets it as plain characters. Only parts produce control tokens.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from encoders.texts import check_characters, check_text
from mmlm.prompting.parts import Codes, Image, Learned, Markup, Media, Part, Sound, as_part
from mmlm.prompting.token_ids import token_ids
from mmlm.prompting.vocabulary import AUDIO, MediaVocabulary

IGNORE_INDEX = -100
"""The label of a token that takes no part in the loss, as in transformers."""


_MOST = 10_000_000  # characters, whatever the number of positions
_COMPOSED = 2


@dataclass(frozen=True)
class Example:
    """One row of a batch: `input_ids`, `labels` of the same length (-100: no loss), and its media in prompt order."""

    input_ids: list[int]
    labels: list[int]
    media: list[Media]


@dataclass
class Batch:
    """Padded rows, `[B, T]` each: `input_ids`, `attention_mask` and `labels` (-100: no loss).

    attention_mask: 0 for padding, 1 for tokens; where several texts share a row, the number of the text in its row.
    shared: whether there is such a row.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor | None = None
    shared: bool = False

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        labels = None if self.labels is None else self.labels.to(device)
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), labels, self.shared)


def _texts(parts: Sequence[Any]) -> Iterator[Any]:
    """The texts of parts and, as they are, parts that have none."""
    for part in parts:
        pieces = part.parts if isinstance(part, Learned) else [part]
        yield from (piece.text if isinstance(piece, Markup) else piece for piece in pieces)


def _spell(tokenizer: Any, token: str) -> list[int]:
    """The ids of a control token's characters, each tokenized on its own."""
    ids = tokenizer.convert_tokens_to_ids(list(token))
    if all(i is not None and i != tokenizer.unk_token_id for i in ids):
        return ids
    return [i for character in token for i in token_ids(tokenizer, character)]


class Processor:
    """Turns parts into ids and media, and ids into text, for one tokenizer and its added tokens.

    tokenizer: a transformers tokenizer. max_length: the largest number of tokens in a row; None for no limit.
    """

    def __init__(self, tokenizer: Any, vocabulary: MediaVocabulary, max_length: int | None = None):
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.max_length = max_length
        # Checked by running the tokenizer: some configs set a bos token that the tokenizer never writes.
        bos = tokenizer.bos_token_id
        self.prefix = [bos] if bos is not None and token_ids(tokenizer, "a", prefix=True)[:1] == [bos] else []
        # In some vocabularies a control token is an ordinary piece as well, so that typed text could produce it. Other
        # vocabularies add control tokens ("<|fim_prefix|>") without marking them as special. Text gets the ids of the
        # characters in place of both. Words that were added to the vocabulary stay as they are.
        control = {i: t for t, i in zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)}
        added = getattr(tokenizer, "added_tokens_decoder", {})
        control |= {i: token.content for i, token in added.items() if re.fullmatch(r"<\S+>", token.content)}
        control.pop(tokenizer.unk_token_id, None)
        self._spelled = {i: _spell(tokenizer, token) for i, token in control.items()}
        self.control_ids = frozenset({*control, *added} - {tokenizer.unk_token_id})  # which no text becomes
        # What any text of a row may have: each token of a vocabulary of bytes or characters stands for one entry at
        # most, and NFC makes one character of up to two that the tokenizer sees (four of three bytes).
        longest = max(map(len, tokenizer.get_vocab()), default=1)
        self.max_characters = _MOST if max_length is None else min(_MOST, _COMPOSED * longest * max_length)

    def text_ids(self, text: str) -> list[int]:
        """The ids of plain text, in which typed control tokens stay plain characters.

        ValueError for a text that is no valid Unicode, holds a NUL, or has more characters than the language model has
        positions for; and when the tokenizer gives an id for which the language model has no embedding row.
        """
        self._measure([text])
        check_text(text)
        ids = token_ids(self.tokenizer, text, plain=True)
        ids = [piece for token in ids for piece in self._spelled.get(token, [token])]
        return self._with_rows(ids, text)

    def _with_rows(self, ids: list[int], text: str) -> list[int]:
        """The ids of a text; ValueError for one without a row."""
        if max(ids, default=0) >= self.vocabulary.offset:
            raise ValueError(
                f"the tokenizer gives id {max(ids)} in {text[:80]!r}, but the language model's vocabulary has "
                f"{self.vocabulary.offset} rows: resize it, or use the tokenizer that belongs to the model"
            )
        return ids

    def encode(
        self, parts: Sequence[Any], target: str | Codes | Sequence[str | Codes] | None = None, *, cut: bool = False
    ) -> Example:
        """The ids and media of a prompt; with `target`, also the ids and labels of the answer to learn.

        parts: text, media and other parts; whatever `as_part` accepts. The tokens of `Learned` parts carry labels.
        target: text, codes, or a sequence of both. It is closed by `<|endofchunk|>`, and its tokens carry labels.
        Whatever is learned is tokenized apart from what is not, so that the loss mask is exact.
        cut: leave out what is behind the last position, text and media, in place of an error.
        ValueError for an empty prompt, for media or codes that the model cannot read or write, and for more than
        `max_length` tokens; TypeError for a value that is no prompt part.
        """
        parts = [as_part(part) for part in ([parts] if isinstance(parts, str) else parts)]
        targets = [] if target is None else [target] if isinstance(target, (str, Codes)) else list(target)
        if cut:
            parts = self._fitting(parts)
        self._measure([*_texts(parts), *targets])
        ids = [] if parts and isinstance(parts[0], Markup) else list(self.prefix)
        labels = [IGNORE_INDEX] * len(ids)
        for learned, run in itertools.groupby(parts, lambda part: isinstance(part, Learned)):
            own = self._ids([piece for part in run for piece in (part.parts if isinstance(part, Learned) else [part])])
            ids, labels = ids + own, labels + (own if learned else [IGNORE_INDEX] * len(own))
        media = [part for part in parts if isinstance(part, (Image, Sound))]
        if target is not None:
            written = [self.text_ids(part) if isinstance(part, str) else self.code_ids(part) for part in targets]
            answer = [*(token for own in written for token in own), self.vocabulary.end_of_chunk_id]
            ids, labels = ids + answer, labels + answer
        if not ids:
            raise ValueError("the prompt is empty: give it text, an image or a sound")
        if cut:
            ids, labels = ids[: self.max_length], labels[: self.max_length]
            media = media[: sum(token in self.vocabulary.media_ids for token in ids)]
        if self.max_length is not None and len(ids) > self.max_length:
            raise ValueError(
                f"the prompt has {len(ids)} tokens, but the language model has {self.max_length} positions"
            )
        return Example(ids, labels, media)

    def _ids(self, parts: Sequence[Any]) -> list[int]:
        ids = []
        for written, run in itertools.groupby(parts, lambda part: isinstance(part, (str, Markup))):
            run = list(run)
            marked = written and any(isinstance(part, Markup) for part in run)
            ids += self._marked_ids(run) if marked else [token for part in run for token in self._part_ids(part)]
        return ids

    def _fitting(self, parts: Sequence[Any]) -> list[Any]:
        """The first parts, with as many characters as are tokenized at once; the last is cut."""
        room, kept = self.max_characters, []
        for part in parts:
            text = part.parts[0] if isinstance(part, Learned) else part
            if isinstance(text, str) and len(text) > room:
                return [*kept, Learned((text[:room],)) if isinstance(part, Learned) else text[:room]] if room else kept
            room -= len(text) if isinstance(text, str) else 0
            kept.append(part)
        return kept

    def _measure(self, parts: Sequence[Any]) -> None:
        """ValueError where the texts of a row have more characters than its positions could hold.

        Tokenizing takes time and memory, a gigabyte for some ten million characters.
        """
        count = sum(len(part) for part in parts if isinstance(part, str))
        if self.max_length is None:
            why = f"no more than {self.max_characters:,} are tokenized at once"
        else:
            why = f"the language model has {self.max_length:,} positions, for at most {self.max_characters:,} of them"
        check_characters(count, self.max_characters, "the prompt", why)

    def _marked_ids(self, run: Sequence[Any]) -> list[int]:
        """The ids of text and markup that follow each other: those of one text, which is what a template writes.

        Where a control token in it is not the markup's, each part is tokenized on its own.
        """
        for part in run:
            check_text(part.text if isinstance(part, Markup) else part)
        whole = "".join(part.text if isinstance(part, Markup) else part for part in run)
        ids = token_ids(self.tokenizer, whole)
        own = [token for part in run if isinstance(part, Markup) for token in self._controls(self._part_ids(part))]
        if self._controls(ids) == own:
            return self._with_rows(ids, whole)
        return [token for part in run for token in self._part_ids(part)]

    def _controls(self, ids: Sequence[int]) -> list[int]:
        return [token for token in ids if token in self.control_ids]

    def _part_ids(self, part: Part) -> list[int]:
        if isinstance(part, str):
            return self.text_ids(part)
        if isinstance(part, Markup):
            return self._with_rows(token_ids(self.tokenizer, part.text), part.text)
        if isinstance(part, Image):
            return [self.vocabulary.image_id]
        if isinstance(part, Sound):
            if AUDIO not in self.vocabulary.tokens:
                raise ValueError("the prompt has a sound, but the model has no audio encoder: assemble it with one")
            return [self.vocabulary.audio_id]
        return self.code_ids(part) if isinstance(part, Codes) else [self.vocabulary.end_of_chunk_id]

    def code_ids(self, part: Codes) -> list[int]:
        """The ids of codes and their boundaries.

        ValueError when the model writes no codes of this modality, or the codes do not fit its layout.
        """
        span = self.vocabulary.spans.get(part.modality)
        if span is None:
            raise ValueError(
                f"the model writes no {part.modality} codes: load it with its codecs, or assemble it with an "
                f"{part.modality} codec"
            )
        return span.to_ids(part.codes)

    def collate(self, examples: Sequence[Example], padding_side: str = "right") -> Batch:
        """Pads rows to the longest one, on the right for training and on the left for generation.

        padding_side: "right" or "left"; ValueError for anything else.
        """
        return self.pack([[example] for example in examples], padding_side)

    def pack(self, rows: Sequence[Sequence[Example]], padding_side: str = "right") -> Batch:
        """The same, with one or more texts in a row, which do not see each other."""
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side must be 'left' or 'right', not {padding_side!r}")
        longest = max(sum(len(example.input_ids) for example in row) for row in rows)
        ids = torch.full((len(rows), longest), self.vocabulary.pad_id)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, IGNORE_INDEX)
        for row, examples in enumerate(rows):
            at = 0 if padding_side == "right" else longest - sum(len(example.input_ids) for example in examples)
            for number, example in enumerate(examples, start=1):
                span = slice(at, at := at + len(example.input_ids))
                ids[row, span] = torch.tensor(example.input_ids)
                labels[row, span] = torch.tensor(example.labels)
                if number > 1:  # the text before it does not predict how it begins
                    labels[row, span.start] = IGNORE_INDEX
                mask[row, span] = number
        return Batch(ids, mask, labels, shared=any(len(row) > 1 for row in rows))

    def markup_ids(self, text: str) -> list[int]:
        """The ids of markup, in which control tokens take effect."""
        return self._with_rows(self._part_ids(Markup(text)), text)

    def decode_marked(self, ids: Sequence[int]) -> str:
        """The text of generated ids as `decode` gives it, but with the language model's control tokens."""
        own = [token for token in ids if token not in self.vocabulary]
        return self.tokenizer.decode(own, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """The text of generated ids, without added tokens, codes and the language model's control tokens."""
        own = [token for token in (ids.tolist() if isinstance(ids, Tensor) else ids) if token not in self.vocabulary]
        return self.tokenizer.decode(own, skip_special_tokens=True, clean_up_tokenization_spaces=False)
