"""Tokenizers from files of GGUF: the ids are those of the tokenizer that the file was made from.

A file names the way in which texts are split before they are encoded, and does not hold it: `SPLITS` has it by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from encoders.gguf import GgufFile
from encoders.sizes import RefusedError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

GIVE = "put tokenizer.json and tokenizer_config.json of the model's folder beside it, or pass tokenizer="
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # kinds of tokens in a file
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+"
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Split:
    """How texts are split. pattern: what a piece matches; None: GPT-2's, after single digits where `digits` says so.

    whole: a piece that is a token itself is not built from merges. composed: texts are first brought to the form NFC.
    begins: whether texts begin with the first token where a file says nothing.
    """

    pattern: str | None = None
    digits: bool = False
    whole: bool = False
    composed: bool = False
    begins: bool = False


MOST_PIECE = 1000  # characters of a token that is looked for in two halves, at each of its places
GPT2, DIGITS = Split(), Split(digits=True)
LLAMA3 = Split(rf"{_WORDS}|\p{{N}}{{1,3}}|{_REST}", whole=True, begins=True)
QWEN2 = Split(rf"{_WORDS}|\p{{N}}|{_REST}", composed=True)
SPLITS = {
    "gpt-2": GPT2, "phi-2": GPT2, "mpt": GPT2, "olmo": GPT2, "smollm": DIGITS, "starcoder": DIGITS, "refact": DIGITS,
    "command-r": DIGITS, "llama-bpe": LLAMA3, "llama3": LLAMA3, "llama-v3": LLAMA3, "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2, "tekken": Split(_TEKKEN, whole=True, begins=True),
}  # fmt: skip


class UnreadError(ValueError):
    """A tokenizer of a kind, or with a way of splitting texts, that is not known."""


def gguf_tokenizer(file: GgufFile) -> PreTrainedTokenizerFast:
    """The tokenizer in a file, with its special tokens and its chat template.

    `UnreadError` for a kind, or a way of splitting texts, that is not known; `RefusedError` for a damaged one.
    """
    from transformers import PreTrainedTokenizerFast

    told = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in file.settings.items()
        if key.startswith("tokenizer.ggml.")
    }
    tokens, kind = told.get("tokens"), told.get("model")
    if not isinstance(tokens, list) or len(set(tokens)) != len(tokens):
        raise RefusedError(f"{file.path} has no tokens, or one of them twice")
    if kind == "llama":  # runs of spaces stand in files as they are, and other tokens have "▁" for a space
        tokens = ["▁" * len(token) if token and not token.strip(" ") else token for token in tokens]
    types = told.get("token_type") or [NORMAL] * len(tokens)
    ids = {name: told.get(f"{key}_token_id") for name, key in _NAMED.items()}
    if len(types) != len(tokens) or any(number is not None and not number < len(tokens) for number in ids.values()):
        raise RefusedError(f"{file.path} has other kinds of tokens, or special ones, than it has tokens")
    if kind == "gpt2":
        backend, begins = _byte_level(file, told, _vocabulary(tokens, types))
    elif kind == "llama":
        backend, begins = _sentencepiece(file, told, _vocabulary(tokens, types)), True
    else:
        raise UnreadError(f"{file.path} has a tokenizer of the kind {kind!r}, which is not read: {GIVE}")
    _add(backend, tokens, types)
    if max(backend.get_vocab().values()) >= len(tokens):
        raise RefusedError(f"{file.path} has special tokens that are not in its vocabulary")
    named = {name: tokens[number] for name, number in ids.items() if number is not None}
    first = named.get("bos_token") if told.get("add_bos_token", begins) else None
    last = named.get("eos_token") if told.get("add_eos_token", False) else None
    _enclose(backend, first, last)
    template = file.settings.get("tokenizer.chat_template")
    made = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **named)
    made.chat_template = template if isinstance(template, str) else None
    return made


def check_same(file: GgufFile, tokenizer: Any) -> None:
    """`RefusedError` for a tokenizer with other ids for the file's tokens: it is another model's."""
    tokens = file.settings.get("tokenizer.ggml.tokens") or []
    types, ids = file.settings.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens), tokenizer.get_vocab()
    for number, (token, type_) in enumerate(zip(tokens, types)):
        if type_ == NORMAL and ids.get(token) != number:
            raise RefusedError(
                f"the tokenizer beside {file.path} is another model's: {token!r} has the id {ids.get(token)}, "
                f"not {number}"
            )


_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def _byte_level(file: GgufFile, told: dict[str, Any], vocabulary: dict[str, int]) -> tuple[Tokenizer, bool]:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    split = SPLITS.get(told.get("pre", "default"))
    if split is None:
        raise UnreadError(f"{file.path} splits texts in the way {told.get('pre')!r}, which is not known: {GIVE}")
    merges = [tuple(merge.split(" ")) for merge in told.get("merges", ())]
    made = _bpe(models.BPE, file, vocabulary, merges, ignore_merges=split.whole)
    backend = Tokenizer(made)
    if split.composed:
        backend.normalizer = normalizers.NFC()
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split.pattern is None)
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if split.digits else []
    if split.pattern is not None:
        steps = [pre_tokenizers.Split(Regex(split.pattern), behavior="isolated")]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, level])
    backend.decoder = decoders.ByteLevel()
    return backend, split.begins


def _sentencepiece(file: GgufFile, told: dict[str, Any], vocabulary: dict[str, int]) -> Tokenizer:
    """Pieces of SentencePiece: a token arises from any two that make it up, those with lower ids first."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    types = told.get("token_type") or ()
    scores = [score for score, type_ in zip(told.get("scores", ()), types) if type_ == NORMAL]
    if any(after > before for before, after in zip(scores, scores[1:])):
        raise UnreadError(f"{file.path} has a tokenizer whose tokens are not in the order of their merges: {GIVE}")
    if max(map(len, vocabulary), default=0) > MOST_PIECE:
        raise RefusedError(f"{file.path} has a token of more than {MOST_PIECE:,} characters")
    merges = []
    for token in vocabulary:
        halves = ((token[:place], token[place:]) for place in range(len(token) - 1, 0, -1))
        merges += [pair for pair in halves if pair[0] in vocabulary and pair[1] in vocabulary]
    names = {number: token for token, number in vocabulary.items()}
    unk = names.get(told.get("unknown_token_id", -1))
    backend = Tokenizer(_bpe(models.BPE, file, vocabulary, merges, unk_token=unk, fuse_unk=True, byte_fallback=True))
    steps: list[Any] = [normalizers.Replace(" ", "▁")]
    back: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if told.get("add_space_prefix", True):
        steps, back = [normalizers.Prepend("▁"), *steps], [*back, decoders.Strip(content=" ", left=1)]
    backend.normalizer, backend.decoder = normalizers.Sequence(steps), decoders.Sequence(back)
    return backend


def _vocabulary(tokens: list[str], types: list[int]) -> dict[str, int]:
    """Ids of tokens; those that only fill up a table of embeddings are none."""
    return {token: number for number, (token, type_) in enumerate(zip(tokens, types)) if type_ != UNUSED}


def _bpe(kind: Any, file: GgufFile, vocabulary: dict[str, int], merges: list[tuple[str, ...]], **options: Any) -> Any:
    try:
        return kind(vocab=vocabulary, merges=merges, **options)
    except Exception as error:  # of the type Exception itself
        raise RefusedError(f"{file.path} has a tokenizer that is damaged ({error}): {GIVE}") from error


def _add(backend: Tokenizer, tokens: list[str], types: list[int]) -> None:
    """Tokens that stand for themselves wherever they occur in a text; control tokens are special ones."""
    from tokenizers import AddedToken

    for number, special in ((CONTROL, True), (USER_DEFINED, False)):
        added = [AddedToken(token, normalized=False, special=special) for token, type_ in zip(tokens, types)
                 if type_ == number and token]  # fmt: skip
        (backend.add_special_tokens if special else backend.add_tokens)(added)


def _enclose(backend: Tokenizer, first: str | None, last: str | None) -> None:
    """Puts tokens before and after each text."""
    from tokenizers import processors

    if first is None and last is None:
        return
    given = [token for token in (first, last) if token is not None]
    one = f"{first or ''} $A {last or ''}".split()
    two = f"{first or ''} $B {last or ''}".split()
    ids = [(token, backend.token_to_id(token)) for token in given]
    backend.post_processor = processors.TemplateProcessing(
        single=one, pair=[*one, *(f"{piece}:1" for piece in two)], special_tokens=ids
    )
