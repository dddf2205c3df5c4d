"""OpenAI's dialect by the official JavaScript client, which gets from each endpoint what the Python client gets."""

import base64
import inspect
import json
import shutil
import subprocess
from pathlib import Path

import openai
import pytest
from PIL import Image

from mmlm.serving.cluster.door import ReplicaLostError, make_door
from mmlm.serving.settings import Settings
from mmlm.serving.ticket import BusyError
from support import page_server

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests/support/client.mjs"
SCENE = ROOT / "docs/images/scene.png"
WAV = ROOT / "demos/questions/shapes.wav"
URL = "data:image/png;base64," + base64.b64encode(SCENE.read_bytes()).decode()
NODE = shutil.which("node")

HELLO = [{"role": "user", "content": "hello"}]
QUESTION = [
    {"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": URL}}, {"type": "text", "text": "what color is the background?"},
    ]},
]  # fmt: skip
SHAPE = {
    "type": "object", "properties": {"color": {"enum": ["red", "blue"]}}, "required": ["color"],
    "additionalProperties": False,
}  # fmt: skip
FORM = {"type": "json_schema", "json_schema": {"name": "shape", "schema": SHAPE, "strict": True}}
TOOL = {"type": "function", "function": {"name": "note", "parameters": SHAPE}}
ONE = {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "note"}}}
SAMPLED = {"temperature": 1.5, "seed": 7, "n": 2, "max_tokens": 6, "logprobs": True}
DRAWN = {"prompt": "in the middle a large red circle, on a white background", "seed": 3}
SOUND = {"file": {"$file": str(WAV)}}
VERBOSE = {**SOUND, "response_format": "verbose_json", "timestamp_granularities": ["word", "segment"]}

CHAT, HEARD, RESPONSE = "chat.completions.create", "audio.transcriptions.create", "responses.create"
CALLS = {
    "text": (CHAT, {"messages": HELLO, "max_tokens": 8}),
    "a picture": (CHAT, {"messages": QUESTION}),
    "a stream": (CHAT, {"messages": QUESTION, "stream": True, "stream_options": {"include_usage": True}}),
    "samples": (CHAT, {"messages": QUESTION, **SAMPLED}),
    "samples as a stream": (CHAT, {"messages": QUESTION, **SAMPLED, "stream": True}),
    "a form": (CHAT, {"messages": QUESTION, "response_format": FORM}),
    "a tool": (CHAT, {"messages": QUESTION, **ONE}),
    "a tool as a stream": (CHAT, {"messages": QUESTION, **ONE, "stream": True}),
    "a response": (RESPONSE, {"input": "hello", "max_output_tokens": 8}),
    "a response as a stream": (RESPONSE, {"input": "hello", "max_output_tokens": 8, "stream": True}),
    "a transcript": (HEARD, SOUND),
    "a transcript with times": (HEARD, VERBOSE),
    "a transcript as a stream": (HEARD, {**SOUND, "stream": True}),
    "speech": ("audio.speech.create", {"input": "seven", "voice": "alloy", "response_format": "wav", "seed": 1}),
    "a drawing as a stream": ("images.generate", {**DRAWN, "stream": True, "partial_images": 1}),
    "an edit": ("images.edit", {**DRAWN, "image": [{"$file": "PICTURE.png"}], "mask": {"$file": "MASK.png"}}),
    "embeddings": ("embeddings.create", {"input": ["a red circle", "a star"]}),
    "plain embeddings": ("embeddings.create", {"input": "a star", "encoding_format": "float"}),
    "wrong: a model that is not here": (CHAT, {"messages": HELLO, "model": "other"}),
    "wrong: an unknown field": (CHAT, {"messages": HELLO, "temprature": 1}),
    "wrong: an unknown field of a stream": (CHAT, {"messages": HELLO, "temprature": 1, "stream": True}),
    "wrong: no sound": (HEARD, {"file": {"$file": str(SCENE)}}),
    "wrong: no picture": ("images.edit", {"prompt": "x", "image": {"$file": str(WAV)}}),
    "wrong: a faster voice": ("audio.speech.create", {"input": "x", "voice": "alloy", "speed": 2}),
    "wrong: other dimensions": ("embeddings.create", {"input": "x", "dimensions": 7}),
}
JOINED = {
    "a stream": ("chat.completions.stream", "a picture"),
    "samples as a stream": ("chat.completions.stream", "samples"),
    "a form": ("chat.completions.stream", "a form"),
    "a tool as a stream": ("chat.completions.stream", "a tool"),
    "a response as a stream": ("responses.stream", "a response"),
}
"""What the client's own helper makes of a stream → the method, and the call whose answer that is."""
OWN = ("id", "created", "created_at", "completed_at", "call_id", "item_id", "cached_tokens", "output_text")
"""What is another for each answer, or what one client adds."""


@pytest.fixture(scope="module")
def javascript():
    """Makes calls by the JavaScript client: url, calls and key → results."""
    if NODE is None:
        pytest.skip("needs node: apt-get install nodejs npm")
    if subprocess.run([NODE, "-e", "require('openai')"], capture_output=True, cwd=SCRIPT.parent).returncode:
        pytest.skip(
            "needs OpenAI's JavaScript client: npm install openai in a folder of its own, and that folder's "
            "node_modules in the environment's NODE_PATH"
        )
    return by_javascript


def by_javascript(url: str, calls: dict, key: str = "none") -> dict:
    """What the JavaScript client gives for each call."""
    asked = json.dumps({"url": url, "key": key, "calls": calls})
    done = subprocess.run([str(NODE), str(SCRIPT)], input=asked, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def by_python(client: openai.OpenAI, path: str, body: dict) -> dict:
    """What the Python client gives for a call, in the form of the script's results."""
    method = client
    for name in path.split("."):
        method = getattr(method, name)
    known = inspect.signature(method).parameters
    extra = {name: value for name, value in body.items() if name not in known}
    try:
        given = method(**{name: value for name, value in body.items() if name in known}, extra_body=extra)
    except openai.APIStatusError as error:
        told = {name: getattr(error, name) for name in ("code", "param", "type")}
        message = f"{error.status_code} {error.body['message']}"
        return {"error": {"kind": type(error).__name__, "status": error.status_code, **told, "message": message}}
    if isinstance(given, str):
        return {"value": given}
    if isinstance(given, openai.Stream):
        return {"events": [event.to_dict() for event in given]}
    if isinstance(given, openai.HttpxBinaryResponseContent):
        return {"bytes": base64.b64encode(given.content).decode()}
    return {"value": given.to_dict()}


def with_paths(value, found):
    """A body in which each {"$file": PATH} is what `found` makes of the path."""
    if isinstance(value, list):
        return [with_paths(one, found) for one in value]
    if isinstance(value, dict):
        if "$file" in value:
            return found(value["$file"])
        return {name: with_paths(one, found) for name, one in value.items()}
    return value


def without_own(value):
    """A result without what is another of each answer."""
    if isinstance(value, list):
        return [without_own(one) for one in value]
    if isinstance(value, dict):
        return {name: without_own(one) for name, one in value.items() if name not in OWN}
    return value


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Where the pictures of edits are."""
    folder = tmp_path_factory.mktemp("pictures")
    Image.open(SCENE).convert("RGB").resize((64, 64)).save(folder / "PICTURE.png")
    mask = Image.new("RGBA", (64, 64), "white")
    mask.putalpha(Image.linear_gradient("L").resize((64, 64)).point(lambda value: 255 * (value > 127)))
    mask.save(folder / "MASK.png")
    return folder


@pytest.fixture(scope="module")
def results(javascript, server, files):
    """What both clients give for each call."""
    named = {name: (path, {"model": "nano", **body}) for name, (path, body) in CALLS.items()}
    asked = {
        name: {"path": path, "body": with_paths(body, lambda file: {"$file": str(files / file)})}
        for name, (path, body) in named.items()
    }
    more = {f"{name}, joined": {**asked[name], "path": path} for name, (path, _) in JOINED.items()}
    more |= {"models": {"path": "models.list"}, "a model": {"path": "models.retrieve", "body": "nano"}}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        expected = {
            name: by_python(client, path, with_paths(body, lambda file: (Path(file).name, (files / file).read_bytes())))
            for name, (path, body) in named.items()
        }
    return javascript(f"{server.url}/v1", {**asked, **more}), expected


@pytest.mark.parametrize("name", CALLS)
def test_both_clients_get_the_same(results, name):
    found, expected = (without_own(one[name]) for one in results)
    assert found == expected
    assert ("error" in found) == name.startswith("wrong: ")


@pytest.mark.parametrize("name", JOINED)
def test_what_the_client_makes_of_a_stream_is_the_whole_answer(results, name):
    found, whole = results[0][f"{name}, joined"]["value"], results[0][JOINED[name][1]]["value"]
    if "output" in whole:
        assert found["status"] == "completed" and found["output_text"] == whole["output_text"]
        assert found["usage"] == whole["usage"]
        return
    assert len(found["choices"]) == len(whole["choices"])
    for one, other in zip(found["choices"], whole["choices"], strict=True):
        assert one["finish_reason"] == other["finish_reason"]
        assert one["message"]["content"] == other["message"]["content"]
        calls = [[call["function"] for call in each["message"].get("tool_calls", [])] for each in (one, other)]
        assert [(own["name"], own["arguments"]) for own in calls[0]] == [
            (own["name"], own["arguments"]) for own in calls[1]
        ]


def test_models_are_listed(results, server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        expected = client.models.retrieve("nano").to_dict()
    assert results[0]["models"] == {"value": {"data": [expected]}} and results[0]["a model"] == {"value": expected}


async def _failing(passed, _):
    """What replicas answer of which one is lost while it streams; they are busy where nothing is streamed."""
    if b"stream" not in passed.body:
        raise BusyError("as many requests wait as may: try again later")
    headers = [(b"content-type", b"text/event-stream")]
    yield [{"type": "http.response.start", "status": 200, "headers": headers}]
    yield [{"type": "http.response.body", "body": b'data: {"choices": []}\n\n', "more_body": True}]
    raise ReplicaLostError


def test_failures_have_the_clients_classes(javascript):
    call = {"path": CHAT, "body": {"model": "nano", "messages": HELLO}}
    streamed = {**call, "body": {**call["body"], "stream": True}}
    with page_server.serving(make_door(_failing, Settings(api_key="secret"))) as address:
        found = javascript(f"{address}/v1", {"busy": call, "lost": streamed}, "secret")
        found |= javascript(f"{address}/v1", {"no key": call}, "other")
    errors = {name: one["error"] for name, one in found.items()}
    told = {name: (error["kind"], error.get("status"), error["code"]) for name, error in errors.items()}
    assert told == {
        "busy": ("RateLimitError", 429, "busy"), "lost": ("APIError", None, "replica_lost"),
        "no key": ("AuthenticationError", 401, "invalid_api_key"),
    }  # fmt: skip
    assert "was lost" in errors["lost"]["message"]
