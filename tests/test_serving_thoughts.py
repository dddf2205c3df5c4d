"""Thoughts over HTTP: the official client, beside what the library gives."""

import openai
import pytest

from mmlm.serving.dialect.reasoning import BUDGETS, shares
from support.bigrams import END, bigrams, tokenizer
from support.serving import serving

TEMPLATE = "{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}!{% endif %}"
TABLE = {
    "!": "4", "4": ".", ".": END, "<think>": "\n", "\n": "A", "A": {"B": 0.5, "C": 0.5}, "B": "A", "C": "</think>",
    "</think>": " ", " ": "4",
}  # fmt: skip
QUESTION = [{"role": "user", "content": "two and two?"}]


@pytest.fixture(scope="module")
def model():
    return bigrams(TABLE, tokenizer(("<think>", "</think>"), TEMPLATE))


@pytest.fixture(scope="module")
def create(model):
    with serving({"m": lambda: model}) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        yield lambda **asked: client.chat.completions.create(model="m", messages=QUESTION, **asked)
        client.close()


def test_a_thought_comes_beside_the_answer_whole_and_as_a_stream(create, model):
    for seed in (1, 2):
        asked = dict(seed=seed, temperature=1.0, extra_body={"thinking_token_budget": 6})
        whole = create(**asked)
        message, used = whole.choices[0].message, whole.usage
        own = model.chat(QUESTION, thinking=6, do_sample=True, seed=seed, max_new_tokens=512 - 21 - 22, details=True)
        assert message.content == own.answer.strip() == "4."
        assert message.reasoning_content == message.reasoning == own.thinking and set(own.thinking) <= {"A", "B", "C"}
        assert used.completion_tokens == len(own.token_ids)
        assert used.completion_tokens_details.reasoning_tokens == own.usage.thinking_tokens <= 7
        chunks = list(create(stream=True, stream_options={"include_usage": True}, **asked))
        pieces = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        assert "".join(piece.content or "" for piece in pieces) == "4."
        thought = [piece.reasoning_content for piece in pieces if hasattr(piece, "reasoning_content")]
        assert "".join(thought) == own.thinking and len(thought) == len(own.thinking)
        assert chunks[-1].usage == used


def test_an_effort_is_off_or_a_budget(create):
    for effort in ("none", "minimal", None):
        answer = create(**({} if effort is None else {"reasoning_effort": effort})).choices[0].message
        assert answer.content == "4." and not hasattr(answer, "reasoning_content")
    for effort in ("low", "medium", "high"):
        found = create(reasoning_effort=effort, max_completion_tokens=12)
        assert found.choices[0].message.content == "4." and found.usage.completion_tokens <= 12
        assert len(found.choices[0].message.reasoning_content) == 5  # half of the limit, a line break among it
    found = create(extra_body={"thinking_token_budget": 0})
    assert (found.choices[0].message.content, found.choices[0].message.reasoning_content) == ("4.", "")
    with pytest.raises(openai.BadRequestError, match="reasoning_effort"):
        create(reasoning_effort="enormous")
    with pytest.raises(openai.BadRequestError, match="512"):
        create(extra_body={"thinking_token_budget": 600}, max_completion_tokens=700)


def test_a_limit_holds_thought_and_answer(model):
    prompt = model.chat_prompt(QUESTION, thinking=True)
    assert shares(model, prompt, "low", None, 100) == (50, 50)
    assert shares(model, prompt, "low", None, 5000) == (BUDGETS["low"], 5000 - BUDGETS["low"])
    assert shares(model, prompt, None, 90, 100) == (90, 10) and shares(model, prompt, None, 100, 100) == (99, 1)
    assert shares(model, prompt, "none", None, 100) == (False, 100)
    for effort, budget in (("high", None), (None, -1), (None, 100)):
        thought, answer = shares(model, prompt, effort, budget, None)
        left = 512 - len(model.processor.encode(prompt).input_ids)
        assert thought > 0 and answer > 0 and thought + answer + 1 <= left


def test_a_thought_comes_before_an_answer_that_may_hold_calls(create):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    asked = dict(tools=[tool], reasoning_effort="low", max_completion_tokens=12)
    message = create(**asked).choices[0].message
    assert (message.content, message.tool_calls, len(message.reasoning_content)) == ("4.", None, 5)
    pieces = [chunk.choices[0].delta for chunk in create(stream=True, **asked)]
    assert "".join(piece.content or "" for piece in pieces) == "4."
    assert "".join(getattr(piece, "reasoning_content", "") for piece in pieces) == message.reasoning_content
    plain = create(tools=[tool]).choices[0].message
    assert plain.content == "4." and not hasattr(plain, "reasoning_content")
