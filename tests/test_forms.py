"""Texts held to a form: choices, expressions, JSON schemas; whole at any token limit, in every way of decoding."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from functools import cache
from typing import Literal

import jsonschema
import pydantic
import pytest
import torch
from llguidance import LLMatcher

from mmlm.generation.constraints import FormGrammar
from mmlm.generation.constraints.spelling import byte_tokens
from mmlm.generation.forms import limits
from mmlm.generation.options import GenerationOptions
from mmlm.generation.sampler import Sampler
from support import families
from support.parts import build, picture

WORDS = ("a", "bc", "name", "é 日", 'q"t', "x\\y", "</s>")


def schema_of(draw: random.Random, depth: int = 3) -> dict:
    """A random schema, within what is supported."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "pattern", "format"]
    kind = draw.choice(kinds if depth == 0 else [*kinds, *("object", "array", "anyOf", "tuple", "map") * 2])
    inner = lambda: schema_of(draw, depth - 1)  # noqa: E731
    if kind == "object":
        names = draw.sample(WORDS, draw.randint(0, 4))
        return {
            "type": "object", "properties": {name: inner() for name in names}, "additionalProperties": False,
            "required": [name for name in names if draw.random() < 0.7],
        }  # fmt: skip
    if kind == "map":
        return {"type": "object", "additionalProperties": inner()}
    if kind == "array":
        least = draw.randint(0, 2)
        return {"type": "array", "items": inner(), "minItems": least, "maxItems": least + draw.randint(0, 3)}
    if kind == "tuple":
        return {"type": "array", "prefixItems": [inner(), inner()], "items": False, "minItems": draw.randint(0, 2)}
    if kind == "anyOf":
        return {"anyOf": [inner(), inner()]}
    if kind == "string":
        least = draw.randint(0, 3)
        return {"type": "string", "minLength": least, "maxLength": least + draw.randint(0, 12)}
    if kind == "integer":
        low = draw.randint(-50, 50)
        return draw.choice(
            [{"type": "integer"}, {"type": "integer", "minimum": low, "maximum": low + draw.randint(0, 99)}]
        )
    if kind == "number":
        low = draw.randint(-9, 9) / 4
        return draw.choice([{"type": "number"}, {"type": "number", "minimum": low, "maximum": low + 0.25}])
    if kind == "enum":
        return {"enum": draw.sample([*WORDS, 1, None, True, "longer than the others"], 3)}
    if kind == "const":
        return {"const": draw.choice([*WORDS, [1, {"a": None}]])}
    if kind == "pattern":
        return {"type": "string", "pattern": draw.choice(["^[A-Z]{2}-[0-9]+$", "^(ab|c)*d$", "^a.{2,4}$"])}
    if kind == "format":
        return {"type": "string", "format": draw.choice(["date", "time", "email", "uuid", "ipv4"])}
    return {"type": kind}


@cache
def model_of(kind: str):
    """A tiny model with a tokenizer of a kind; its head has more rows than its tokenizer has ids."""
    known = dict(families._GPT2)
    try:
        families._GPT2["vocab_size"] = 300
        tokenizer = families.tokenizer() if kind == "bytes" else families.sentencepiece_bpe()
        return build("gpt2", tokenizer=tokenizer, own_end=True)
    finally:
        families._GPT2.update(known)


@cache
def nano():
    import mmlm

    return mmlm.load("nano")


def written(model, room: int | None, seed: int, **form) -> tuple[str, int, int]:
    """A text of noise that is held to a form: every allowed token is as likely as another. Its least and its limit."""
    options = GenerationOptions(do_sample=True, seed=seed, **form)
    host = model.language_model
    least = len(FormGrammar.of(options.form, model.processor, host.stop_ids, 10_000).way)
    room = least + (room or 0)
    grammar = FormGrammar.of(options.form, model.processor, host.stop_ids, room)
    vocabulary = host.vocabulary.code_offset + host.vocabulary.code_rows
    state = [grammar.begin(room)]
    sampler = Sampler(options, host.vocabulary, host.stop_ids, 1, 0, torch.device("cpu"), options.sampler("cpu"), state)
    ids = []
    while len(ids) < room and not sampler.ended.any():
        ids.append(int(sampler(torch.zeros(1, vocabulary), torch.zeros(1, 0, dtype=torch.long)).tokens))
    return model.processor.decode([token for token in ids if token not in host.stop_ids]), least, room


def check(schema: dict, text: str) -> None:
    jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)


@pytest.mark.parametrize("number", range(120))
def test_whatever_is_written_for_a_random_schema_is_json_of_it(number):
    draw = random.Random(number)
    schema = schema_of(draw)
    model = [nano, lambda: model_of("bytes"), lambda: model_of("pieces")][number % 3]()
    for room in (0, draw.randint(1, 8), 100):
        check(schema, written(model, room, seed=number, json_schema=schema)[0])


def test_what_would_be_passed_over_is_refused_by_name():
    with pytest.raises(ValueError, match="additionalItems.* is not supported"):
        GenerationOptions(json_schema={"type": "number", "additionalItems": 0})


NUMBERS = [
    text for count in range(1, 5) for text in map("".join, itertools.product("-015.", repeat=count))
    if re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?", text)
]  # fmt: skip


def accepted(schema: dict) -> list[str]:
    """Those of `NUMBERS` that the grammar of a schema lets through."""
    start = LLMatcher(byte_tokens(), GenerationOptions(json_schema=schema).form.grammar, limits=limits(), log_level=0)
    found = []
    for text in NUMBERS:
        matcher = start.deep_copy()
        if matcher.try_consume_tokens(list(text.encode())) == len(text) and matcher.is_accepting():
            found.append(text)
    return found


@pytest.mark.parametrize("kind", ["integer", "number"])
@pytest.mark.parametrize("bounds", [
    (0, None), (None, 0), (-1, 1), (0, 1), (5, None), (0.5, 1.5), (None, -0.5), (0, 0.5), (-0.5, 0), (1, 1.1), (-5, 5),
])  # fmt: skip
def test_bounds_that_are_excluded_do_not_come(kind, bounds):
    names = ("exclusiveMinimum", "exclusiveMaximum")
    given = {name: bound for name, bound in zip(names, bounds, strict=True) if bound is not None}
    low, high = (-math.inf if bounds[0] is None else bounds[0]), (math.inf if bounds[1] is None else bounds[1])
    fitting = {text for text in NUMBERS if low < float(text) < high and (kind == "number" or "." not in text)}
    if not fitting - {"-0"} or (kind == "number" and high - low < 1 and bounds != (0.5, 1.5)):
        with pytest.raises(ValueError, match="not supported" if kind == "number" else "Unsatisfiable"):
            accepted({"type": kind, **given})
        return
    found = accepted({"type": kind, **given})
    assert found and set(found) <= fitting
    assert {text for text in fitting if not re.fullmatch(r"-0(\.0+)?|.*\.\d*0", text)} <= set(found)
    assert {text for text in accepted({"anyOf": [{"type": kind, **given}, {"type": "null"}]})} == set(found)


def test_excluded_bounds_of_pydantic_are_kept_and_those_of_older_drafts_refused():
    class Size(pydantic.BaseModel):
        width: int = pydantic.Field(gt=3, lt=6)
        share: float = pydantic.Field(gt=0, lt=1)

    for seed in range(4):
        text = written(nano(), 60, seed=seed, json_schema=Size)[0]
        Size.model_validate_json(text)
    for wrong in (
        {"type": "number", "minimum": 0, "exclusiveMinimum": True},
        {"allOf": [{"type": "number", "exclusiveMinimum": 0}, {"maximum": 0.5}]},
        {"type": "array", "items": {"exclusiveMaximum": 1, "minimum": 0.5}},
    ):
        with pytest.raises(ValueError, match="exclusiveM"):
            GenerationOptions(json_schema=wrong)


def test_a_limit_too_small_for_any_text_is_told_before_work():
    with pytest.raises(ValueError, match=r"takes \d+ tokens, and max_new_tokens is 3: pass max_new_tokens="):
        nano().generate("a", json_schema={"const": "longer than three tokens can say"}, max_new_tokens=3)


@pytest.mark.parametrize("way", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 0, "temperature": 5.0}])
def test_a_picture_is_answered_with_one_of_the_choices(way):
    found = nano().answer(picture(0), ["what colour is it?"] * 2, choices=["blue", "dark red"], details=True, **way)
    assert all(result.parsed in ("blue", "dark red") and result.text.strip() == result.parsed for result in found)


def test_a_choice_is_the_free_answer_where_that_is_one_of_them():
    model = nano()
    questions = ["is there a circle?", "is there a square?", "is there a star?"]
    free = model.answer(picture(0), questions)
    assert model.answer(picture(0), questions, choices=["yes", "no"]) == free and set(free) <= {"yes", "no"}


def test_an_expression_holds_a_stream():
    stream = model_of("bytes").stream("a", regex="[0-9]{3}-[a-c]+", max_new_tokens=9)
    assert (
        re.fullmatch(" ?[0-9]{3}-[a-c]+", "".join(stream))
        and stream.result.parsed == "".join(stream.result.text).strip()
    )


def test_a_schema_of_pydantic_gives_its_object():
    class Thing(pydantic.BaseModel):
        name: Literal["ball", "box"]
        count: int = pydantic.Field(ge=0, le=9)

    result = nano().generate("a", json_schema=Thing, max_new_tokens=40)
    assert isinstance(result.parsed, Thing)
    assert json.loads(result.answer).items() >= result.parsed.model_dump().items()  # more may come, as the schema says
