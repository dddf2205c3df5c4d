"""OpenAI's dialect over a real socket, driven by the official Python client, beside the library's own answers."""

import asyncio
import base64
import contextlib
import dataclasses
import http.client
import io
import json
import re
import socket
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import openai
import pydantic
import pytest
import soundfile
import torch
from PIL import Image, ImageDraw

import mmlm
from encoders.media.sound import Audio, load_audio
from encoders.transcription.transcript import Transcription
from mmlm.generation.answer_text import AnswerText
from mmlm.generation.log_probs import example_of
from mmlm.generation.sampler import never_written
from mmlm.serving.clients import EventStream
from mmlm.serving.dialect.chat_request import ChatRequest
from mmlm.serving.dialect.speech import encoded
from mmlm.serving.options import EngineOptions
from mmlm.serving.settings import Limits
from support.serving import serving, until

SCENE = "in the middle a large red circle, on a white background"
OTHER = "on the left a large green star, on a black background"
ROOT = Path(__file__).parents[1]
WAV = ROOT / "demos/questions/shapes.wav"


def png(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def picture_part(data: bytes) -> dict:
    return {"type": "image_url", "image_url": {"url": url(data)}}


def sound_part(data: bytes) -> dict:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": "wav"}}


def question(data: bytes, text: str = "what color is the circle?") -> list[dict]:
    return [{"role": "user", "content": [picture_part(data), {"type": "text", "text": text}]}]


def drawn(color: str) -> bytes:
    picture = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(picture).ellipse((16, 16, 48, 48), fill=color)
    return png(picture)


@pytest.fixture(scope="module")
def circle() -> bytes:
    return drawn("red")


@pytest.fixture(scope="module")
def recording() -> bytes:
    with open(WAV, "rb") as file:
        return file.read()


@pytest.fixture
def endless(monkeypatch):
    """Chats write many tokens, whatever the model would do."""
    own = ChatRequest.options

    def options(self, most):
        return dataclasses.replace(own(self, most), min_new_tokens=1500, max_new_tokens=1500)

    monkeypatch.setattr(ChatRequest, "options", options)


# ---- chat


def test_an_answer_is_the_librarys(client, nano, circle):
    found = client.chat.completions.create(model="nano", messages=question(circle))
    expected = nano.chat([{"role": "user", "content": [mmlm.Image(circle), "what color is the circle?"]}], details=True)
    assert found.choices[0].message.content == expected.answer.strip() == "red"
    assert found.choices[0].finish_reason == "stop"
    prompt = nano.chat_prompt([{"role": "user", "content": [mmlm.Image(circle), "what color is the circle?"]}])
    assert found.usage.prompt_tokens == len(nano.processor.encode(prompt).input_ids)
    assert found.usage.completion_tokens == len(expected.token_ids)
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens


def test_what_is_asked_again_is_not_read_again(client, circle):
    asked = question(circle, "what color is the large round thing in the middle of this picture of one shape?")
    first, again = (client.chat.completions.create(model="nano", messages=asked) for _ in range(2))
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1 > 16
    other = client.chat.completions.create(
        model="nano", messages=question(drawn("blue"), asked[0]["content"][1]["text"])
    )
    assert other.usage.prompt_tokens_details.cached_tokens == 0
    assert first.choices == again.choices


def test_several_turns_and_pictures(client, nano, circle):
    other = drawn("blue")
    turns = [*question(circle), {"role": "assistant", "content": "red"}, *question(other)]
    own = [
        {"role": "user", "content": [mmlm.Image(circle), "what color is the circle?"]},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": [mmlm.Image(other), "what color is the circle?"]},
    ]
    found = client.chat.completions.create(model="nano", messages=turns, max_completion_tokens=5)
    assert found.choices[0].message.content == nano.chat(own, max_new_tokens=5)


@pytest.mark.parametrize("mode", ["transcript", "features", "both"])
def test_recordings_are_heard_as_the_library_hears_them(client, nano, recording, mode):
    messages = [{"role": "user", "content": [sound_part(recording)]}]
    found = client.chat.completions.create(model="nano", messages=messages, extra_body={"mode": mode})
    expected = nano.chat([{"role": "user", "content": [mmlm.Sound(recording)]}], mode=mode)
    assert found.choices[0].message.content == expected


@pytest.mark.parametrize("stop", [None, ["e", "zz"]])
def test_a_stream_joins_to_the_whole_answer_of_a_seed(client, circle, stop):
    asked = dict(
        model="nano", messages=question(circle), temperature=1.5, seed=7, n=3, max_tokens=12, logprobs=True,
        extra_body={"stop": stop},
    )  # fmt: skip
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    *pieces, last = chunks
    assert last.choices == [] and last.usage == whole.usage
    assert all(piece.usage is None for piece in pieces)
    for choice in whole.choices:
        own = [piece.choices[0] for piece in pieces if piece.choices[0].index == choice.index]
        assert own[0].delta.role == "assistant"
        assert "".join(one.delta.content or "" for one in own) == choice.message.content
        assert [one.finish_reason for one in own] == [None] * (len(own) - 1) + [choice.finish_reason]
        written = [token for one in own if one.logprobs for token in one.logprobs.content]
        assert [token.logprob for token in written] == [token.logprob for token in choice.logprobs.content]
    if stop:
        assert not any("e" in choice.message.content for choice in whole.choices)


def test_a_stream_ends_with_done(server, circle):
    body = json.dumps({"model": "nano", "messages": question(circle), "stream": True})
    link = http.client.HTTPConnection("127.0.0.1", server.port)
    link.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    answer = link.getresponse()
    assert answer.headers["Content-Type"].startswith("text/event-stream") and answer.headers["x-request-id"]
    lines = [line for line in answer.read().decode().split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"


def test_log_probabilities_are_the_models(client, nano, circle):
    found = client.chat.completions.create(model="nano", messages=question(circle), logprobs=True)
    prompt = nano.chat_prompt([{"role": "user", "content": [mmlm.Image(circle), "what color is the circle?"]}])
    tokens = found.choices[0].logprobs.content
    (expected,) = nano.log_probs([prompt], ["".join(token.token for token in tokens)])
    assert [token.logprob for token in tokens] == pytest.approx(expected[: len(tokens)].tolist(), abs=1e-4)
    assert all(bytes(token.bytes).decode() == token.token for token in tokens)


@pytest.mark.parametrize("sampled", [{}, dict(temperature=1.5, seed=3)])
def test_the_most_likely_tokens_are_those_of_one_pass_over_the_answer(client, nano, circle, sampled):
    asked = dict(model="nano", messages=question(circle), logprobs=True, top_logprobs=5, max_tokens=6, **sampled)
    tokens = client.chat.completions.create(**asked).choices[0].logprobs.content
    chunks = client.chat.completions.create(**asked, stream=True)
    streamed = [one for piece in chunks for own in piece.choices if own.logprobs for one in own.logprobs.content]
    assert streamed == tokens and len(tokens) > 0
    options = dict(max_new_tokens=6, top_log_probs=5, do_sample=bool(sampled), **sampled)
    prompt = nano.chat_prompt([{"role": "user", "content": [mmlm.Image(circle), "what color is the circle?"]}])
    result = nano.generate(prompt, **options)
    example = example_of(nano, prompt, result)
    with torch.no_grad():
        logits = nano(nano.processor.collate([example], padding_side="left"), [example.media]).logits  # of the answer
    plain = logits.double().log_softmax(-1)
    plain[:, never_written(nano.language_model.vocabulary)] = -torch.inf
    for top, row in zip(result.top_log_probs, plain, strict=True):
        values, ids = row.topk(5)
        assert [i for i, _ in top] == ids.tolist()
        assert [value for _, value in top] == pytest.approx(values.tolist(), abs=1e-4)
    for token, top in zip(tokens, result.top_log_probs, strict=False):
        assert [one.logprob for one in token.top_logprobs] == pytest.approx([value for _, value in top], abs=1e-4)
        assert all(one.token for one in token.top_logprobs)


def test_many_at_once_by_the_asynchronous_client(server, circle):
    async def ask() -> list:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            whole = [client.chat.completions.create(model="nano", messages=question(circle)) for _ in range(6)]
            stream = await client.chat.completions.create(model="nano", messages=question(circle), stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return ["".join(pieces), *(one.choices[0].message.content for one in await asyncio.gather(*whole))]

    assert asyncio.run(ask()) == ["red"] * 7


def test_the_answer_after_thinking_whatever_the_pieces():
    texts = {
        " red ": ("", "red"), "<think>hm</think> a  b\n": ("hm", "a  b"), "<thin": ("", "<thin"),
        "<think>never </thi": ("never </thi", ""), "hm</think>\nyes": ("hm", "yes"), "": ("", ""),
        "a <think> b": ("", "a <think> b"), " <think>\n a\n b \n</think>\n\nc": ("a\n b", "c"),
    }  # fmt: skip
    for text, expected in texts.items():
        for width in range(1, len(text) + 2):
            taken, thought, answer = AnswerText(begun=text.startswith("hm")), "", ""
            for at in range(0, len(text), width):
                answer += taken.push(text[at : at + width])
                thought += taken.thought
            answer += taken.rest()
            assert (thought + taken.thought, answer) == expected, (text, width)


# ---- what cannot be done


WRONG = {
    "a model that is not here": (dict(model="other"), 404, "model", "other"),
    "no messages": (dict(messages=[]), 400, "messages", "messages"),
    "an unknown field": (dict(extra_body={"temprature": 1}), 400, "temprature", "temperature"),
    "too hot": (dict(temperature=3), 400, "temperature", "temperature"),
    "functions": (dict(extra_body={"functions": [{"name": "f"}]}), 400, "functions", "not supported"),
    "a schema that cannot be kept": (
        dict(response_format={"type": "json_schema", "json_schema": {
            "name": "x", "schema": {"type": "number", "additionalItems": 0}}}),
        400, "response_format", "additionalItems",
    ),
    "a schema beside tools": (
        dict(response_format={"type": "json_object"}, tools=[{"type": "function", "function": {"name": "f"}}]),
        400, "response_format", "leave one out",
    ),
    "top log-probabilities alone": (dict(top_logprobs=2), 400, "top_logprobs", "logprobs=true"),
    "too many of them": (dict(logprobs=True, top_logprobs=21), 400, "top_logprobs", "20"),
    "five stops": (dict(stop=list("abcde")), 400, "stop", "4"),
    "stream options alone": (dict(stream_options={"include_usage": True}), 400, "stream_options", "stream"),
    "too many rows": (dict(n=1000), 400, None, "rows"),
    "the same n times": (dict(n=2, temperature=0), 400, "n", "temperature"),
    "more than there are positions": (dict(max_tokens=100_000), 400, None, "2048"),
    "an unknown role": (dict(messages=[{"role": "king", "content": "x"}]), 400, "messages", "role"),
    "an unknown part": (
        dict(messages=[{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]}]),
        400, "messages[0].content[0]", "image_url",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_told(client, name, stream):
    changed, status, param, word = WRONG[name]
    asked = {"model": "nano", "messages": [{"role": "user", "content": "hello"}], **changed}
    if stream and "stream_options" not in changed:
        asked["stream"] = True
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**asked)
    assert caught.value.status_code == status
    assert caught.value.body["param"] == param and word in caught.value.body["message"]
    assert caught.value.body["type"] == "invalid_request_error"


class Shape(pydantic.BaseModel):
    """What a picture shows."""

    model_config = pydantic.ConfigDict(extra="forbid")
    color: Literal["red", "blue"]
    count: Annotated[int, pydantic.Field(ge=0, le=9)]


def test_an_answer_is_the_object_of_a_schema(client, circle):
    asked = dict(model="nano", messages=question(circle), max_completion_tokens=40)
    found = client.chat.completions.parse(**asked, response_format=Shape).choices[0].message
    assert isinstance(found.parsed, Shape) and json.loads(found.content) == found.parsed.model_dump()
    schema = {"type": "json_schema", "json_schema": {"name": "shape", "schema": Shape.model_json_schema()}}
    stream = client.chat.completions.create(**asked, response_format=schema, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == found.content
    free = client.chat.completions.create(**asked, response_format={"type": "json_object"})
    assert isinstance(json.loads(free.choices[0].message.content), dict)


def test_fields_without_effect_are_taken(client, circle):
    found = client.chat.completions.create(
        model="nano", messages=question(circle), user="me", store=False, metadata={"a": "b"}, tools=[], top_logprobs=0,
        frequency_penalty=0, response_format={"type": "text"}, tool_choice="auto", modalities=["text"],
    )  # fmt: skip
    assert found.choices[0].message.content == "red"


def test_an_error_within_a_stream(nano, circle, endless):
    with serving({"nano": lambda: nano}) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(model="nano", messages=question(circle), stream=True)
        with pytest.raises(openai.APIError, match="closing"):
            for count, _ in enumerate(stream):
                if count == 3:
                    server.models.loaded()[0].engine.close()


def test_who_comes_when_all_is_full_is_told_when_to_come_again(nano, circle, endless):
    with serving({"nano": lambda: nano}, options=EngineOptions(max_rows=1, max_waiting=1)) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        asked = dict(model="nano", messages=question(circle), stream=True)
        running = client.chat.completions.create(**asked)
        next(iter(running))
        engine = server.models.loaded()[0].engine
        waiting = engine.submit(nano.chat_prompt([{"role": "user", "content": "hello"}]))
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**asked)
        assert int(caught.value.response.headers["Retry-After"]) >= 1
        waiting.cancel()
        running.close()
        until(lambda: engine.running == engine.waiting == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place(server, client, circle, endless, stream):
    client.models.list()
    asked = json.dumps({"model": "nano", "messages": question(circle), "stream": stream})
    link = http.client.HTTPConnection("127.0.0.1", server.port)
    link.request("POST", "/v1/chat/completions", asked, {"Content-Type": "application/json"})
    sock = link.sock
    until(lambda: server.models.loaded() and server.models.loaded()[0].engine.running)
    engine = server.models.loaded()[0].engine
    if stream:
        link.getresponse().read(100)
    finished = engine.counts.finished
    sock.shutdown(socket.SHUT_RDWR)
    until(lambda: engine.running == 0)
    assert engine.counts.finished == finished


def test_a_stream_whose_client_left_before_it_began_is_closed():
    closed = []

    async def events():
        yield {"a": 1}

    async def gone():
        return {"type": "http.disconnect"}

    async def send(_):
        await asyncio.sleep(0)

    async def run() -> None:
        stack = contextlib.AsyncExitStack()
        stack.callback(closed.append, True)
        await EventStream(events(), stack)({}, gone, send)

    asyncio.run(run())
    assert closed == [True]


def test_a_client_that_leaves_ends_its_transcription(server, client, recording, monkeypatch):
    from encoders.transcription.transcriber import Transcriber

    begun, ended = threading.Event(), threading.Event()

    def stream(self, source, **_):
        def turns():
            try:
                while True:
                    begun.set()
                    time.sleep(0.01)
                    yield None
            finally:
                ended.set()

        return Transcription(iter(()), "en", turns=turns())

    monkeypatch.setattr(Transcriber, "stream", stream)
    form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nnano\r\n--b\r\n'
    form += b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + recording + b"\r\n--b--\r\n"
    spoken = {"model": "nano", "messages": [{"role": "user", "content": [sound_part(recording)]}]}
    for path, body, kind in (
        ("/v1/audio/transcriptions", form, "multipart/form-data; boundary=b"),
        ("/v1/chat/completions", json.dumps(spoken).encode(), "application/json"),
    ):
        begun.clear(), ended.clear()
        link = http.client.HTTPConnection("127.0.0.1", server.port)
        link.request("POST", path, body, {"Content-Type": kind})
        assert begun.wait(30)
        link.sock.shutdown(socket.SHUT_RDWR)
        assert ended.wait(30), path


# ---- transcriptions


def test_a_transcript_in_every_format(client, nano, recording):
    said = nano.transcribe(recording, word_timestamps=True)

    def asked(**options):
        return client.audio.transcriptions.create(model="nano", file=("a.wav", recording), **options)

    assert asked().text == said.text == "how many shapes are in the picture?"
    assert asked(response_format="text").strip() == said.text
    subtitles = asked(response_format="srt")
    assert subtitles.startswith("1\n00:00:00,000 --> 00:00:0") and said.text in subtitles
    assert asked(response_format="vtt").startswith("WEBVTT\n")
    found = asked(response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert (found.language, found.text) == ("english", said.text) and found.duration == pytest.approx(said.seconds)
    assert [(one.start, one.end, one.text) for one in found.segments] == [
        (one.start, one.end, one.text) for one in said.segments
    ]
    words = [word for segment in said.segments for word in segment.words]
    assert [(one.word, one.start, one.end) for one in found.words] == [
        (word.word.strip(), word.start, word.end) for word in words
    ]
    assert asked(response_format="verbose_json").words is None
    assert (
        asked(language="en", prompt="shapes", temperature=0).text
        == nano.transcribe(recording, language="en", prompt="shapes").text
    )


def test_a_transcript_as_a_stream(client, nano, recording):
    stream = client.audio.transcriptions.create(model="nano", file=("a.wav", recording), stream=True)
    *deltas, done = list(stream)
    assert {one.type for one in deltas} == {"transcript.text.delta"} and done.type == "transcript.text.done"
    assert "".join(one.delta for one in deltas) == done.text == nano.transcribe(recording).text


def test_recordings_that_come_together_are_each_written_down_as_alone(client, nano, recording, circle):
    expected = nano.transcribe(recording, word_timestamps=True)
    answer = client.chat.completions.create(model="nano", messages=question(circle))

    def verbose(_):
        return client.audio.transcriptions.create(
            model="nano", file=("a.wav", recording), response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )  # fmt: skip

    def heard(_):
        messages = [{"role": "user", "content": [*question(circle)[0]["content"], sound_part(recording)]}]
        return client.chat.completions.create(model="nano", messages=messages).choices[0].message.content

    with ThreadPoolExecutor(9) as pool:
        transcripts, chats = pool.map(verbose, range(4)), pool.map(heard, range(4))
        beside = pool.submit(client.chat.completions.create, model="nano", messages=question(circle))
        said = [
            ([(one.start, one.end, one.text) for one in found.segments], [(one.start, one.end) for one in found.words])
            for found in transcripts
        ]
        assert beside.result().choices[0].message.content == answer.choices[0].message.content
        assert len(set(chats)) == 1
    assert said == 4 * [(
        [(one.start, one.end, one.text) for one in expected.segments],
        [(word.start, word.end) for one in expected.segments for word in one.words],
    )]  # fmt: skip
    figures = urllib.request.urlopen(str(client.base_url).replace("/v1/", "/metrics")).read().decode()
    assert re.search(r'^mmlm_windows_total\{model="nano"\} [1-9]', figures, re.MULTILINE)
    assert re.search(r'^mmlm_first_window_seconds_count\{model="nano"\} [1-9]', figures, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"response_format": "srt", "stream": True}, "response_format"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities"),
        ({"language": "klingon"}, None),
        ({"extra_body": {"langauge": "en"}}, "langauge"),
        ({"file": ("a.wav", b"no sound")}, "file"),
        ({"include": ["logprobs"]}, "include"),
    ],
)
def test_what_is_wrong_with_a_transcription(client, recording, options, param):
    asked = {"model": "nano", "file": ("a.wav", recording), **options}
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(**asked)
    assert caught.value.body["param"] == param


# ---- pictures, speech, embeddings


def opened(image) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(image.b64_json)))


def test_pictures_are_the_librarys(client, nano):
    found = client.images.generate(model="nano", prompt=SCENE, n=2, size="128x128", extra_body={"seed": 3})
    expected = nano.draw(SCENE, 2, seed=3)
    assert [opened(one).tobytes() for one in found.data] == [one.tobytes() for one in expected]
    assert (found.output_format, found.size) == ("png", "128x128")


def test_what_a_mask_makes_transparent_is_drawn_anew(client, nano, circle):
    alpha = np.full((64, 64, 4), 255, np.uint8)
    alpha[:, 32:, 3] = 0
    anew = alpha[:, :, 3] == 0
    expected = np.asarray(nano.draw(OTHER, init_image=circle, mask=anew, seed=4), int)
    asked = dict(model="nano", prompt=OTHER, mask=("m.png", png(Image.fromarray(alpha))), extra_body={"seed": 4})
    found = opened(client.images.edit(image=("a.png", circle), **asked).data[0])
    assert found.format == "PNG" and (np.asarray(found) == expected).all()
    asked |= {"output_format": "webp", "output_compression": 95}
    found = opened(client.images.edit(image=[("a.png", circle)], **asked).data[0])  # which is sent as image[]
    assert found.format == "WEBP" and np.abs(np.asarray(found) - expected).mean() < 10


def test_speech_is_the_librarys(client, nano):
    said = nano.speak("seven", seed=1)
    asked = dict(model="nano", input="seven", voice="alloy", response_format="wav", extra_body={"seed": 1})
    samples, rate = soundfile.read(io.BytesIO(client.audio.speech.create(**asked).content), dtype="float32")
    assert rate == said.sample_rate and np.abs(samples - said.waveform).max() <= 1 / 32767


@pytest.mark.parametrize("form", ["wav", "flac", "mp3", "opus", "aac", "pcm"])
def test_a_sound_survives_every_format(form):
    wave = np.sin(np.arange(12_000) * 2 * np.pi * 440 / 8000).astype(np.float32) / 2
    data = encoded(Audio(wave, 8000), form)
    if form == "pcm":
        samples, rate = np.frombuffer(data, "<i2").astype(np.float32) / 32768, 24_000
    else:
        found = load_audio(data)
        samples, rate = found.waveform, found.sample_rate
    assert len(samples) / rate == pytest.approx(1.5, abs=0.15)
    assert np.argmax(np.abs(np.fft.rfft(samples))) * rate / len(samples) == pytest.approx(440, abs=2)


def test_embeddings_of_texts_and_pictures(client, nano, circle):
    encoder = nano.encoders["image"]
    texts = ["a red circle", "a green star"]
    found = client.embeddings.create(model="nano", input=[*texts, picture_part(circle)])
    expected = [*encoder.embed_texts(texts), encoder.embed_images(encoder.preprocess(circle)[None])[0]]
    for index, one in enumerate(found.data):
        assert one.index == index and one.embedding == pytest.approx(expected[index].tolist(), abs=1e-5)
    plain = client.embeddings.create(model="nano", input="a red circle", encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(expected[0].tolist(), abs=1e-5)
    assert plain.usage.prompt_tokens == 3  # a word each, whatever the context is filled up with


MEDIA_WRONG = {
    "a size that is none": lambda c: c.images.generate(model="nano", prompt="x", size="1024x1024"),
    "an address": lambda c: c.images.generate(model="nano", prompt="x", response_format="url"),
    "a stream of several pictures": lambda c: c.images.generate(model="nano", prompt="x", n=2, stream=True),
    "previews without a stream": lambda c: c.images.generate(model="nano", prompt="x", partial_images=1),
    "four previews": lambda c: c.images.generate(model="nano", prompt="x", partial_images=4, stream=True),
    "a faster voice": lambda c: c.audio.speech.create(model="nano", input="x", voice="alloy", speed=2.0),
    "other dimensions": lambda c: c.embeddings.create(model="nano", input="x", dimensions=7),
    "tokens": lambda c: c.embeddings.create(model="nano", input=[1, 2]),
    "no picture": lambda c: c.images.edit(model="nano", image=("a.png", b"none"), prompt="x"),
}


@pytest.mark.parametrize("name", MEDIA_WRONG)
def test_what_is_wrong_with_media_is_told(client, name):
    with pytest.raises(openai.BadRequestError) as caught:
        MEDIA_WRONG[name](client)
    assert caught.value.body["param"]


@pytest.fixture(scope="module")
def deaf(nano_folder):
    """A client of a model that only sees, and writes texts alone."""
    model = mmlm.assemble(nano_folder / "language_model", nano_folder / "image_encoder")
    with serving({"deaf": lambda: model}) as server:
        yield openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


LACKING = {
    "audio encoder": lambda c, wav: c.chat.completions.create(
        model="deaf", messages=[{"role": "user", "content": [sound_part(wav)]}]
    ),
    "Whisper": lambda c, wav: c.audio.transcriptions.create(model="deaf", file=("a.wav", wav)),
    "image codec": lambda c, wav: c.images.generate(model="deaf", prompt="x"),
    "audio codec": lambda c, wav: c.audio.speech.create(model="deaf", input="x", voice="alloy"),
}


@pytest.mark.parametrize("part", LACKING)
def test_what_a_model_cannot_do_names_the_part_that_it_lacks(deaf, recording, part):
    with pytest.raises(openai.BadRequestError, match=f"no {part}"):
        LACKING[part](deaf, recording)


# ---- the server


def test_models_health_and_figures(server, client, circle):
    client.chat.completions.create(model="nano", messages=question(circle))
    (listed,) = client.models.list()
    assert listed.id == "nano" and listed.object == "model" and client.models.retrieve("nano") == listed
    assert set(listed.architecture["input_modalities"]) == {"text", "image", "audio"}
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    link = http.client.HTTPConnection("127.0.0.1", server.port)
    link.request("GET", "/health")
    assert json.loads(link.getresponse().read()) == {"status": "ok"}
    link.request("GET", "/metrics")
    figures = dict(
        line.rsplit(" ", 1) for line in link.getresponse().read().decode().splitlines() if not line.startswith("#")
    )
    counts = server.models.loaded()[0].engine.counts
    for name in ("requests", "finished", "failed", "generated_tokens"):
        assert float(figures[f'mmlm_{name}_total{{model="nano"}}']) == getattr(counts, name)
    assert float(figures['mmlm_http_requests_total{path="/v1/chat/completions",status="200"}']) > 0
    assert float(figures['mmlm_first_token_seconds_count{model="nano"}']) > 0


def test_models_are_loaded_by_use_and_unloaded_for_others(nano):
    loads = []

    def loader(name):
        return lambda: loads.append(name) or nano

    hello = [{"role": "user", "content": "hello"}]
    with serving({name: loader(name) for name in "abc"}, max_loaded=1, idle_seconds=0.5) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        assert loads == [] and [one.id for one in client.models.list()] == ["a", "b", "c"]
        for name in "aabba":
            client.chat.completions.create(model=name, messages=hello, max_tokens=2)
        assert loads == ["a", "b", "a"] and [one.name for one in server.models.loaded()] == ["a"]
        until(lambda: server.models.loaded() == [])
        client.chat.completions.create(model="a", messages=hello, max_tokens=2)
        assert loads == ["a", "b", "a", "a"]


def test_a_model_that_cannot_be_loaded_says_nothing_of_the_server(nano):
    def broken():
        raise FileNotFoundError("/secret/place: no such file")

    with serving({"broken": broken, "nano": lambda: nano}) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        for _ in range(2):
            with pytest.raises(openai.InternalServerError) as caught:
                client.chat.completions.create(model="broken", messages=[{"role": "user", "content": "hello"}])
            assert caught.value.status_code == 503 and "secret" not in str(caught.value)
        assert client.chat.completions.create(
            model="nano", messages=[{"role": "user", "content": "hello"}], max_tokens=2
        )


# ---- its page of the documentation


def test_the_examples_of_the_documentation_run(server, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    names: dict = {}
    for code in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        exec(code.replace("http://127.0.0.1:8000", server.url), names)
    assert names["answer"].choices[0].message.content and names["said"].text == "how many shapes are in the picture?"
    assert Image.open(io.BytesIO(names["picture"])).size == (128, 128) and names["sound"].startswith(b"RIFF")


def test_every_limit_of_the_documentation_is_the_codes():
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    limits, options = Limits(), EngineOptions()
    for text in (
        f"{limits.max_body_bytes // 10**6} MB", f"{limits.max_held_bytes // 10**9} GB", f"| {limits.max_media} |",
        f"{limits.max_pixels // 10**6} million", f"{limits.max_seconds:,.0f} together", f"{limits.timeout:.0f} s",
        f"| {options.max_rows}; {options.max_recordings}; {options.max_waiting} |",
    ):  # fmt: skip
        assert text in page, text
