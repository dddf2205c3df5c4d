"""Forms that a text may be held to: one of several choices, a regular expression, a JSON schema."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from encoders.texts import check_characters, check_texts

MAX_CHARACTERS = 100_000
"""Of a form: so long may all choices be together, an expression, or a schema as JSON."""

_JSON = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?", "lenient": False}
_LIMITS = {"max_grammar_size": 100_000, "verbose_errors": False}  # a fifth of llguidance's, whose others are kept


@dataclass(frozen=True, eq=False)
class Form:
    """What a whole text must be; one of the three is given. A space may come before it, as models write it.

    choices: texts, of which it is one. regex: an expression that matches all of it. schema: the JSON schema of it.
    model: the pydantic class that the schema is of.
    grammar: the same for llguidance, in its variant of Lark.
    """

    choices: tuple[str, ...] = ()
    regex: str | None = None
    schema: Mapping[str, Any] | None = None
    model: Any = None
    grammar: str = field(default="", repr=False)

    @classmethod
    def of(cls, choices: Any, regex: Any, json_schema: Any) -> Form | None:
        """The form of three options, of which one is given; None where none is.

        ValueError for more than one, and for a form that cannot be kept, by the name of what is wrong in it; TypeError
        for a value of a wrong kind.
        """
        several = isinstance(choices, Sequence) and not isinstance(choices, (str, bytes))
        if not several or not all(isinstance(text, str) for text in choices):
            raise TypeError(f"choices must be a list of texts, not {choices!r}"[:200])
        given = [name for name, one in (("choices", choices or None), ("regex", regex), ("json_schema", json_schema))
                 if one is not None]  # fmt: skip
        if len(given) > 1:
            raise ValueError(f"a text has one form: give {' or '.join(given)}, not both")
        if choices:
            return cls._checked("choices", choices=tuple(choices), grammar=_choices_grammar(choices))
        if regex is not None:
            return cls._checked("regex", regex=regex, grammar=_regex_grammar(regex))
        if json_schema is not None:
            schema, model = _schema_of(json_schema)
            grammar = f'start: SPACE? body\nSPACE: " "\nbody: {json_rule(schema)}'
            return cls._checked("json_schema", schema=schema, model=model, grammar=grammar)
        return None

    @classmethod
    def _checked(cls, name: str, **given: Any) -> Form:
        made = cls(**given)
        check_grammar(made.grammar, name)
        return made

    def parse(self, text: str) -> Any:
        """What a text of this form says: the choice; the text that the expression matches; the object of the schema.

        An object of `model` where one was given, whose own validators may refuse it with pydantic's ValidationError.
        None for a text that was cut before the form was complete, as by a stop string.
        """
        text = text.strip()
        if self.schema is None:
            whole = text in [choice.strip() for choice in self.choices] or (not self.choices and bool(text))
            return next((choice for choice in self.choices if choice.strip() == text), text) if whole else None
        try:
            found = json.loads(text)
        except ValueError:
            return None
        return found if self.model is None else self.model.model_validate(found)


def _schema_of(given: Any) -> tuple[Mapping[str, Any], Any]:
    """The schema of a dict or of a pydantic class, and that class."""
    if isinstance(given, type) and hasattr(given, "model_json_schema"):
        return given.model_json_schema(), given  # pyright: ignore[reportAttributeAccessIssue]
    if not isinstance(given, Mapping):
        raise TypeError(f"json_schema must be a dict or a pydantic model class, not {given!r}"[:200])
    return given, None


def _choices_grammar(choices: Sequence[str]) -> str:
    if not all(choices):
        raise ValueError("choices must not hold an empty text")
    check_texts(tuple(choices), "choices")
    check_characters(sum(map(len, choices)), MAX_CHARACTERS, "choices", "no more than 100,000 are looked at")
    return f"start: FORM\nFORM: / ?/ ({' | '.join(json.dumps(text, ensure_ascii=False) for text in choices)})"


def _regex_grammar(regex: Any) -> str:
    if not isinstance(regex, str):
        raise TypeError(f"regex must be a text, not {regex!r}"[:200])
    check_texts((regex,), "regex")
    check_characters(len(regex), MAX_CHARACTERS, "regex", "no more than 100,000 are looked at")
    return f"start: FORM\nFORM: / ?/ {regex_terminal(regex)}"


def regex_terminal(regex: str) -> str:
    """An expression between slashes, as a grammar has it."""
    from llguidance import regex_to_lark

    return f"/(?:{regex_to_lark(regex)})/"


_PASSED_OVER = ("additionalItems", "$dynamicRef", "$recursiveRef")
"""Keywords that llguidance does not heed, without a word."""

_BOUNDS = {"exclusiveMinimum": ("maximum", "exclusiveMaximum"), "exclusiveMaximum": ("minimum", "exclusiveMinimum")}
"""Bounds that are themselves excluded, and those on the other side."""


def json_rule(schema: Mapping[str, Any]) -> str:
    """JSON of a schema, as a grammar has it. ValueError for what is no plain JSON, too long, or not heeded."""
    try:
        text = json.dumps({**schema, "x-guidance": _JSON}, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"json_schema must be plain JSON: {error}") from None
    check_characters(len(text), MAX_CHARACTERS, "json_schema", "no more than 100,000 are looked at")
    for name in _PASSED_OVER:
        if re.search(rf'"{re.escape(name)}" ?:', text):
            raise ValueError(f"json_schema: the keyword {name!r} is not supported")
    _check_bounds(schema, text)
    return f"%json {text}"


def _check_bounds(schema: Mapping[str, Any], text: str) -> None:
    """ValueError for excluded bounds that llguidance lets pass: true, which older drafts have there, and a whole number
    where the other bound of a number that is no integer is less than 1 away from it.

    Where schemas are joined, every other bound may be the other one.
    """
    joined = re.search(r'"(allOf|\$ref)" ?:', text) is not None
    for own in _objects(schema):
        for name, others in _BOUNDS.items():
            bound = own.get(name)
            if isinstance(bound, bool):
                raise ValueError(f"json_schema: {name} is a number that is excluded, not {str(bound).lower()}")
            if not isinstance(bound, int | float) or own.get("type") == "integer" or bound % 1:
                continue
            beside = [one.get(other) for one in (_objects(schema) if joined else [own]) for other in others]
            if any(isinstance(other, int | float) and 0 < abs(other - bound) < 1 for other in beside):
                raise ValueError(
                    f"json_schema: the keyword {name!r} is not supported for a whole number, {bound}, less than 1 from "
                    "the other bound: let the bound be one that may come"
                )


def _objects(schema: Any) -> Iterator[Mapping[str, Any]]:
    """All objects of a schema."""
    left = [schema]
    while left:
        own = left.pop()
        if isinstance(own, Mapping):
            yield own
            left += own.values()
        elif isinstance(own, list | tuple):
            left += own


def check_grammar(grammar: str, name: str) -> None:
    """ValueError for a grammar that cannot be kept, by the name of what is wrong in it."""
    failed, told = _grammar_errors(grammar)
    told = [text.replace("\n", " ") for text in told if failed or "oneOf" in text]
    if told:
        raise ValueError(f"{name}: {_reason(told[0])}")


@functools.lru_cache(maxsize=256)  # options are made anew with each change of them
def _grammar_errors(grammar: str) -> tuple[bool, list[str]]:
    from llguidance import LLMatcher

    return LLMatcher.validate_grammar_with_warnings(grammar, limits=limits())


def limits() -> Any:
    """How much a form may take to be made ready: forms come from strangers too."""
    from llguidance import LLParserLimits

    return LLParserLimits(**_LIMITS)


def _reason(told: str) -> str:
    """What an error of llguidance says, without the grammar around it."""
    if "oneOf" in told:
        return "the alternatives of oneOf may overlap: use anyOf"
    if keys := re.search(r"Unimplemented keys: \[(.*?)\]", told):
        return f"the keyword {keys[1].replace(chr(34), chr(39))} is not supported"
    begins, ends = r"failed to compile JSON schema: |error: |\(in regex\): ", r" in regex | +\d+ \| |$"
    found = re.search(f"(?:{begins})(.*?)(?:{ends})", told)
    return " ".join((found[1] if found else told).split())[:300]
