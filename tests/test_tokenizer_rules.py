"""Rules of a stranger's tokenizer: those that make much of little, or take long, are refused; all others pass."""

import base64
import json
import shutil
import string
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers

import mmlm
from encoders.clip import ClipImageEncoder
from encoders.patterns import PatternError, check_pattern
from encoders.sizes import RefusedError
from encoders.tokenizer_rules import MOST_GROWTH, check_tokenizer
from mmlm.assembly.frozen import causal_model

NANO = Path(mmlm.__file__).parent / "nano"

# Patterns by which published tokenizers split or change texts: of GPT-2, cl100k (Llama 3, Qwen 2), o200k (Nemo), Kimi,
# DeepSeek, Bloom, Command R, CLIP, T5, ALBERT, tiktoken, SuperBPE
PUBLISHED = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
    r" ?[^(\s|[.,!?…。，、।۔،])]+",
    r"\d{1,3}(?=(?:\d{3})*\b)",
    r"(?=(\d{3})+(?!\d))",
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    r" {2,}", r"``|''", r"[一-龥぀-ゟ゠-ヿ]+", r"\s+", r"[^\x00-\x7F]", r"^\s*|\s*$", r"(?<=[a-z])(?=[A-Z])",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|"
    r"\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]{2,}[\r\n/]*| +(?!\S)", r"[]a]+[^]b]", r"\x{1F600}|é",
]  # fmt: skip
HOSTILE = [
    "(a+)+b", "(a|a)*c", "(?:a*b)+c", ".*.*x", "a*a*a*b", "a?" * 26 + "a" * 26, "(?:a|b|c){16}d", "(?:ab?){1,}c",
    "(?:x|(?:y+)+)z", "(?=a*)a*b*c", r"\p{L}*\p{L}*!", "(?:a{0,16}){0,3}b", "a{2}+{3}+b*c", "((?:ab|ba)+)*b",
    "a{0,1000}a{0,1000}b", "(a{100}){100}", "(?:a?){15}b", r"(a)\1", r"\g<0>", "(?<n>a)(?&n)", "(?~a)", "(?(1)a|b)",
    "(*FAIL)", r"\X+", "(?x)a b", "(", ")", "[a", "*a", "(" * 5000 + ")" * 5000, "a" * 20_000, "((a?){16}){16}b",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_patterns_of_published_tokenizers_pass(pattern):
    check_pattern(pattern)
    Regex(pattern)  # nor are they anything that the library would not read


@pytest.mark.parametrize("pattern", HOSTILE, ids=lambda pattern: pattern[:30])
def test_patterns_that_search_for_long_are_refused(pattern):
    with pytest.raises(PatternError):
        check_pattern(pattern)


class Steps:
    """A matcher that tries everything, of a, b, `|`, groups and `*+?`: it counts how often it looks at a character."""

    def __init__(self, pattern: str) -> None:
        self.tree, rest = self.choices(pattern)
        assert rest == ""
        self.count = 0

    def choices(self, text: str):
        found = []
        while True:
            sequence, text = self.sequence(text)
            found.append(sequence)
            if not text.startswith("|"):
                return found, text
            text = text[1:]

    def sequence(self, text: str):
        found = []
        while text and text[0] not in "|)":
            if text[0] == "(":
                part, text = self.choices(text[1:])
                text = text[1:]
            else:
                part, text = text[0], text[1:]
            repeat = text[0] if text and text[0] in "*+?" else ""
            found.append((part, repeat))
            text = text[len(repeat) :]
        return found, text

    def ends(self, part, text: str, at: int):
        """The places where a part may end that begins at `at`."""
        if isinstance(part, str):
            self.count += 1
            if text[at : at + 1] == part:
                yield at + 1
            return
        for sequence in part:
            yield from self.ends_of(sequence, text, at)

    def ends_of(self, sequence, text: str, at: int):
        if not sequence:
            yield at
            return
        (part, repeat), *rest = sequence
        if not repeat:
            for end in self.ends(part, text, at):
                yield from self.ends_of(rest, text, end)
            return
        for end in self.ends(part, text, at):
            if end > at or repeat in "+?":
                more = [(part, "*"), *rest] if repeat in "*+" and end > at else rest
                yield from self.ends_of(more, text, end)
        if repeat in "*?":
            yield from self.ends_of(rest, text, at)

    def search(self, text: str) -> int:
        for at in range(len(text)):
            if next(self.ends(self.tree, text, at), None) is not None or self.count > 10**6:
                break
        return self.count


def pieces(inner):
    return st.one_of(
        inner.map("({})".format),
        st.tuples(inner, st.sampled_from("*+?")).map(lambda two: f"({two[0]}){two[1]}"),
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map("|".join).map("({})".format),
    )


ATOMS = st.tuples(st.sampled_from("ab"), st.sampled_from(["", "", "*", "+", "?"])).map("".join)


@settings(max_examples=400, deadline=None)
@given(st.recursive(ATOMS, pieces, max_leaves=8), st.sampled_from(["a", "b", "ab"]))
def test_patterns_that_pass_take_no_more_than_steps_of_the_text_squared(pattern, unit):
    """By a matcher that tries everything, on texts that these patterns are worst at: repetitions, and a strange end."""
    try:
        check_pattern(pattern)
    except PatternError:
        return
    size = 40
    assert Steps(pattern).search((unit * size)[:size] + "c") <= 4 * len(pattern) ** 2 * size**2


# Growth


def made(**parts) -> dict:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="b"))
    for name, value in parts.items():
        setattr(tokenizer, name, value)
    return json.loads(tokenizer.to_str())


def replace(pattern, content):
    return normalizers.Replace(pattern, content)


TEXTS = st.text("ab \u00e9\ufdfa\u0130漢", max_size=12)
STEPS = st.one_of(
    st.builds(replace, st.text("ab", min_size=1, max_size=2), st.text("ab\ufdfa", max_size=6)),
    st.builds(replace, st.sampled_from(["a", "b+", "[ab]", r"\s"]).map(Regex), st.text("ab\ufdfa", max_size=3)),
    st.builds(normalizers.Prepend, st.text("ab\ufdfa", min_size=1, max_size=4)),
    st.sampled_from([normalizers.NFKD(), normalizers.NFKC(), normalizers.NFD(), normalizers.Lowercase(),
                     normalizers.BertNormalizer(), normalizers.ByteLevel()]),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=5), TEXTS)
def test_no_text_grows_more_than_it_is_told(steps, text):
    """What the library makes of a text, beside the 54 characters that Unicode's own forms make of one at most."""
    normalizer = normalizers.Sequence(steps)
    try:
        check_tokenizer(made(normalizer=normalizer), "it")
    except RefusedError:
        return
    assert len(normalizer.normalize_str(text)) <= MOST_GROWTH * 54 * max(len(text), 1)


def charsmap(text: bytes) -> dict:
    data = struct.pack("<I", 4) + bytes(4) + text
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


TEN = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
NEST = {"type": "Sequence", "normalizers": [TEN] * 12}
for _ in range(50):
    NEST = {"type": "Sequence", "normalizers": [NEST]}
DOUBLE = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2, "pair": [],
          "special_tokens": {}}  # fmt: skip
MANY = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "q", "type_id": 0}}] * 1000, "pair": [],
        "special_tokens": {"q": {"id": "q", "ids": [0] * 1000, "tokens": ["a"] * 1000}}}  # fmt: skip
EXPANDING = {
    "replacements": {"normalizer": {"type": "Sequence", "normalizers": [TEN] * 12}},
    "nested": {"normalizer": NEST},
    "without types": {"normalizer": {"normalizers": [{"pattern": {"String": "a"}, "content": "aa"}] * 40}},
    "one long": {"normalizer": {**TEN, "content": "a" * 10**6}},
    "an empty pattern": {"normalizer": {**TEN, "pattern": {"String": ""}}},
    "between all characters": {"normalizer": {**TEN, "pattern": {"Regex": "x*"}, "content": "a" * 300}},
    "composed": {"normalizer": {"normalizers": [{**TEN, "content": "\ufdfa"}, {"type": "NFKD"},
                                                {**TEN, "pattern": {"String": "\u0627"}, "content": "aaa"}] * 5}},
    "a prefix": {"normalizer": {"type": "Prepend", "prepend": "a" * 10**6}},
    "a table": {"normalizer": charsmap(b"a" * 5000 + b"\0")},
    "bytes of bytes": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}] * 30}},
    "a pattern": {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Isolated",
                                    "invert": False}},
    "too many rules": {"normalizer": {"normalizers": [{**TEN, "content": "b"}] * 5000}},
    "a template": {"post_processor": MANY},
    "templates of templates": {"post_processor": {"type": "Sequence", "processors": [DOUBLE] * 30}},
    "what is written": {"decoder": {"type": "Sequence", "decoders": [{**TEN, "pattern": {"Regex": "."}}] * 9}},
    "words without an end": {"model": {"max_input_chars_per_word": 10**6}},
    "a long suffix": {"model": {"end_of_word_suffix": "a" * 10**6}},
}  # fmt: skip


def test_rules_of_published_tokenizers_pass():
    """XLNet's and ALBERT's; and spaces around each of 32 marks, as static embeddings have them."""
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    quotes = [{**TEN, "pattern": {"String": mark}, "content": '"'} for mark in ("``", "''")]
    forms = [{"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]
    marks = [{**TEN, "pattern": {"String": mark}, "content": f" {mark} "} for mark in string.punctuation]
    table = charsmap(b"sixteen letters.\0ab\0")
    for rules in ([*quotes, *forms, table, spaces], [table, *marks, spaces, {"type": "Strip", "strip_left": True}]):
        check_tokenizer({"normalizer": {"type": "Sequence", "normalizers": rules}}, "it")


@pytest.mark.parametrize("name", EXPANDING)
def test_rules_that_make_much_of_little_are_refused(name, tmp_path):
    """For language models and CLIPs alike, and before the rules are run: it takes no time."""
    for part in ("language_model", "image_encoder"):
        shutil.copytree(NANO / part, tmp_path / part, copy_function=shutil.copyfile)
        file = tmp_path / part / "tokenizer.json"
        whole = json.loads(file.read_text())
        changed = {**EXPANDING[name]}
        changed["model"] = {**whole["model"], **changed.get("model", {})}
        file.write_text(json.dumps({**whole, **changed}))
    with pytest.raises(RefusedError, match="the tokenizer of"):
        causal_model(tmp_path / "language_model", None, torch.float32)
    with pytest.raises(RefusedError, match="the tokenizer of"):
        ClipImageEncoder.load(tmp_path / "image_encoder").embed_texts(["a"])


# Tokens that settings name


@pytest.mark.parametrize(
    "changes",
    [
        dict(tokenizer_class="ByT5Tokenizer", extra_ids=10**9), dict(tokenizer_class="T5Tokenizer", extra_ids=2000),
        dict(tokenizer_class="PegasusTokenizer", offset=10**9), dict(num_madeup_words=10**9),
        dict(additional_special_tokens=[f"<{number}>" for number in range(20_000)]),
        dict(extra_special_tokens={f"a{number}": f"<{number}>" for number in range(20_000)}),
    ],
    ids=lambda changes: str(changes)[:50],
)  # fmt: skip
@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
def test_tokens_without_end_are_refused(changes, file, tmp_path):
    shutil.copytree(NANO / "language_model", tmp_path / "lm", copy_function=shutil.copyfile)
    place = tmp_path / "lm" / file
    place.write_text(json.dumps({**(json.loads(place.read_text()) if place.exists() else {}), **changes}))
    with pytest.raises(RefusedError, match="special tokens, more than|no more than 1,000 are made"):
        causal_model(tmp_path / "lm", None, torch.float32)


def test_thousands_of_added_tokens_are_added(tmp_path):
    """As Gemma 3 has them: 6,415, by their ids."""
    shutil.copytree(NANO / "language_model", tmp_path / "lm", copy_function=shutil.copyfile)
    place = tmp_path / "lm/tokenizer_config.json"
    added = {str(3000 + number): {"content": f"<unused{number}>", "special": True} for number in range(6415)}
    special = [f"<extra{number}>" for number in range(20)]
    changes = {"added_tokens_decoder": added, "additional_special_tokens": special}
    place.write_text(json.dumps({**json.loads(place.read_text()), **changes}))
    tokenizer = causal_model(tmp_path / "lm", None, torch.float32)[1]
    first, last = tokenizer.convert_tokens_to_ids(["<unused0>", "<extra19>"])
    assert tokenizer("<unused0><extra19>", add_special_tokens=False)["input_ids"] == [first, last]


def test_a_tokenizer_that_python_cannot_read_is_refused(tmp_path):
    """A number of 5000 digits, which the tokenizers library would pass over, and the rules behind it run."""
    shutil.copytree(NANO / "language_model", tmp_path / "lm", copy_function=shutil.copyfile)
    place = tmp_path / "lm/tokenizer.json"
    place.write_text('{"a": ' + "9" * 5000 + ", " + place.read_text().lstrip()[1:])
    with pytest.raises(ValueError, match="tokenizer.json is damaged"):
        causal_model(tmp_path / "lm", None, torch.float32)
