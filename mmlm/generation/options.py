"""How to decode: the options of a generation, as a checked dataclass and as keywords."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, ParamSpec, TypedDict, TypeVar

import torch
from torch import Tensor

from decoders.values import check_kind, checked_hints
from encoders.texts import MAX_CHARACTERS, check_characters, check_texts
from mmlm.generation.constraints.base import Constraint
from mmlm.generation.forms import Form
from mmlm.prompting.thinking import ThinkingMarks

P = ParamSpec("P")
R = TypeVar("R")

ELSEWHERE = {
    "stream": "text that comes in pieces is model.stream(prompt, …)", "stop_strings": "did you mean 'stop'?",
    "guidance_scale": "guidance acts in draw and speak", "max_length": "did you mean 'max_new_tokens'?",
    "max_tokens": "did you mean 'max_new_tokens'?", "n": "did you mean 'num_return_sequences'?",
    "enable_thinking": "did you mean 'thinking'? chat and ask take other settings of templates: chat_template_kwargs=",
    "device": "move the model itself: model.to(device)", "dtype": "cast the model itself: model.to(dtype)",
}  # fmt: skip
"""Options of other libraries and verbs: what is meant here."""

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]
"""Ids so far `[R, T]`, prompt included, and scores `[R, V]` → scores `[R, V]`: transformers' interface."""


_RANGES = {
    "thinking": (0, 10**7, "0..10,000,000"),
    "max_new_tokens": (1, 10**7, "1..10,000,000"), "min_new_tokens": (0, 10**7, "0..10,000,000"),
    "no_repeat_ngram_size": (0, 10**7, "0..10,000,000"), "num_beams": (1, 1024, "1..1,024"),
    "top_log_probs": (0, 1000, "0..1,000"),
    "num_return_sequences": (1, 65_536, "1..65,536"), "top_p": (math.ulp(0), 1, "(0, 1]"),
    "temperature": (1e-6, 1e6, "1e-6..1e6 (top_k=1 takes the most likely token)"),
    "repetition_penalty": (1e-6, 1e6, "1e-6..1e6"), "length_penalty": (-5, 5, "-5..5"),
    "top_k": (1, 2**31 - 1, "1..2^31 - 1"), "seed": (-(2**63), 2**63 - 1, "-2^63..2^63 - 1"),
}  # fmt: skip
"""Of each number its least and its greatest value, and the range in words."""


class GenerationKeywords(TypedDict, total=False):
    """The fields of `GenerationOptions` as keywords; every verb takes them."""

    max_new_tokens: int
    min_new_tokens: int
    do_sample: bool
    temperature: float
    top_k: int | None
    top_p: float | None
    repetition_penalty: float
    no_repeat_ngram_size: int
    bad_words_ids: Sequence[Sequence[int]]
    num_beams: int
    length_penalty: float
    num_return_sequences: int
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    choices: Sequence[str]
    regex: str | None
    json_schema: Mapping[str, Any] | type | None
    constraint: Constraint | None
    top_log_probs: int
    logits_processor: Sequence[LogitsProcessor]
    seed: int | None
    thinking: bool | int
    thinking_marks: ThinkingMarks | None


@dataclass(frozen=True)
class GenerationOptions:
    """How to decode. Names and meanings are those of transformers' `GenerationConfig`.

    max_new_tokens, min_new_tokens: how many tokens are written, at most and at least; strings of `stop` may end a text
        before.
    do_sample: sample instead of taking the most likely token; `temperature`, `top_k` and `top_p` act only then.
    repetition_penalty, no_repeat_ngram_size, bad_words_ids, logits_processor: transformers' logits processors.
    num_beams, length_penalty: beam search; a hypothesis is scored by its log-probability / length ** length_penalty.
        Without beams a length_penalty is an error.
    num_return_sequences: texts per prompt: samples, or the best of the beams.
    stop, stop_token_ids: strings and tokens that end a text, besides the language model's own end tokens. They are
        left out of it.
    choices, regex, json_schema: a form that the whole answer is held to, one of the three: one of several texts, what
        an expression matches (in Rust's syntax, without look-around), or JSON of a schema, a dict or a pydantic model
        class. `result.parsed` is what it says. The answer is complete at the token limit too; a limit too small for any
        is a ValueError. A space may come first.
    constraint: what a text may hold besides, as the state of each row at the start of its answer: an object of your own
        with `finished`, `guided`, `allowed` and `advance`, as `mmlm.generation.constraints.Constraint` has them.
    top_log_probs: at each token, how many of the most likely ones come with their log-probabilities in
        `result.top_log_probs`, whichever was written.
    seed: of the samples, and of media that are written; a text that is not sampled is the same for every seed. None
        takes a new one each time. The prompts of a request draw from one sequence of random numbers, batch by batch:
        the same seed gives the same texts for the same prompts and `batch_size`.
    thinking: whether a thought comes before the text: False; True for one of up to 1,024 tokens, as far as the language
        model has positions for it; or its most tokens, after which its closing mark is written by force. A thought
        takes nothing of `max_new_tokens`, and strings of `stop` end the text after it alone.
    thinking_marks: what stands around a thought; None for what the tokenizer or its chat template knows.
    Numbers may be NumPy's. ValueError for one that is not finite or outside its range: temperature and
    repetition_penalty lie in 1e-6..1e6, length_penalty in -5..5, num_beams is at most 1,024, num_return_sequences at
    most 65,536, seed has 64 bits, and the strings of stop have at most 100,000 characters together.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: Sequence[Sequence[int]] = ()
    num_beams: int = 1
    length_penalty: float = 1.0
    num_return_sequences: int = 1
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    choices: Sequence[str] = ()
    regex: str | None = None
    json_schema: Mapping[str, Any] | type | None = None
    constraint: Constraint | None = None
    top_log_probs: int = 0
    logits_processor: Sequence[LogitsProcessor] = ()
    seed: int | None = None
    thinking: bool | int = False
    thinking_marks: ThinkingMarks | None = None

    def __post_init__(self) -> None:
        self._check_types()
        self._check_ranges()
        most = f"must not exceed max_new_tokens={self.max_new_tokens}"
        self._check("min_new_tokens", self.min_new_tokens <= self.max_new_tokens, most)
        self._check("stop", all(self.stop_strings), "must not hold an empty string")
        check_texts(self.stop_strings, "stop")
        check_characters(
            sum(map(len, self.stop_strings)), MAX_CHARACTERS, "stop", "no more than 100,000 are looked for"
        )
        self._check("stop_token_ids", all(token >= 0 for token in self.stop_token_ids), "must not hold a negative id")
        self._check("stop_token_ids", all(token < 2**31 for token in self.stop_token_ids), "must hold ids of 32 bits")
        self._check("bad_words_ids", all(self.bad_words_ids), "must not hold an empty sequence")
        if not self.do_sample and (self.temperature != 1.0 or self.top_k is not None or self.top_p is not None):
            raise ValueError("temperature, top_k and top_p act only when sampling: pass do_sample=True")
        if self.is_thinking and self.min_new_tokens:
            raise ValueError("min_new_tokens would count the thought: leave it out, or thinking")
        if self.length_penalty != 1.0 and self.num_beams == 1:
            raise ValueError("length_penalty acts only in beam search: pass num_beams=2 or more")
        if self.top_log_probs and self.num_beams > 1:
            raise ValueError(
                "top_log_probs are those of single tokens, which beams do not keep: leave out one of the two"
            )
        if self.do_sample and self.num_beams > 1:
            raise ValueError("choose beams or sampling, not both")
        self._check_form()
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} needs do_sample=True or as many beams; "
                f"num_beams is {self.num_beams}"
            )

    @classmethod
    def of(cls, keywords: Mapping[str, Any]) -> GenerationOptions:
        """Options from keywords; TypeError that names the nearest option for an unknown one."""
        refuse_unknown(keywords, [field.name for field in fields(cls)])
        return cls(**keywords)

    @functools.cached_property
    def form(self) -> Form | None:
        """The form that texts are held to."""
        return Form.of(self.choices, self.regex, self.json_schema)

    @property
    def is_thinking(self) -> bool:
        """Whether a thought comes first, be it one of no tokens."""
        return self.thinking is not False

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The strings that end a text."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def sampler(self, device: torch.device) -> torch.Generator | None:
        """What all batches of a request draw from; None where nothing is drawn."""
        if not self.do_sample:
            return None
        generator = torch.Generator(device)
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator

    def _check_types(self) -> None:
        for name in ("max_new_tokens", "min_new_tokens", "no_repeat_ngram_size", "num_beams", "num_return_sequences",
                     "top_log_probs"):  # fmt: skip
            self._check(name, _is_whole(getattr(self, name)), "must be a whole number", TypeError)
        for name in ("top_k", "seed"):
            value = getattr(self, name)
            self._check(name, value is None or _is_whole(value), "must be a whole number or None", TypeError)
        for name in ("temperature", "repetition_penalty", "length_penalty", "top_p"):
            value = getattr(self, name)
            number = isinstance(value, Real) and not isinstance(value, bool)
            self._check(name, number or (name == "top_p" and value is None), "must be a number", TypeError)
        thinks = isinstance(self.thinking, bool) or _is_whole(self.thinking)
        self._check("thinking", thinks, "must be True, False or a number of tokens", TypeError)
        marks = isinstance(self.thinking_marks, ThinkingMarks | None)
        self._check("thinking_marks", marks, "must be ThinkingMarks or None", TypeError)
        self._check("do_sample", isinstance(self.do_sample, bool), "must be True or False", TypeError)
        self._check("stop_token_ids", _holds(self.stop_token_ids, _is_whole), "must be a list of token ids", TypeError)
        strings = [self.stop] if isinstance(self.stop, str) else self.stop
        texts = isinstance(strings, Sequence) and all(isinstance(text, str) for text in strings)
        self._check("stop", texts, "must be a string or a list of strings", TypeError)
        words = _holds(self.bad_words_ids, lambda ids: _holds(ids, _is_whole))
        self._check("bad_words_ids", words, "must be a list of lists of token ids", TypeError)
        stated = self.constraint is None or all(hasattr(self.constraint, name) for name in ("allowed", "advance"))
        self._check("constraint", stated, "must be a Constraint or None", TypeError)
        called = _holds(self.logits_processor, callable)
        self._check("logits_processor", called, "must be a list of functions", TypeError)

    def _check_form(self) -> None:
        """ValueError for a form that cannot be kept, and for options that could leave no token that it allows."""
        if self.form is None:
            return
        for name in ("min_new_tokens", "no_repeat_ngram_size", "bad_words_ids"):
            if getattr(self, name):
                raise ValueError(
                    f"{name} could forbid what a form needs: leave it out with choices, regex or json_schema"
                )

    def _check_ranges(self) -> None:
        """ValueError for a number beyond its range; NumPy's numbers, which torch does not take everywhere, as Python's.

        Beyond these ranges scores overflow, or rows take all memory.
        """
        for name, (least, most, said) in _RANGES.items():
            value = getattr(self, name)
            if value is None or isinstance(value, bool):
                continue
            self._check(name, least <= value <= most, f"must be in {said}")
            object.__setattr__(self, name, int(value) if isinstance(value, Integral) else float(value))

    def _check(self, name: str, good: bool, rule: str, kind: type[Exception] = ValueError) -> None:
        if not good:
            raise kind(f"{name} {rule}, not {getattr(self, name)!r}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _holds(value: Any, good: Callable[[Any], bool]) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes) and all(map(good, value))


def takes_options(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a verb: an unknown keyword is a TypeError that names the nearest known one.

    Its own options are checked by `check_kind`. The signature of a function that ends in `**options:
    Unpack[GenerationKeywords]` then shows every option with its type and default.
    """
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields(GenerationOptions)
        if field.name not in signature.parameters and len(own) < len(signature.parameters)
    ]
    required = [p.name for p in own if p.default is inspect.Parameter.empty]  # what a verb is about, and no option
    known = [p.name for p in (*own, *options) if p.name not in required]
    hints = checked_hints(function)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        refuse_unknown([name for name in kwargs if name not in required], known)
        for name, value in ({p.name: value for p, value in zip(own, args, strict=False)} | kwargs).items():
            if name in hints and name not in required:
                check_kind(name, value, hints[name])
        return function(*args, **kwargs)

    checked.__signature__ = signature.replace(parameters=[*own, *options])  # pyright: ignore[reportAttributeAccessIssue]
    return checked


def refuse_unknown(keywords: Iterable[str], known: Sequence[str]) -> None:
    """TypeError for a keyword that is not known, with the nearest known one."""
    for name in keywords:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            if name in ELSEWHERE:
                raise TypeError(f"unknown option {name!r}; {ELSEWHERE[name]}")
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise TypeError(f"unknown option {name!r}; {hint}")
