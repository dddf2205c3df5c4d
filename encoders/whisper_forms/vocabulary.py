"""Whether a model writes the tokens that openai-whisper reads: its texts would be wrong otherwise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whisper.tokenizer import get_encoding

from encoders.model_files import ModelFiles

SIZES = {51864: ("gpt2", 99), 51865: ("multilingual", 99), 51866: ("multilingual", 100)}  # → encoding, languages
FILES = ("tokenizer.json", "vocab.json", "vocabulary.json", "vocabulary.txt")
RENAMED = {"<|nocaptions|>": "<|nospeech|>", "<|iw|>": "<|he|>"}  # of transformers → of openai-whisper


def check_vocabulary(files: ModelFiles, size: int) -> None:
    """ValueError for a model whose tokens are not those of openai-whisper.

    size: the number of rows of its token embedding. A model that comes without a tokenizer is known by this alone.
    """
    if size not in SIZES:
        raise ValueError(
            f"it has {size:,} tokens, and openai-whisper's have 51,864 (English), 51,865 or 51,866 (large-v3): its own "
            "cannot be written. Use it with the library that made it"
        )
    places = (files.find(file) for file in FILES)
    place = next((place for place in places if place is not None), None)
    if place is None:
        return
    encoding = get_encoding(*SIZES[size])
    found = _tokens(place, files.find("added_tokens.json") if place.name == "vocab.json" else None)
    words = encoding.n_vocab - len(encoding.special_tokens_set)
    missing = next((number for number in range(words) if number not in found), None)
    if missing is not None:
        raise ValueError(f"its tokenizer ({place.name}) is not openai-whisper's: it lacks token {missing}")
    for number, text in found.items():
        own = encoding.decode_single_token_bytes(number) if 0 <= number < size else None
        if _bytes(RENAMED.get(text, text)) != own:
            theirs = "there is none" if own is None else repr(own.decode(errors="replace"))
            raise ValueError(
                f"its tokenizer ({place.name}) is not openai-whisper's: token {number} is {text!r}, where {theirs} in "
                "openai-whisper. Use it with the library that made it"
            )


def _tokens(place: Path, added: Path | None) -> dict[int, str]:
    """The texts of tokens by their ids, as transformers and CTranslate2 write them; ValueError for a damaged file."""
    try:
        text = place.read_text(encoding="utf-8")
        if place.suffix == ".txt":
            return dict(enumerate(text.removesuffix("\n").split("\n")))
        content: Any = json.loads(text)
        if isinstance(content, list):
            return dict(enumerate(map(str, content)))
        if place.name == "tokenizer.json":
            more = {one["content"]: one["id"] for one in content["added_tokens"]}
            content = content["model"]["vocab"]
        else:
            more = {} if added is None else json.loads(added.read_text(encoding="utf-8"))
        return _inverse(content) | _inverse(more)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its tokenizer ({place.name}) is damaged: {error}") from error


def _inverse(vocabulary: Mapping[str, int]) -> dict[int, str]:
    return {int(number): str(text) for text, number in vocabulary.items()}


def _bytes(text: str) -> bytes | None:
    """What a token of a byte-level tokenizer stands for; None where a character stands for no byte."""
    return bytes(BYTES[letter] for letter in text) if all(letter in BYTES for letter in text) else None


def _byte_letters() -> dict[str, int]:
    """GPT-2's letter of each byte: itself where it can be seen, else one of those from 256 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + place): byte for place, byte in enumerate(unseen)}


BYTES = _byte_letters()
