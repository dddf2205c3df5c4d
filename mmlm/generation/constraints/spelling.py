"""How the tokens of a language model are spelled, for the grammars that its texts are held to."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from encoders.texts import tokenizing
from mmlm.prompting.processor import Processor

PROBE = 'He said: [1, 20, true], {"a key": "its value"}; and so on.'

_known: weakref.WeakKeyDictionary[Processor, Spelling] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


class Spelling:
    """The bytes of each token of a tokenizer, made once for it: `spelling_of`.

    tokens: what llguidance's matchers take. bytes: of each id of the language model's own vocabulary. end: the id that
    stands for the end of a text in a matcher; what ends it in the language model is its own business.
    written: bool `[V]`, the ids that stand for text: none that controls the language model.
    """

    def __init__(self, processor: Processor) -> None:
        self.tokens, rows = _tokens(processor), processor.vocabulary.offset
        known = range(min(rows, self.tokens.vocab_size))
        self.bytes = [self.tokens.decode_bytes([token]) for token in known] + [b""] * (rows - len(known))
        self.end: int = self.tokens.eos_token
        special = [self.end, *(token for token in known if self.tokens.is_special_token(token))]
        self.written = torch.tensor([bool(spelled) for spelled in self.bytes])
        self.written[[token for token in {*special, *processor.control_ids} if token < len(self.bytes)]] = False
        self._ids = {self.bytes[token]: token for token in self.written.nonzero().flatten().tolist()}
        self._longest = max(map(len, self._ids), default=0)
        _check(self, processor)

    def fewest(self, text: bytes) -> list[int] | None:
        """The fewest ids that spell bytes; None where none do."""
        best: list[tuple[int, int] | None] = [None] * len(text) + [(0, -1)]  # (how many, the first of them) from here on
        for start in range(len(text) - 1, -1, -1):
            for end in range(start + 1, min(len(text), start + self._longest) + 1):
                token, rest = self._ids.get(text[start:end]), best[end]
                if token is not None and rest is not None and (best[start] is None or rest[0] + 1 < best[start][0]):
                    best[start] = (rest[0] + 1, token)
        ids, place = list[int](), 0
        while place < len(text):
            if (step := best[place]) is None:
                return None
            ids.append(step[1])
            place += len(self.bytes[step[1]])
        return ids

    def mask(self, matcher: Any) -> Tensor:
        """The ids that a matcher allows and that stand for text, bool `[V]`."""
        packed = torch.frombuffer(bytearray(matcher.compute_bitmask()), dtype=torch.uint8)
        bits = torch.bitwise_and(packed.unsqueeze(1), _BITS).ne(0).flatten()
        rows = min(len(bits), len(self.written))
        allowed = torch.zeros_like(self.written)
        allowed[:rows] = bits[:rows] & self.written[:rows]
        return allowed


_BITS = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)


def spelling_of(processor: Processor) -> Spelling:
    """The spelling of a processor's tokenizer. ValueError for one that forms do not work with."""
    with _lock:
        if processor not in _known:
            _known[processor] = Spelling(processor)
        return _known[processor]


def _tokens(processor: Processor) -> Any:
    import llguidance.hf

    tokenizer = processor.tokenizer
    kind = type(tokenizer).__name__
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"choices, regex and json_schema need a tokenizer of the tokenizers library (tokenizer.json), and {kind} is "
            "none: load it with AutoTokenizer.from_pretrained, which converts it where that is possible"
        )
    # One token has to be llguidance's end. Where none controls the language model, it is the last piece.
    end = min(processor.control_ids, default=max(tokenizer.get_vocab().values()))
    try:
        with tokenizing():
            return llguidance.hf.from_tokenizer(tokenizer, eos_token=end)
    except ValueError as error:
        raise _unusable(kind, str(error)) from None


def _check(spelling: Spelling, processor: Processor) -> None:
    """ValueError where tokens are not spelled as they are read: a text would not be what its grammar says."""
    tokenizer = processor.tokenizer
    with tokenizing():
        ids = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    read = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    spelled = spelling.tokens.decode_bytes(ids).decode(errors="replace")
    if spelled.removeprefix(" ") != PROBE or read != PROBE:
        raise _unusable(type(tokenizer).__name__, f"it reads {read[:40]!r} where {PROBE[:40]!r} was written")


def _unusable(kind: str, why: str) -> ValueError:
    return ValueError(
        f"choices, regex and json_schema do not work with the tokenizer {kind} ({' '.join(why.split())[:200]}): take a "
        "language model whose tokenizer spells out all of a text, by bytes or by pieces of SentencePiece"
    )


@functools.cache
def byte_tokens() -> Any:
    """A tokenizer whose tokens are the 256 bytes, for matchers that look for the end of a text."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes()))


class _Bytes:
    """What llguidance asks of a tokenizer of another library."""

    eos_token_id, bos_token_id, special_token_ids = 256, None, (256,)
    tokens: Sequence[bytes] = (*(bytes([byte]) for byte in range(256)), b"<end>")

    def __call__(self, text: bytes) -> list[int]:
        return list(text)
