"""The rules of a stranger's tokenizer: how long they make a text, and how long they take.

A tokenizer.json is a small program: it replaces, splits and adds. What it may do to one character is bounded before any
text goes through it.
"""

from __future__ import annotations

import base64
import binascii
import json
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from encoders.model_files import read_json
from encoders.patterns import PatternError, check_pattern
from encoders.settings import file_of, other_files, settings_of
from encoders.sizes import RefusedError

MOST_GROWTH = 256  # characters, or tokens, that one may become, beside what Unicode's own forms make of it
MOST_RULES = 1000
MOST_WORD = 200  # characters of a word that is looked up piece by piece (100 in all that are published)
MOST_SPECIAL = 5000  # special tokens that settings name: each is compared with all others
MOST_MADE = 1000  # tokens that a class makes by their number
AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")  # added to each character that is looked up
RULES = ("normalizer", "pre_tokenizer", "post_processor", "decoder")  # keys, and parts of the tokenizer that is made
INNER = ("normalizers", "pretokenizers", "processors", "decoders")  # keys of rules within a rule
NAMED = ("additional_special_tokens", "extra_special_tokens")  # keys of settings
NUMBERS = ("extra_ids", "num_madeup_words", "offset")  # of tokens that a class makes, keys of settings
BYTES, SPACES = 5, 3  # a character becomes 4 bytes and a space before them; it gets a space on both sides


def check_tokenizer_files(source: str | Path, subfolder: str = "") -> None:
    """`RefusedError` for the tokenizer of a folder or hub id with rules, or numbers of tokens, that are beyond belief.

    ValueError for a tokenizer.json that cannot be read.
    """
    settings = settings_of(source, subfolder, "tokenizer_config.json")
    for each in (settings, settings_of(source, subfolder, "special_tokens_map.json")):
        check_tokens(each, source)
    for name in ("tokenizer.json", *other_files(settings, source)):
        if (place := file_of(source, subfolder, name)) is not None:
            check_tokenizer(read_json(place), source)


def check_made(made: Any, source: Any) -> None:
    """`RefusedError` for such rules of a tokenizer that was made of other files, such as SentencePiece's."""
    backend = getattr(made, "backend_tokenizer", None)
    parts = {name: getattr(backend, name, None) for name in RULES}
    check_tokenizer({name: json.loads(part.__getstate__()) for name, part in parts.items() if part is not None}, source)


def check_tokenizer(tokenizer: Mapping[str, Any], source: Any) -> None:
    """`RefusedError` for a tokenizer.json whose rules make a text far longer, or take far longer than it is long."""
    if fault := _fault(tokenizer):
        raise RefusedError(f"the tokenizer of {source} {fault}. If you trust it, load it, and pass it as tokenizer=")


def _fault(tokenizer: Mapping[str, Any]) -> str | None:
    """What is beyond belief in the rules of a tokenizer; None where all is plain."""
    try:
        before = [*_rules(tokenizer.get("normalizer")), *_rules(tokenizer.get("pre_tokenizer"))]
        for what, rules in (("texts", before), ("what is written", [*_rules(tokenizer.get("decoder"))])):
            if len(rules) > MOST_RULES:
                return f"has {len(rules):,} rules for {what}, more than {MOST_RULES:,}"
            if (growth := _growth(rules)) > MOST_GROWTH:
                return f"may make {growth:.3g} characters of one, in {what}"
        if (growth := _added([*_rules(tokenizer.get("post_processor"))])) > MOST_GROWTH:
            return f"may make {growth:.3g} tokens of one"
    except PatternError as error:
        return f"has a pattern that is not searched with: {error}"
    model = tokenizer.get("model")
    for name, most in {"max_input_chars_per_word": MOST_WORD, **dict.fromkeys(AFFIXES, MOST_WORD)}.items():
        value = model.get(name) if isinstance(model, Mapping) else None
        if (len(value) if isinstance(value, str) else value if isinstance(value, int) else 0) > most:
            return f"has {name} {str(value)[:40]}: no word is that long"
    return None


def check_tokens(settings: Mapping[str, Any], source: Any) -> None:
    """`RefusedError` for settings that name or make so many special tokens that adding them takes minutes."""
    named = sum(len(value) for key in NAMED if isinstance(value := settings.get(key), list | dict))
    if named > MOST_SPECIAL:
        raise RefusedError(f"the tokenizer of {source} names {named:,} special tokens, more than {MOST_SPECIAL:,}")
    for key in NUMBERS:
        if isinstance(value := settings.get(key), int | float) and value > MOST_MADE:
            raise RefusedError(f"the tokenizer of {source} has {key} {value:,}: no more than {MOST_MADE:,} are made")


def _rules(rule: Any) -> Iterator[Mapping[str, Any]]:
    """A rule and all within it, in turn."""
    waiting = [rule]
    while waiting:
        rule = waiting.pop()
        if isinstance(rule, list):
            waiting += reversed(rule)
        elif isinstance(rule, Mapping):
            yield rule
            waiting += reversed([rule[key] for key in INNER if key in rule])


def _growth(rules: list[Mapping[str, Any]]) -> float:
    """At most how many characters become of one, by rules in turn. Their keys tell them: types may be left out.

    From the last rule to the first: what each character that is replaced becomes by this rule and all after it, times
    what all characters alike become by the others.
    """
    alike, added, becomes = 1.0, 0.0, dict[str, float]()
    for rule in reversed(rules):
        pattern, content = rule.get("pattern"), rule.get("content")
        if isinstance(prefix := rule.get("prepend"), str):
            added += alike * _length(prefix, becomes)
            continue
        if isinstance(pattern, Mapping) and isinstance(literal := pattern.get("String"), str):
            if not literal:
                raise PatternError("it is empty")
            share = _length(content, becomes) / len(literal)
            becomes |= {one: share if one == literal else max(becomes.get(one, 1.0), share) for one in literal}
            continue
        if isinstance(pattern, Mapping) and isinstance(expression := pattern.get("Regex"), str):
            check_pattern(expression)
            inserted = _length(content, becomes)  # it may match between any two characters, and at the end
            added += alike * inserted
            alike *= _most(becomes) + inserted
        else:  # which may make any character of any other
            alike *= _most(becomes) * _factor(rule)
        becomes = {}
    return alike * _most(becomes) + added


def _most(becomes: Mapping[str, float]) -> float:
    return max(1.0, *becomes.values()) if becomes else 1.0


def _factor(rule: Mapping[str, Any]) -> float:
    """At most how many characters other rules make of one."""
    found = 1.0
    if isinstance(table := rule.get("precompiled_charsmap"), str):
        found *= _longest_entry(table)
    if rule.get("type") == "ByteLevel" or "trim_offsets" in rule:
        found *= BYTES
    if rule.get("type") == "BertNormalizer" or "handle_chinese_chars" in rule:
        found *= SPACES
    if "replacement" in rule:  # of spaces, of which one is put before each piece
        found *= 2
    return found


def _added(processors: list[Mapping[str, Any]]) -> float:
    """At most how many tokens become of one, by the templates that add special tokens."""
    length = 1.0
    for rule in processors:
        special = rule.get("special_tokens")
        sizes = {
            name: len(token["ids"])
            for name, token in (special.items() if isinstance(special, Mapping) else ())
            if isinstance(token, Mapping) and isinstance(token.get("ids"), list)
        }
        lengths = [length + 2]  # of other kinds of rules
        for key in ("single", "pair"):
            pieces = rule.get(key)
            pieces = [piece for piece in pieces if isinstance(piece, Mapping)] if isinstance(pieces, list) else []
            ids = (sizes.get(str(piece["SpecialToken"].get("id")), 1) for piece in pieces
                   if isinstance(piece.get("SpecialToken"), Mapping))  # fmt: skip
            lengths.append(length * sum("Sequence" in piece for piece in pieces) + sum(ids))
        length = max(lengths)
    return length


def _length(text: Any, becomes: Mapping[str, float]) -> float:
    """What becomes of a text, in the longest of Unicode's forms: so these never add to what is counted."""
    forms = (text, unicodedata.normalize("NFKD", text.lower())) if isinstance(text, str) else ()
    return max((sum(becomes.get(character, 1.0) for character in form) for form in forms), default=0.0)


def _longest_entry(table: str) -> float:
    """The characters of the longest text that a table of SentencePiece puts in the place of others."""
    try:
        data = base64.b64decode(table)
    except (binascii.Error, ValueError):
        return 1  # which the loader tells
    texts = data[4 + int.from_bytes(data[:4], "little") :].split(b"\0")
    return max(1.0, *(_length(text.decode("utf-8", "replace"), {}) for text in texts))
