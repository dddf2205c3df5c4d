"""Texts, before they are tokenized and when they are compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

MAX_CHARACTERS = 100_000  # of texts of which only a beginning or an end is used


def check_text(text: str, what: str = "the text") -> None:
    """ValueError for a text with lone surrogates, which are no characters, or with a NUL, which ends texts elsewhere.

    Both come of bytes that were decoded in a wrong way, and tokenizers fail at them or leave them out.
    """
    if "\0" in text:
        raise ValueError(f"{what} holds a NUL at character {text.index(chr(0)) + 1:,}; remove it: {text[:60]!r}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} is not valid Unicode from character {error.start + 1:,} on; decode it as what it is, or with "
            f"errors='replace': {text[:60]!r}"
        ) from None


def check_texts(texts: Any, what: str = "a text") -> list[str]:
    """Texts as a list; TypeError for what is none of texts, ValueError for one that is too long or no valid text."""
    found = None if isinstance(texts, str) or not isinstance(texts, Iterable) else list(texts)
    if found is None or not all(isinstance(text, str) for text in found):
        raise TypeError(f"{what} is one of a list of texts, not {str(texts)[:60]!r}")
    for text in found:
        check_characters(len(text), MAX_CHARACTERS, what, f"no more than {MAX_CHARACTERS:,} are read")
        check_text(text, what)
    return found


@contextmanager
def tokenizing() -> Iterator[None]:
    """ValueError where the tokenizers library panics, as it does for damaged files: its error is no `Exception`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # which no module exports
            raise
        raise ValueError(f"the tokenizer fails ({error}): its files are damaged, or not of one model") from None


def check_characters(count: int, most: int, what: str, why: str) -> None:
    """ValueError for a text of more than `most` characters; `why` says what they could not fit into."""
    if count > most:
        raise ValueError(f"{what} has {count:,} characters, and {why}; shorten it")


def normalize_answer(answer: str) -> str:
    """In lower case, no punctuation at the edges of words, single spaces: "A red  circle." → "a red circle"."""
    return " ".join(word for word in (re.sub(r"^\W+|\W+$", "", word) for word in answer.lower().split()) if word)
