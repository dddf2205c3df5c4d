"""Texts to the ids of a language model's tokenizer, from any number of threads."""

from __future__ import annotations

import threading
from typing import Any

from encoders.texts import tokenizing

# A fast tokenizer of transformers keeps in itself whether control tokens of a text take effect, and each call sets it:
# of two texts at once, one would be read as the other is meant to be.
_TURN = threading.Lock()


def token_ids(tokenizer: Any, text: str, *, plain: bool = False, prefix: bool = False) -> list[int]:
    """The ids of a text by a tokenizer of transformers.

    plain: control tokens in it are characters. prefix: with what the tokenizer puts before and behind a text.
    ValueError where the tokenizer fails.
    """
    more = {"split_special_tokens": True} if plain else {}
    with tokenizing(), _TURN:
        return tokenizer(text, add_special_tokens=prefix, **more)["input_ids"]
