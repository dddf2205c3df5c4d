"""The tokens that mmlm adds beside a language model's own vocabulary."""

from dataclasses import dataclass

from mmlm.prompting.code_layout import CodeLayout, CodeSpan

IMAGE = "<image>"
AUDIO = "<audio>"
END_OF_CHUNK = "<|endofchunk|>"
PAD = "<|pad|>"
ADDED_TOKENS = (END_OF_CHUNK, IMAGE, PAD)
ADDED_TOKENS_WITH_AUDIO = (*ADDED_TOKENS, AUDIO)
"""The added tokens of a model without, and with, an audio encoder; a model without has no row to spare for it."""


@dataclass(frozen=True)
class MediaVocabulary:
    """Added tokens ↔ ids; ids start at `offset`, the size of the language model's own vocabulary; codes come last.

    `tokens[0]` is the one added token that generation may write, `<|endofchunk|>`; the others mark where media stand
    or fill a batch, and only a `Processor` can put them in.
    """

    offset: int
    tokens: tuple[str, ...] = ADDED_TOKENS
    layouts: tuple[CodeLayout, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token_id: int) -> bool:
        return self.offset <= token_id < self.code_offset + self.code_rows

    @property
    def code_offset(self) -> int:
        """The first id of codes, or where it would be."""
        return self.offset + len(self.tokens)

    @property
    def code_rows(self) -> int:
        """Rows of all codes and their boundaries."""
        return sum(layout.rows for layout in self.layouts)

    @property
    def spans(self) -> dict[str, CodeSpan]:
        """Where the codes of each medium lie."""
        found, begin = {}, self.code_offset
        for layout in self.layouts:
            found[layout.modality] = CodeSpan(layout, begin)
            begin += layout.rows
        return found

    def id(self, token: str) -> int:
        """Id of an added token; `ValueError` when it is none of them."""
        if token not in self.tokens:
            raise ValueError(f"{token!r} is not one of the added tokens {self.tokens}")
        return self.offset + self.tokens.index(token)

    def token(self, token_id: int) -> str:
        """Added token of an id; `ValueError` when the id is outside the added range."""
        if not self.offset <= token_id < self.code_offset:
            raise ValueError(f"id {token_id} is outside the added range {self.offset}..{self.code_offset - 1}")
        return self.tokens[token_id - self.offset]

    @property
    def image_id(self) -> int:
        return self.id(IMAGE)

    @property
    def audio_id(self) -> int:
        return self.id(AUDIO)

    @property
    def media_ids(self) -> dict[int, str]:
        """Ids of the tokens that mark where media stand, and what medium each marks."""
        return {self.id(token): token.strip("<>") for token in (IMAGE, AUDIO) if token in self.tokens}

    @property
    def end_of_chunk_id(self) -> int:
        return self.id(END_OF_CHUNK)

    @property
    def pad_id(self) -> int:
        return self.id(PAD)
