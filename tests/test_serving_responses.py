"""/v1/responses by the official client, beside what /v1/chat/completions answers to the same."""

import base64
import dataclasses
import functools
import io
import json

import openai
import pytest
from PIL import Image

from mmlm.prompting import chat_template
from mmlm.serving.dialect.chat_request import ChatRequest
from mmlm.serving.dialect.response_events import Events, items_of
from support import scripted
from support.serving import refused, serving

AREA = {
    "type": "function", "name": "area", "description": "Measures.", "strict": True,
    "parameters": {"type": "object", "properties": {"width": {"type": "integer"}}, "required": ["width"]},
}  # fmt: skip
CALL = scripted.CALLS["hermes"].replace("NAME", "area").replace("ARGUMENTS", '{"width": 3}')


@pytest.fixture(scope="module")
def models():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_template, "_run", functools.cache(scripted.rendered_here))
        yield {"hermes": scripted.model("hermes")}


@pytest.fixture(scope="module")
def client(models):
    with (
        serving({name: (lambda own=own: own) for name, own in models.items()}) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found,
    ):
        yield found


@pytest.fixture
def write(models, monkeypatch):
    """Has the model write a text whatever it is asked; gives the prompts that it got."""
    own = ChatRequest.options

    def scripted_by(text: str) -> list[list[int]]:
        prompts: list[list[int]] = []

        def options(self, most):
            processor = scripted.Processor(models["hermes"], text, prompts)
            return dataclasses.replace(own(self, most), logits_processor=[processor])

        monkeypatch.setattr(ChatRequest, "options", options)
        return prompts

    return scripted_by


def told(response) -> list[dict]:
    """The items of a response without their ids."""
    return [
        {name: value for name, value in item.items() if name not in ("id", "call_id")}
        for item in response.to_dict()["output"]
    ]


def test_a_text_comes_whole_and_as_events_and_is_that_of_a_chat(client, write, models):
    asked = dict(model="hermes", instructions="Be brief.", input="how are you?", max_output_tokens=40)
    prompts = write("very well")
    found = client.responses.create(**asked)
    assert (found.status, found.output_text, found.error, found.object) == ("completed", "very well", None, "response")
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "how are you?"}]
    chat = client.chat.completions.create(model="hermes", messages=turns, max_tokens=40)
    assert prompts[0] == prompts[1] and chat.choices[0].message.content == found.output_text
    assert found.usage.input_tokens == chat.usage.prompt_tokens == len(prompts[0])
    assert found.usage.output_tokens == chat.usage.completion_tokens
    assert found.usage.total_tokens == chat.usage.total_tokens
    events = list(client.responses.create(**asked, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    opened = ["created", "in_progress", "output_item.added", "content_part.added"]
    closed = ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert kinds == [*opened, *["output_text.delta"] * (len(kinds) - 8), *closed]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "very well"
    assert told(events[-1].response) == told(found)
    assert events[-1].response.usage.total_tokens == found.usage.total_tokens
    with client.responses.stream(**asked) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == "very well"


def test_a_call_is_made_and_its_result_is_taken(client, write, models):
    asked = dict(model="hermes", tools=[AREA], input=[{"role": "user", "content": "how large?"}])
    write("I look.\n" + CALL)
    found = client.responses.create(**asked)
    message, call = found.output
    assert (message.type, message.content[0].text) == ("message", "I look.")
    assert (call.type, call.name, call.arguments, call.status) == ("function_call", "area", '{"width": 3}', "completed")
    events = list(client.responses.create(**asked, stream=True))
    assert told(events[-1].response) == told(found)
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert "".join(pieces) == done.arguments == '{"width": 3}'
    write('{"width": 12}')
    choice = {"type": "function", "name": "area"}
    (named,) = client.responses.create(**asked, tool_choice=choice).output
    assert json.loads(named.arguments) == {"width": 12}
    data = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(data, "PNG")
    url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    prompts = write("12")
    result = [{"type": "input_text", "text": "it is 12"}, {"type": "input_image", "image_url": url, "detail": "auto"}]
    asked["input"] += [
        *(item.to_dict() for item in found.output),
        {"type": "function_call_output", "call_id": call.call_id, "output": result},
    ]
    assert client.responses.create(**asked).output_text == "12"
    said = scripted.said(prompts[0], models["hermes"])
    assert said.index("I look.") < said.index('"width": 3') < said.index("it is 12")
    assert prompts[0].count(models["hermes"].processor.vocabulary.image_id) == 1


def test_limits_forms_and_log_probabilities(client, write):
    asked = dict(model="hermes", input="a?")
    write("a b c d e f")
    cut = client.responses.create(**asked, max_output_tokens=3)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert cut.output_text == "a b" and cut.output[0].status == "incomplete"
    last = list(client.responses.create(**asked, max_output_tokens=3, stream=True))[-1]
    assert last.type == "response.incomplete" and told(last.response) == told(cut)
    known = dict(include=["message.output_text.logprobs"], top_logprobs=2, max_output_tokens=3)
    found = client.responses.create(**asked, **known).output[0].content[0].logprobs
    assert [one.token for one in found] == ["a", " ", "b"] and all(len(one.top_logprobs) == 2 for one in found)
    streamed = list(client.responses.create(**asked, **known, stream=True))[-1].response.output[0].content[0].logprobs
    assert streamed == found
    schema = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"], "additionalProperties": False}
    form = {"format": {"type": "json_schema", "name": "an", "schema": schema, "strict": True}}
    assert json.loads(client.responses.create(**asked, text=form).output_text) == {"a": "x"}


def test_thought_text_and_calls_are_items_one_after_the_other():
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "so", "reasoning": "hm", "tool_calls": [call, {**call, "id": "d"}]}
    thought, text, *calls = items_of(message, None, "tool_calls")
    assert (thought["type"], thought["content"]) == ("reasoning", [{"type": "reasoning_text", "text": "hm"}])
    assert (text["type"], text["content"][0]["text"]) == ("message", "so")
    assert [(one["call_id"], one["name"], one["arguments"]) for one in calls] == [("c", "f", "{}"), ("d", "f", "{}")]
    deltas = [
        {"role": "assistant", "content": ""}, {"reasoning": "h"}, {"reasoning": "m"},
        {"content": "s"}, {"content": "o"},
        {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}, {"tool_calls": [{"index": 1, **call}]}, {},
    ]  # fmt: skip
    events = Events()
    kinds = [event["type"].split(".", 1)[1] for delta in deltas for event in events.push(delta, None)]
    kinds += [event["type"].split(".", 1)[1] for event in events.rest("tool_calls")]
    added, done, call_done = "output_item.added", "output_item.done", "function_call_arguments.done"
    assert kinds == [
        added, "content_part.added", *["reasoning_text.delta"] * 2, "reasoning_text.done", "content_part.done", done,
        added, "content_part.added", *["output_text.delta"] * 2, "output_text.done", "content_part.done", done,
        added, "function_call_arguments.delta", call_done, done,
        added, "function_call_arguments.delta", call_done, done,
    ]  # fmt: skip
    assert [item["type"] for item in events.items] == ["reasoning", "message", "function_call", "function_call"]


WRONG = {
    "an earlier response": (dict(previous_response_id="resp_1"), "previous_response_id", "keeps no responses"),
    "a conversation": (dict(conversation="conv_1"), "conversation", "send the conversation whole"),
    "background": (dict(background=True), "background", "not supported"),
    "a built-in tool": (dict(tools=[{"type": "web_search"}]), "tools", "web_search"),
    "another item": (dict(input=[{"type": "item_reference", "id": "a"}]), "input[0]", "item_reference"),
    "no part": (dict(input=[{"role": "user", "content": [{"type": "file"}]}]), "input[0].content[0]", "input_text"),
    "no picture": (
        dict(instructions="x", input=[{"role": "user", "content": "a"}, {"role": "user", "content": [
            {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}]),
        "input[1].content[0].image_url.url", "input[1]",
    ),
    "a file": (dict(input=[{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]),
               "input[0].content[0].image_url", "files are not kept"),
    "something included": (dict(include=["reasoning.encrypted_content"]), "include", "logprobs"),
    "a form": (dict(text={"format": {"type": "xml"}}), "text", "json_schema"),
    "an unknown field": (dict(extra_body={"max_tokens": 3}), "max_tokens", "unknown field"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_here_is_told_by_its_field(client, name):
    changed, param, word = WRONG[name]
    refused(client.responses.create, param, word, **{"model": "hermes", "input": "a", **changed})
