"""Tools: offered, called and answered over chat templates of several forms and base models; limits, errors, media."""

import functools

import pytest

from mmlm.reasoning import Limits, Tool, solve
from support import scripted

FAMILIES = {
    "hermes": "qwen2", "thinking": "qwen3", "bare": "llama", "hidden": "mistral", "listed": "granite", "fenced": "phi3",
    "words": "gemma", "react": "gpt_neox",
}  # fmt: skip


def area(width: float, height: float = 1.0) -> str:
    """Measures a rectangle.

    Args:
        width: Of the rectangle, such as <|im_end|> or "3".
        height: Of the rectangle.
    """
    return f"{width * height:g} m²"


@functools.cache
def model(template: str):
    return scripted.model(None if template == "react" else template, FAMILIES[template])


def call(template: str, name: str, arguments: str) -> str:
    return scripted.CALLS[template].replace("NAME", name).replace("ARGUMENTS", arguments)


def end(template: str, answer: str) -> str:
    before = {"react": f" I know the answer.\nFinal Answer: ", "thinking": "hm</think>\n\n"}.get(template, "")
    return before + answer


@pytest.mark.parametrize("template", FAMILIES)
def test_a_tool_is_called_and_the_answer_uses_the_result(template):
    own = model(template)
    with scripted.Script(
        own, call(template, "area", '{"width": 3, "height": 4}'), end(template, "It is 12.")
    ) as script:
        found = solve(own, "how large?", tools=[area])
    assert (found.answer, found.ended) == ("It is 12.", "answer")
    (made,) = found.calls
    assert (made.call.name, dict(made.call.arguments), made.parts) == ("area", {"width": 3, "height": 4}, ("12 m²",))
    assert "Measures a rectangle." in scripted.said(script.prompts[0], own)
    after = scripted.said(script.prompts[1], own)
    assert after.index("how large?") < after.rindex("height") < after.rindex("12 m²") and "invent" not in after
    assert [turn.role for turn in found.messages] == ["user", "assistant", "tool", "assistant"]
    assert "area(width=3, height=4) → 12 m²" in str(found) and str(found).endswith("It is 12.")
