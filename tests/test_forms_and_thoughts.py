"""Forms behind thoughts: the answer is held to its form from where the thought has ended."""

from __future__ import annotations

import json

import pytest

from mmlm.prompting.thinking import ThinkingMarks
from support import parts

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


def test_a_choice_behind_a_thought_of_no_tokens():
    result = parts.shared("gpt2").generate(
        ["Is it?"], thinking=0, thinking_marks=MARKS, choices=["yes", "no"], max_new_tokens=4
    )
    assert result.parsed in ("yes", "no") and result.thinking == ""
