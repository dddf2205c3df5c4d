"""The token ids that mmlm adds after a language model's own vocabulary."""

from dataclasses import dataclass

from mmlm.prompting.code_layout import CodeLayout, CodeSpan

IMAGE = "<image>"
AUDIO = "<audio>"
END_OF_CHUNK = "<|endofchunk|>"
PAD = "<|pad|>"
ADDED_TOKENS = (END_OF_CHUNK, IMAGE, PAD)
ADDED_TOKENS_WITH_AUDIO = (*ADDED_TOKENS, AUDIO)
"""The added tokens of a model without and with an audio encoder. Without one there is no row for `<audio>`."""


@dataclass(frozen=True)
class MediaVocabulary:
    """The ids of added tokens and codes: first the tokens, then the codes of each layout.

    offset: the first added id, the size of the language model's own vocabulary.
    tokens: `tokens[0]` is `<|endofchunk|>`, the only added token that generation may write. The others mark the
        positions of media or pad a batch, and only a `Processor` inserts them.
    layouts: the shapes of the codes that the model writes.
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
        """The first id of the codes; without codes, the first id after the added tokens."""
        return self.offset + len(self.tokens)

    @property
    def code_rows(self) -> int:
        """The number of ids of all codes and their boundaries."""
        return sum(layout.rows for layout in self.layouts)

    @property
    def spans(self) -> dict[str, CodeSpan]:
        """The ids of the codes, by modality."""
        found, begin = {}, self.code_offset
        for layout in self.layouts:
            found[layout.modality] = CodeSpan(layout, begin)
            begin += layout.rows
        return found

    def id(self, token: str) -> int:
        """The id of an added token; ValueError for any other token."""
        if token not in self.tokens:
            raise ValueError(f"{token!r} is not one of the added tokens {self.tokens}")
        return self.offset + self.tokens.index(token)

    def token(self, token_id: int) -> str:
        """The added token of an id; ValueError for an id outside the added range."""
        if not self.offset <= token_id < self.code_offset:
            raise ValueError(f"id {token_id} is outside the added range {self.offset}..{self.code_offset - 1}")
        return self.tokens[token_id - self.offset]

    @property
    def image_id(self) -> int:
        """The id of `<image>`."""
        return self.id(IMAGE)

    @property
    def audio_id(self) -> int:
        """The id of `<audio>`; ValueError for a model without an audio encoder."""
        return self.id(AUDIO)

    @property
    def media_ids(self) -> dict[int, str]:
        """The ids of the tokens that mark the positions of media, with the modality of each."""
        return {self.id(token): token.strip("<>") for token in (IMAGE, AUDIO) if token in self.tokens}

    @property
    def end_of_chunk_id(self) -> int:
        """The id of `<|endofchunk|>`."""
        return self.id(END_OF_CHUNK)

    @property
    def pad_id(self) -> int:
        """The id of `<|pad|>`."""
        return self.id(PAD)
