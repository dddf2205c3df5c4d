"""Tools over HTTP: offered, demanded, called and answered, whole and in pieces, by the official client."""

import base64
import dataclasses
import functools
import io
import json

import jsonschema
import openai
import pytest
from PIL import Image

from mmlm.prompting import chat_template
from mmlm.serving.dialect.chat_request import ChatRequest
from support import scripted
from support.serving import refused, serving

AREA = {
    "type": "function",
    "function": {
        "name": "area", "description": "Measures.",
        "parameters": {
            "type": "object", "properties": {"width": {"type": "number"}, "names": {"type": "array"}},
            "required": ["width"],
        },
    },
}  # fmt: skip
OTHER = {"type": "function", "function": {"name": "now"}}
ARGUMENTS = '{"width": 3, "names": ["}{\\"", "größe"]}'
QUESTION = [{"role": "user", "content": "how large?"}]
TEMPLATES = ["hermes", "thinking", "hidden", "words", "react"]


@pytest.fixture(scope="module")
def models():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_template, "_run", functools.cache(scripted.rendered_here))
        yield {name: scripted.model(None if name == "react" else name) for name in TEMPLATES}


@pytest.fixture(scope="module")
def client(models):
    loaders = {name: (lambda own=own: own) for name, own in models.items()}
    with (
        serving(loaders) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found,
    ):
        yield found


def written(template: str, name: str = "area", arguments: str = ARGUMENTS) -> str:
    return scripted.CALLS[template].replace("NAME", name).replace("ARGUMENTS", arguments)


def joined(chunks) -> tuple[str, list[dict], str]:
    """A stream as the official client's users join it: content, calls, and the reason of its end."""
    content, calls, reasons = "", [], []
    for chunk in chunks:
        (choice,) = chunk.choices
        content += choice.delta.content or ""
        reasons += [choice.finish_reason] if choice.finish_reason else []
        for piece in choice.delta.tool_calls or []:
            if piece.index == len(calls):
                assert piece.id and piece.type == "function" and piece.function.name
                calls.append({"id": piece.id, "name": piece.function.name, "arguments": piece.function.arguments})
            else:
                assert piece.index == len(calls) - 1 and piece.id is None and piece.function.name is None
                calls[-1]["arguments"] += piece.function.arguments
    (reason,) = reasons
    return content, calls, reason


@pytest.fixture
def write(models, monkeypatch):
    """Has a model write a text whatever it is asked; gives the ids of the prompts that it got."""
    own = ChatRequest.options

    def scripted_by(template: str, text: str) -> list[list[int]]:
        prompts: list[list[int]] = []

        def options(self, most):
            return dataclasses.replace(
                own(self, most), logits_processor=[scripted.Processor(models[template], text, prompts)]
            )

        monkeypatch.setattr(ChatRequest, "options", options)
        return prompts

    return scripted_by


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_call_comes_whole_and_in_pieces_and_its_result_is_taken(client, write, models, template):
    asked = dict(model=template, messages=QUESTION, tools=[AREA, OTHER])
    prompts = write(template, written(template))
    whole = client.chat.completions.create(**asked).choices[0]
    content, calls, reason = joined(client.chat.completions.create(**asked, stream=True))
    assert whole.finish_reason == reason == "tool_calls"
    (call,) = whole.message.tool_calls
    assert (call.type, call.function.name, call.function.arguments) == ("function", "area", ARGUMENTS)
    assert [(one["name"], one["arguments"]) for one in calls] == [("area", ARGUMENTS)]
    assert content == (whole.message.content or "") == ("I have to look." if template == "react" else "")
    assert "Measures." in scripted.said(prompts[0], models[template])
    turns = [
        *QUESTION, whole.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "12 m²"},
    ]  # fmt: skip
    asked["messages"] = turns
    prompts = write(template, {"react": " So.\nFinal Answer: 12", "thinking": "hm</think>\n12"}.get(template, "12"))
    found = client.chat.completions.create(**asked).choices[0]
    assert (found.message.content, found.message.tool_calls, found.finish_reason) == ("12", None, "stop")
    assert joined(client.chat.completions.create(**asked, stream=True)) == ("12", [], "stop")
    assert "12 m²" in scripted.said(prompts[0], models[template])


# What the prompt ends in where a call is required, and where one is named; and what the model writes then.
REQUIRED = {
    "hermes": ('<tool_call>\n{"name": "', "", '<tool_call>\n{"name": "area", "arguments": '),
    "thinking": ('</think>\n\n<tool_call>\n{"name": "', "", '<tool_call>\n{"name": "area", "arguments": '),
    "hidden": ("[TOOL_CALLS]", "", "[TOOL_CALLS]area[ARGS]"),
    "words": ('<tool_call>{"name": "', "", '<tool_call>{"name": "area", "arguments": '),
    "react": ("Thought:Action:", " ", "Action: area\nAction Input: "),
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_call_may_be_required_and_named(client, write, models, template):
    asked = dict(model=template, messages=QUESTION, tools=[AREA, OTHER])
    any_of, space, named = REQUIRED[template]
    between = named.rpartition("area")[2]
    for choice, ending, text in (
        ("required", any_of, f"{space}area{between}{ARGUMENTS} and more"),
        ({"type": "function", "function": {"name": "area"}}, named, f"{ARGUMENTS} and more"),
    ):
        prompts = write(template, text)
        found = client.chat.completions.create(**asked, tool_choice=choice).choices[0]
        content, calls, reason = joined(client.chat.completions.create(**asked, tool_choice=choice, stream=True))
        assert found.finish_reason == reason == "tool_calls" and not content and not found.message.content
        assert found.message.tool_calls[0].function.arguments == calls[0]["arguments"] == ARGUMENTS
        assert scripted.said(prompts[0], models[template]).endswith(ending)
    prompts = write(template, {"thinking": "</think>plain"}.get(template, "plain"))
    found = client.chat.completions.create(**asked, tool_choice="none").choices[0]
    assert found.message.content == "plain" and "Measures." not in scripted.said(prompts[0], models[template])


SIZE = {
    "type": "object", "required": ["width", "unit"], "additionalProperties": False,
    "properties": {"width": {"type": "integer", "minimum": 1, "maximum": 99}, "unit": {"enum": ["m", "ft"]}},
}  # fmt: skip
STRICT = {"type": "function", "function": {"name": "area", "parameters": SIZE, "strict": True}}
LOOSE = {"type": "object", "properties": {"width": {"not": {"type": "string"}}}}


@pytest.mark.parametrize("template", ["hermes", "react"])
def test_calls_are_held_to_their_tools_whatever_the_model_prefers(client, write, template):
    asked = dict(model=template, messages=QUESTION, tools=[STRICT, OTHER], max_tokens=200)
    wrong = '{"width": "wide", "size": 3} and so on'
    named = {"type": "function", "function": {"name": "area"}}
    between = REQUIRED[template][2].rpartition("area")[2]
    for choice, text in (
        ("auto", written(template, "aria", wrong)), ("required", f"aria{between}{wrong}"), (named, wrong),
    ):  # fmt: skip
        write(template, text)
        content, (made,), reason = joined(client.chat.completions.create(**asked, tool_choice=choice, stream=True))
        assert (made["name"], reason) == ("area", "tool_calls")
        jsonschema.validate(json.loads(made["arguments"]), SIZE)
    write(template, written(template, "aria", wrong))
    found = client.chat.completions.create(**asked, tool_choice="none").choices[0]  # what looks like a call is text
    assert found.message.tool_calls is None and "aria" in found.message.content


def test_a_schema_that_cannot_be_kept_is_refused_where_it_is_strict_and_free_elsewhere(client, write):
    tool = {"type": "function", "function": {"name": "area", "parameters": LOOSE}}
    write("hermes", written("hermes", arguments='{"width": 3}'))
    found = client.chat.completions.create(model="hermes", messages=QUESTION, tools=[tool]).choices[0]
    assert found.message.tool_calls[0].function.arguments == '{"width": 3}'


def test_several_calls_at_once(client, write):
    asked = dict(model="hermes", messages=QUESTION, tools=[AREA, OTHER])
    write("hermes", "Both.\n" + written("hermes") + "\n" + written("hermes", "now", "{}"))
    found = client.chat.completions.create(**asked).choices[0]
    assert [call.function.name for call in found.message.tool_calls] == ["area", "now"]
    assert len({call.id for call in found.message.tool_calls}) == 2 and found.message.content == "Both."
    content, calls, _ = joined(client.chat.completions.create(**asked, stream=True))
    assert content == "Both." and [(call["name"], call["arguments"]) for call in calls] == [
        ("area", ARGUMENTS),
        ("now", "{}"),
    ]
    one = client.chat.completions.create(**asked, parallel_tool_calls=False).choices[0]
    assert [call.function.name for call in one.message.tool_calls] == ["area"]


def test_a_call_that_is_cut_off_says_so(client, write):
    write("hermes", written("hermes"))
    asked = dict(model="hermes", messages=QUESTION, tools=[AREA], max_tokens=60)
    found = client.chat.completions.create(**asked).choices[0]
    content, calls, reason = joined(client.chat.completions.create(**asked, stream=True))
    assert found.finish_reason == reason == "length"
    assert ARGUMENTS.startswith(calls[0]["arguments"]) and calls[0]["arguments"] != ARGUMENTS
    assert found.message.tool_calls[0].function.arguments == calls[0]["arguments"]


@pytest.mark.parametrize("template", ["hermes", "words", "react"])
def test_a_result_may_hold_a_picture(client, write, models, template):
    data = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(data, "PNG")
    picture = {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()},
    }
    call = {"id": "a", "type": "function", "function": {"name": "area", "arguments": '{"width": 3}'}}
    turns = [
        *QUESTION, {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "see"}, picture]},
    ]  # fmt: skip
    prompts = write(template, "ok")
    for tools in ([AREA], []):
        found = client.chat.completions.create(model=template, messages=turns, tools=tools)
        assert found.choices[0].message.content == "ok"
    for prompt in prompts:
        assert "see" in scripted.said(prompt, models[template])
        assert prompt.count(models[template].processor.vocabulary.image_id) == 1


WRONG = {
    "no function": (dict(tools=[{"type": "function"}]), "tools", "function"),
    "a bad name": (dict(tools=[{"type": "function", "function": {"name": "a b"}}]), "tools", "name"),
    "twice": (dict(tools=[AREA, AREA]), "tools", "twice"),
    "no schema": (dict(tools=[{"type": "function", "function": {"name": "a", "parameters": {"type": "string"}}}]),
                  "tools", "object"),
    "a strict schema that cannot be kept": (
        dict(tools=[{"type": "function", "function": {"name": "a", "parameters": LOOSE, "strict": True}}]),
        "tools", "the parameters of a: the keyword 'not' is not supported"),
    "no strictness": (
        dict(tools=[{"type": "function", "function": {"name": "a", "strict": "yes"}}]), "tools", "strict"),
    "a choice without tools": (dict(tool_choice="required"), "tool_choice", "tools"),
    "an unknown choice": (dict(tools=[AREA], tool_choice="maybe"), "tool_choice", "required"),
    "another tool": (dict(tools=[AREA], tool_choice={"type": "function", "function": {"name": "b"}}),
                     "tool_choice", "area"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_tools_is_told(client, name):
    changed, param, word = WRONG[name]
    refused(client.chat.completions.create, param, word, model="hermes", messages=QUESTION, **changed)
