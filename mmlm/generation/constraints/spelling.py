"""How the tokens of a language model are spelled, for the grammars that its texts are held to."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from encoders.texts import tokenizing
from mmlm.prompting.processor import Processor
from mmlm.prompting.token_ids import token_ids

PROBE = 'He said: [1, 20, true], {"a key": "its value"}; and so on.'

_known: weakref.WeakKeyDictionary[Processor, Spelling] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


class Spelling:
    """The bytes of each token of a language model, made once for it: `spelling_of`.

    bytes: of each id of its own vocabulary; none for ids that are no text. written: bool `[V]`, the ids that are text:
    none that controls the language model. tokens: what llguidance's matchers take; it has the same ids, and `end`
    behind them for the end of a text, which the language model has its own ids for.
    """

    def __init__(self, processor: Processor) -> None:
        read, self.end = _read(processor), processor.vocabulary.offset
        special = {token for token in range(read.vocab_size) if read.is_special_token(token)} | processor.control_ids
        known = min(self.end, read.vocab_size)
        self.bytes = [b"" if token in special else read.decode_bytes([token]) for token in range(known)]
        self.bytes += [b""] * (self.end - known)
        self.written = torch.tensor([bool(spelled) for spelled in self.bytes])
        self._ids = {self.bytes[token]: token for token in self.written.nonzero().flatten().tolist()}
        self._longest = max(map(len, self._ids), default=0)
        self.tokens = _tokens([*self.bytes, b"<end>"], lambda text: self.fewest(text) or [])

    def fewest(self, text: bytes) -> list[int] | None:
        """The fewest ids that spell bytes; None where none do."""
        best: list[tuple[int, int] | None] = [*[None] * len(text), (0, -1)]  # how many, and the first, from here on
        for start in range(len(text) - 1, -1, -1):
            for end in range(start + 1, min(len(text), start + self._longest) + 1):
                token, rest, known = self._ids.get(text[start:end]), best[end], best[start]
                if token is not None and rest is not None and (known is None or rest[0] + 1 < known[0]):
                    best[start] = (rest[0] + 1, token)
        ids, place = list[int](), 0
        while place < len(text):
            if (step := best[place]) is None:
                return None
            ids.append(step[1])
            place += len(self.bytes[step[1]])
        return ids

    def mask(self, matcher: Any, among: Tensor | None = None) -> Tensor:
        """The ids that a matcher allows, bool `[V]`, among those that are text, or others of its grammar."""
        packed = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        found = torch.from_numpy(np.unpackbits(packed, bitorder="little")).view(torch.bool)[: self.end]
        return found & (self.written if among is None else among)


def spelling_of(processor: Processor) -> Spelling:
    """The spelling of a processor's tokenizer. ValueError for one that forms do not work with."""
    with _lock:
        if processor not in _known:
            _known[processor] = Spelling(processor)
        return _known[processor]


def _read(processor: Processor) -> Any:
    """What llguidance reads of a tokenizer. ValueError where tokens are not spelled as they are read: a text would not
    be what its grammar says.
    """
    import llguidance.hf

    tokenizer = processor.tokenizer
    kind = type(tokenizer).__name__
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"choices, regex and json_schema need a tokenizer of the tokenizers library (tokenizer.json), and {kind} "
            "is none: load it with AutoTokenizer.from_pretrained, which converts it where that is possible"
        )
    try:
        with tokenizing():
            found = llguidance.hf.from_tokenizer(tokenizer, eos_token=0, slices=[])
        ids = token_ids(tokenizer, PROBE)
    except ValueError as error:
        raise _unusable(kind, str(error)) from None
    read = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if found.decode_bytes(ids).decode(errors="replace").removeprefix(" ") != PROBE or read != PROBE:
        raise _unusable(kind, f"it reads {read[:40]!r} where {PROBE[:40]!r} was written")
    return found


def _unusable(kind: str, why: str) -> ValueError:
    return ValueError(
        f"choices, regex and json_schema do not work with the tokenizer {kind} ({' '.join(why.split())[:200]}): take a "
        "language model whose tokenizer spells out all of a text, by bytes or by pieces of SentencePiece"
    )


@functools.cache
def byte_tokens() -> Any:
    """A tokenizer whose tokens are the 256 bytes, for matchers that look for the end of a text."""
    return _tokens([*(bytes([byte]) for byte in range(256)), b"<end>"], list)


def _tokens(spelled: list[bytes], read: Callable[[bytes], list[int]]) -> Any:
    """A tokenizer for llguidance, of the bytes of each token; the last one is the end."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Tokens(spelled, read)))


class _Tokens:
    """What llguidance asks of a tokenizer of another library."""

    def __init__(self, spelled: list[bytes], read: Callable[[bytes], list[int]]) -> None:
        self.tokens, self.read, self.eos_token_id, self.bos_token_id = spelled, read, len(spelled) - 1, None
        self.special_token_ids = [token for token, own in enumerate(spelled) if not own] + [self.eos_token_id]

    def __call__(self, text: bytes) -> list[int]:
        return self.read(text)
