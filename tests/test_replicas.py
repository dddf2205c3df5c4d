"""What stands between clients and the replicas of a cluster, without the cluster: `benchmarks/replicas.py` has one."""

import base64
import http.client
import importlib.util
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest

from mmlm.cli import main
from mmlm.serving.app import make_app
from mmlm.serving.cluster.affinity import medium_key
from mmlm.serving.cluster.door import ReplicaLostError, make_door
from mmlm.serving.cluster.figures import noting
from mmlm.serving.cluster.replica import answers
from mmlm.serving.models import Models
from mmlm.serving.settings import Limits, Settings
from support import page_server
from support.serving import serving, until

ROOT = Path(__file__).parents[1]
SCENE = (ROOT / "docs/images/scene.png").read_bytes()
URL = "data:image/png;base64," + base64.b64encode(SCENE).decode()
QUESTION = [
    {"type": "image_url", "image_url": {"url": URL}},
    {"type": "text", "text": "what color is the background?"},
]
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
PLAIN = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]}


def piece(data, more=True):
    return {"type": "http.response.body", "body": data, "more_body": more}


def chat(**more):
    return json.dumps({"model": "nano", "messages": [{"role": "user", "content": QUESTION}], **more}).encode()


def asked(address, path, body=None, **headers):
    """Status and body of an answer."""
    sent = urllib.request.Request(address + path, body, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(sent, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def without_names(text):
    """An answer without what is another each time."""
    for line in (one.removeprefix("data: ") for one in text.splitlines() if one.strip()):
        found = json.loads(line) if line.startswith("{") else line
        if isinstance(found, dict):
            found.pop("id", None), found.pop("created", None)
        yield found


@pytest.fixture(scope="module")
def models(nano):
    return Models({"nano": lambda: nano})


@pytest.fixture(scope="module")
def door(models):
    app = make_app(models)
    with page_server.serving(make_door(lambda passed, _: answers(app, passed), Settings())) as address:
        yield address


REQUESTS = {
    "text": ("/v1/chat/completions", chat(max_tokens=4)),
    "stream": ("/v1/chat/completions", chat(stream=True)),
    "embeddings": ("/v1/embeddings", json.dumps({"model": "nano", "input": "a red circle"}).encode()),
    "wrong": ("/v1/chat/completions", chat(temperature="warm")),
    "other model": ("/v1/embeddings", json.dumps({"model": "other", "input": "a"}).encode()),
    "nowhere": ("/v1/nowhere", None),
    "health": ("/health", None),
}


def test_answers_are_those_of_a_server_of_one_machine(nano, door):
    with serving({"nano": lambda: nano}) as plain:
        for name, (path, body) in REQUESTS.items():
            (status, expected), (other, found) = asked(plain.url, path, body), asked(door, path, body)
            assert (other, list(without_names(found))) == (status, list(without_names(expected))), name


def test_a_recording_and_a_query_pass(door):
    client = openai.OpenAI(base_url=f"{door}/v1", api_key="none", max_retries=0)
    recording = ROOT / "demos/questions/shapes.wav"
    said = client.audio.transcriptions.create(model="nano", file=recording, response_format="text")
    assert "shape" in said
    assert asked(door, "/v1/models/nano?x=%C3%A9")[0] == 200
    status, told = asked(door, "/metrics")
    assert status == 404 and "Ray" in told


def test_a_client_that_leaves_frees_its_place(door, models):
    engine = models.loaded()[0].engine
    client = openai.OpenAI(base_url=f"{door}/v1", api_key="none", max_retries=0)
    stream = client.chat.completions.create(
        model="nano", messages=[{"role": "user", "content": "hello"}], stream=True, temperature=2, seed=1,
        max_tokens=400, extra_body={"n": 4},
    )  # fmt: skip
    next(iter(stream))
    until(lambda: engine.running == 1)
    stream.close()
    until(lambda: engine.running == 0, 5)


class Histogram:
    """What a replica tells Ray of one kind of times."""

    def __init__(self, name, about, boundaries, tag_keys):
        assert about and tag_keys == ("model",)
        self.name, self.boundaries, self.told = name, boundaries, []

    def observe(self, value, tags):
        assert tags == {"model": "nano"}
        self.told.append(value)

    def buckets(self):
        """Under each boundary, how many there are up to it."""
        return {end: sum(value <= end for value in self.told) for end in self.boundaries}


def test_the_times_of_replicas_add_up(nano, monkeypatch):
    made: list[Histogram] = []

    def histogram(*given):
        made.append(Histogram(*given))
        return made[-1]

    monkeypatch.setitem(sys.modules, "ray.util.metrics", SimpleNamespace(Histogram=histogram))
    added, written = {}, []
    for count in (2, 1):
        app = make_app(Models({"nano": lambda: nano}), note=noting())
        with page_server.serving(app) as replica:
            for _ in range(count):
                answer = json.loads(asked(replica, "/v1/chat/completions", chat(max_tokens=4))[1])
                written.append(answer["usage"]["completion_tokens"])
            page = asked(replica, "/metrics")[1]
        for line in page.splitlines():
            if line.startswith("mmlm_") and "_seconds_bucket{" in line and "http" not in line and "+Inf" not in line:
                name, end = line.partition("_bucket")[0], float(line.split('le="')[1].split('"')[0])
                added[name, end] = added.get((name, end), 0) + float(line.split()[-1])
    expected, counts = {}, {}
    for one in filter(lambda one: one.told, made):  # no recording was written down
        counts[one.name] = counts.get(one.name, 0) + len(one.told)
        for end, number in one.buckets().items():
            expected[one.name, end] = expected.get((one.name, end), 0) + number
    assert added == expected
    assert counts == {
        "mmlm_first_token_seconds": 3, "mmlm_writing_seconds": 3, "mmlm_between_tokens_seconds": sum(written) - 3,
    }  # fmt: skip


def given(answer_of):
    """The address of a door whose replicas do what each of the functions does, in turns; and who was asked for what."""
    keys = []

    async def ask(passed, key):
        keys.append(key)
        async for messages in answer_of[len(keys) - 1]():
            yield messages

    return page_server.serving(make_door(ask, Settings())), keys


async def good():
    yield [START, piece(b"data: 1\n\n")]
    yield [piece(b"data: [DONE]\n\n"), piece(b"", more=False)]


async def lost():
    raise ReplicaLostError
    yield []


async def lost_in_a_stream():
    yield [START, piece(b"data: 1\n\n")]
    raise ReplicaLostError


async def lost_in_an_answer():
    yield [PLAIN, piece(b"half")]
    raise ReplicaLostError


def test_an_answer_that_has_not_begun_is_asked_of_another_replica():
    running, keys = given([lost, good])
    with running as address:
        assert asked(address, "/v1/chat/completions", chat()) == (200, "data: 1\n\ndata: [DONE]\n\n")
    assert len(keys) == 2 and keys[0] == keys[1] is not None


def test_a_request_takes_no_more_than_two_replicas():
    running, keys = given([lost, lost, good])
    with running as address:
        status, told = asked(address, "/v1/chat/completions", chat())
    assert (status, json.loads(told)["error"]["code"], len(keys)) == (503, "replica_lost", 2)


def test_a_stream_whose_replica_is_lost_ends_with_the_error():
    running, _ = given([lost_in_a_stream])
    with running as address:
        first, last = asked(address, "/v1/chat/completions", chat())[1].split("\n\n")[:2]
    assert first == "data: 1" and json.loads(last.removeprefix("data: "))["error"]["code"] == "replica_lost"
    running, _ = given([lost_in_a_stream])
    with running as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(model="nano", messages=[{"role": "user", "content": "a"}], stream=True)
        with pytest.raises(openai.APIError, match="was lost"):
            list(stream)


def test_half_an_answer_is_no_answer():
    running, _ = given([lost_in_an_answer])
    with running as address, pytest.raises(http.client.IncompleteRead):
        asked(address, "/v1/chat/completions", chat())


def test_key_and_size_are_checked_before_a_replica_is_asked():
    keys = []

    async def ask(passed, key):
        keys.append(key)
        yield [START, piece(b"", more=False)]

    settings = Settings(api_key="secret", limits=Limits(max_body_bytes=1000))
    with page_server.serving(make_door(ask, settings)) as address:
        assert asked(address, "/v1/models")[0] == 401
        assert asked(address, "/v1/chat/completions", b"x" * 1001, Authorization="Bearer secret")[0] == 413
        assert keys == []
        assert asked(address, "/v1/models", Authorization="Bearer secret")[0] == 200
        assert keys == [None]


def test_the_same_medium_has_the_same_key():
    other = json.dumps({"messages": [{"content": "a"}, {"content": QUESTION[::-1]}], "model": "b"}, indent=1).encode()
    assert medium_key(chat()) == medium_key(other)
    sound = base64.b64encode(b"RIFF" * 100).decode()
    heard = json.dumps({"content": [{"type": "input_audio", "input_audio": {"format": "wav", "data": sound}}]}).encode()
    assert medium_key(heard) not in (None, medium_key(chat()))
    assert medium_key(json.dumps({"content": "what is the weather?"}).encode()) is None
    said = json.dumps({"content": f'he wrote "url": "{URL}" and left'}).encode()
    assert medium_key(said) is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--replicas", "2"], "--replicas is for --ray"),
        (["--ray", "--port", "0"], "--port 0"),
        (["--ray", "--replicas", "3", "--max-replicas", "2"], "not 3 of 2"),
        (["--ray", "--replica-cpus", "0"], "--replica-cpus must be above 0"),
        (["--ray"], "pip install 'mmlm[ray,serve]'"),
    ],
)
def test_wrong_arguments_are_one_line(given, told, capsys):
    if "pip" in told and importlib.util.find_spec("ray") is not None:
        pytest.skip("Ray is installed")
    assert main(["serve", "nano", *given]) != 0
    error = capsys.readouterr().err
    assert told in error and len(error.splitlines()) == 1
