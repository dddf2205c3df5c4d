"""Forms behind thoughts: the answer is held to its form from where the thought has ended."""

from __future__ import annotations

import json

import pytest

from mmlm.prompting.thinking import ThinkingMarks
from support import parts
from support.bigrams import END, bigrams, tokenizer

MARKS = ThinkingMarks("<think>", "</think>")
SCHEMA = {
    "type": "object",
    "properties": {"count": {"type": "integer", "minimum": 0, "maximum": 99}, "red": {"type": "boolean"}},
    "required": ["count", "red"],
    "additionalProperties": False,
}
WAYS = {
    "greedy": {},
    "sampled": {"do_sample": True, "temperature": 2.0, "seed": 1, "num_return_sequences": 3},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "stopped": {"stop": "}"},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_form_begins_where_the_thought_has_ended(way):
    model = parts.shared("qwen3")
    found = model.generate(
        ["How many?"], thinking=6, thinking_marks=MARKS, json_schema=SCHEMA, max_new_tokens=40, **WAYS[way]
    )
    for result in found if isinstance(found, list) else [found]:
        assert result.thinking is not None and result.usage.thinking_tokens <= 6 + len("</think>")
        if way == "stopped":  # which the answer is cut at, and so is no JSON
            assert result.text.lstrip().startswith("{") and "}" not in result.text and result.parsed is None
            continue
        said = json.loads(result.answer)
        assert said == result.parsed and set(said) == {"count", "red"}
        assert 0 <= said["count"] <= 99 and isinstance(said["red"], bool)


@pytest.mark.parametrize("way", ["greedy", "sampled", "beams"])
def test_a_token_that_ends_the_thought_and_begins_the_answer_is_not_written(way):
    """Tokens "x" and "…:**": without a form the second ends the thought, with one another does."""
    own = tokenizer(added=("r:**", "r:"))
    model = bigrams({"x": {"r:**": 0.9, "r:": 0.1}, "r:**": "n", "r:": "n", "n": END}, own)
    marks = ThinkingMarks("x", "r:")
    asked = {"thinking": 9, "thinking_marks": marks, "max_new_tokens": 4, **WAYS[way]}
    free = model.generate(["Is it?"], **asked)
    held = model.generate(["Is it?"], choices=["no", "yes"], **asked)
    assert any(result.text.startswith("**") for result in (free if isinstance(free, list) else [free]))
    for result in held if isinstance(held, list) else [held]:
        assert result.text in ("no", "yes") and result.parsed == result.text


def test_a_choice_behind_a_thought_of_no_tokens():
    result = parts.shared("gpt2").generate(
        ["Is it?"], thinking=0, thinking_marks=MARKS, choices=["yes", "no"], max_new_tokens=4
    )
    assert result.parsed in ("yes", "no") and result.thinking == ""
