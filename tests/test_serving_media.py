"""Answers of a chat with sound and pictures, and previews of drawings, beside what the library gives."""

import asyncio
import base64
import http.client
import io
import json
import socket
import threading

import numpy as np
import openai
import pytest
import soundfile
import torch
from PIL import Image

import mmlm
from mmlm.generation.media import media_spans, render
from mmlm.generation.options import GenerationOptions
from mmlm.generation.preview import preview
from mmlm.generation.request import Writing, request
from mmlm.prompting.parts import Codes
from mmlm.serving.dialect.chat_drawn import DrawnRow
from mmlm.serving.engine import Engine
from support.serving import refused, serving, until

SEED = 5  # with which a text without a picture and one with a picture are written
SCENE = "in the middle a large red circle, on a white background"
COUNT = [{"role": "user", "content": "what color is the circle?"}]
DRAW = [{"role": "user", "content": SCENE}]
WAV = {"modalities": ["text", "audio"], "audio": {"format": "wav"}}
PCM = {"modalities": ["text", "audio"], "audio": {"format": "pcm16", "voice": "alloy"}}


@pytest.fixture(scope="module")
def drawn(client):
    """An answer that is a picture."""
    return client.chat.completions.create(model="nano", messages=DRAW, seed=3, modalities=["image"])


def picture_of(item: dict) -> np.ndarray:
    head, data = item["image_url"]["url"].split(",")
    assert item["type"] == "image_url" and head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), int)


def opened(data: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), int)


# ---- sound


@pytest.mark.parametrize("temperature", [None, 0.5])
def test_a_spoken_answer_is_the_answer_said_by_the_library(client, nano, temperature):
    warm = {} if temperature is None else {"temperature": temperature}
    sampled = {"do_sample": True, "seed": 1, **warm} if warm else {}
    expected = nano.chat(COUNT, details=True, **sampled)
    said = nano.speak(expected.answer, seed=1, details=True, **warm)
    found = client.chat.completions.create(model="nano", messages=COUNT, seed=1, **warm, **WAV)
    message = found.choices[0].message
    assert message.content is None and message.audio.transcript == expected.answer.strip() != ""
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(message.audio.data)), dtype="float32")
    (sound,) = said.media
    assert rate == sound.sample_rate and np.abs(samples - sound.waveform).max() <= 1 / 32767
    assert message.audio.id.startswith("audio_") and message.audio.expires_at == found.created
    assert found.usage.completion_tokens_details.audio_tokens == len(said.token_ids)
    assert found.usage.completion_tokens == len(expected.token_ids) + len(said.token_ids)


def test_a_spoken_stream_joins_to_the_whole_answer(client):
    asked = dict(model="nano", messages=COUNT, seed=3, n=2, temperature=0.7, max_tokens=6, **PCM)
    whole = client.chat.completions.create(**asked)
    *chunks, last = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    assert last.choices == [] and last.usage == whole.usage
    for choice in whole.choices:
        own = [one.choices[0] for one in chunks if one.choices[0].index == choice.index]
        sounds = [one.delta.audio for one in own if one.delta.audio is not None]
        assert not any(one.delta.content for one in own) and own[0].delta.role == "assistant"
        assert "".join(one.transcript or "" for one in sounds) == choice.message.audio.transcript
        data = b"".join(base64.b64decode(one.data) for one in sounds if one.data)
        assert data == base64.b64decode(choice.message.audio.data) and len(data) > 2400
        assert [one.id is not None for one in sounds] == [True] + [False] * (len(sounds) - 1)
        assert sounds[-1].to_dict() == {"expires_at": chunks[0].created}
        assert [one.finish_reason for one in own] == [None] * (len(own) - 1) + [choice.finish_reason]


# ---- pictures


def test_a_picture_is_what_the_library_writes_after_the_conversation(drawn, nano):
    expected = nano.generate(nano.chat_prompt(DRAW), generation_mode="image", do_sample=True, seed=3)
    message = drawn.choices[0].message
    assert message.content == "" and drawn.choices[0].finish_reason == "stop"
    (picture,) = message.images
    assert (picture_of(picture) == np.asarray(expected.media[0], int)).all()
    assert drawn.usage.completion_tokens == drawn.usage.completion_tokens_details.image_tokens == 38


def test_text_with_pictures_whole_and_as_a_stream(client, nano):
    asked = dict(model="nano", messages=COUNT, seed=SEED, max_tokens=3, n=2, modalities=["text", "image"])
    options = GenerationOptions(max_new_tokens=3, do_sample=True, seed=SEED, num_return_sequences=2)
    writing = Writing("any", media_spans(nano, "image", 1.0))
    running = request(nano, [nano.chat_prompt(COUNT)], options, writing)
    (expected,) = running.results(options.sampler(nano.device))
    found = client.chat.completions.create(**asked)
    *chunks, last = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    count = 0
    for choice, result in zip(found.choices, expected, strict=True):
        assert (choice.message.content, choice.finish_reason) == (result.answer.strip(), result.finish_reason)
        codes = [part for part in result.parts if isinstance(part, Codes)]
        images = getattr(choice.message, "images", [])
        pictures = [np.asarray(render(nano, [one], None, SEED)[0], int) for one in codes]
        assert len(images) == len(pictures)
        assert all((picture_of(one) == own).all() for one, own in zip(images, pictures, strict=True))
        deltas = [one.choices[0].delta for one in chunks if one.choices[0].index == choice.index]
        assert "".join(one.content or "" for one in deltas) == choice.message.content
        assert [item for one in deltas for item in getattr(one, "images", [])] == images
        count += len(images)
    assert count and last.usage == found.usage
    assert found.usage.completion_tokens_details.image_tokens == 38 * count


PICTURES = [{"type": "image_generation"}]


def told(response) -> list[dict]:
    """The items of a response without their ids."""
    return [{name: value for name, value in item.items() if name != "id"} for item in response.to_dict()["output"]]


def test_a_response_is_the_picture_of_a_chat_and_is_taken_back(client, drawn):
    asked = dict(model="nano", input=DRAW, tools=PICTURES, tool_choice=PICTURES[0], extra_body={"seed": 3})
    found = client.responses.create(**asked)
    (item,) = found.output
    assert (item.type, item.status, found.status) == ("image_generation_call", "completed", "completed")
    assert f"data:image/png;base64,{item.result}" == drawn.choices[0].message.images[0]["image_url"]["url"]
    assert found.usage.output_tokens == drawn.usage.completion_tokens
    events = list(client.responses.create(**asked, stream=True))
    assert [event.type.removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "image_generation_call.in_progress",
        "image_generation_call.generating", "image_generation_call.completed", "output_item.done", "completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(8))
    assert events[2].item.result is None and events[-2].item.result == item.result
    assert told(events[-1].response) == told(found)
    question = {"role": "user", "content": "what color is the circle?"}
    said = client.responses.create(model="nano", input=[*DRAW, item.to_dict(), question], max_output_tokens=4)
    earlier = {"role": "assistant", "content": "", "images": drawn.choices[0].message.images}
    chat = client.chat.completions.create(model="nano", messages=[*DRAW, earlier, question], max_tokens=4)
    assert said.output_text == chat.choices[0].message.content
    assert said.usage.input_tokens == chat.usage.prompt_tokens


def test_a_response_of_texts_and_pictures_has_them_in_the_order_of_the_chat(client):
    more = dict(model="nano", extra_body={"seed": SEED}, temperature=1.0)
    found = client.responses.create(input=COUNT, tools=PICTURES, max_output_tokens=3, **more)
    asked = dict(messages=COUNT, max_tokens=3, modalities=["text", "image"], **more)
    deltas = [chunk.choices[0].delta for chunk in client.chat.completions.create(**asked, stream=True)]
    expected = []
    for delta in deltas:
        if delta.content and (not expected or expected[-1][0] != "message"):
            expected.append(("message", ""))
        if delta.content:
            expected[-1] = ("message", expected[-1][1] + delta.content)
        for one in getattr(delta, "images", []):
            expected.append(("image_generation_call", one["image_url"]["url"].partition(",")[2]))
    assert [
        (item.type, item.content[0].text if item.type == "message" else item.result) for item in found.output
    ] == expected
    assert expected
    streamed = list(client.responses.create(input=COUNT, tools=PICTURES, max_output_tokens=3, stream=True, **more))
    assert told(streamed[-1].response) == told(found)
    none = client.responses.create(model="nano", input=COUNT, tools=PICTURES, tool_choice="none", max_output_tokens=3)
    assert [item.type for item in none.output] == ["message"]


RESPONSES = {
    "sound": (dict(extra_body={"modalities": ["text", "audio"]}), "modalities", "/v1/chat/completions"),
    "the form of sound": (dict(extra_body={"audio": {"format": "wav"}}), "audio", "/v1/chat/completions"),
    "a function beside": (
        dict(tools=[*PICTURES, {"type": "function", "name": "f", "parameters": {}}]), "tools", "stands alone",
    ),
    "another form": (dict(tools=[{**PICTURES[0], "output_format": "webp"}]), "tools", "output_format"),
    "previews": (dict(tools=[{**PICTURES[0], "partial_images": 2}]), "tools", "partial_images"),
    "a choice of nothing": (dict(tool_choice=PICTURES[0]), "tool_choice", "not among"),
    "a picture that was not kept": (
        dict(input=[{"type": "image_generation_call", "id": "ig_1"}]), "input[0].result", "not kept",
    ),
    "a picture that is none": (
        dict(input=[{"type": "image_generation_call", "result": "AAAA"}]),
        "input[0].images[0].image_url.url", "input[0]",
    ),
    "thoughts": (dict(tools=PICTURES, reasoning={"effort": "low"}), "reasoning", "pictures"),
}  # fmt: skip


@pytest.mark.parametrize("name", RESPONSES)
def test_what_a_response_cannot_hold_is_told_by_its_field(client, name):
    changed, param, word = RESPONSES[name]
    refused(client.responses.create, param, word, **{"model": "nano", "input": "a", **changed})


def test_pieces_between_pictures_join_to_the_text_around_them(nano):
    span = nano.language_model.vocabulary.spans["image"]
    pictures = [torch.randint(1024, (4, 3, 3), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    texts = [" <think> a\nred ", "box </think> one é", " and\n", "   more "]
    ids = [nano.processor.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    first, second = (span.to_ids(codes) for codes in pictures)
    row, thought, said, found = DrawnRow(nano, nano.language_model.stop_ids, begun=False), "", "", []
    for token in [*ids[0], *first, *ids[1], *ids[2], *second, *ids[3], nano.language_model.stop_ids[0]]:
        for delta in row.push(token):
            thought, said = thought + delta.get("reasoning_content", ""), said + delta.get("content", "")
        found += [] if row.codes is None else [row.codes.codes]
    said += "".join(delta.get("content", "") for delta in row.rest())
    assert [(one == own).all() for one, own in zip(found, pictures, strict=True)] == [True, True]
    assert (thought, said, row.pictures) == ("a\nred box", "one é and\n   more", 2)


# ---- both


def test_an_answer_is_sent_back_as_it_came(client, nano, drawn):
    spoken = client.chat.completions.create(model="nano", messages=COUNT, seed=1, **WAV).choices[0].message
    with_picture = drawn.choices[0].message
    picture = mmlm.Image(Image.fromarray(picture_of(with_picture.images[0]).astype(np.uint8)))
    for earlier, content in ((spoken, [spoken.audio.transcript]), (with_picture, [picture])):
        found = client.chat.completions.create(model="nano", messages=[*COUNT, earlier, *COUNT], max_tokens=4)
        own = [*COUNT, {"role": "assistant", "content": content}, *COUNT]
        assert found.choices[0].message.content == nano.chat(own, max_new_tokens=4).strip()
        assert found.usage.prompt_tokens == len(nano.processor.encode(nano.chat_prompt(own)).input_ids)


def test_beside_others_an_answer_is_what_it_is_alone(server, client, drawn):
    spoken = [dict(messages=COUNT, seed=seed, **WAV) for seed in (1, 2)]
    kinds = [*spoken, dict(messages=COUNT), dict(messages=DRAW, seed=3, modalities=["image"])]

    def told(found) -> tuple:
        message = found.choices[0].message.to_dict()
        audio = message.pop("audio", None)
        return message, None if audio is None else (audio["data"], audio["transcript"]), found.usage.completion_tokens

    async def at_once() -> list:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as several:
            return await asyncio.gather(*(several.chat.completions.create(model="nano", **one) for one in kinds))

    alone = [told(client.chat.completions.create(model="nano", **one)) for one in kinds[:-1]]
    assert [told(one) for one in asyncio.run(at_once())] == [*alone, told(drawn)]


@pytest.mark.parametrize("asked", [{**PCM, "max_tokens": 1}, {"modalities": ["image"]}])
def test_who_leaves_frees_the_place_of_the_medium(server, client, monkeypatch, asked):
    client.chat.completions.create(model="nano", messages=COUNT, max_tokens=1)
    engine = server.models.loaded()[0].engine
    step, submit, writing = Engine._step, Engine.submit, []

    def slow(self) -> None:
        pause.wait(0.02)
        step(self)

    def noted(self, prompt, options=None, own=None, **keywords):
        ticket = submit(self, prompt, options, own, **keywords)
        writing.extend([ticket] if own is not None else [])
        return ticket

    pause = threading.Event()
    monkeypatch.setattr(Engine, "_step", slow)
    monkeypatch.setattr(Engine, "submit", noted)
    link = http.client.HTTPConnection("127.0.0.1", server.port)
    body = {"model": "nano", "messages": COUNT, "stream": True, "seed": 1, **asked}
    link.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    sock = link.sock
    until(lambda: writing and writing[0].times.first_token)
    cancelled = engine.counts.cancelled
    sock.shutdown(socket.SHUT_RDWR)
    until(lambda: engine.running == 0 and engine.counts.cancelled == cancelled + 1)


WRONG = {
    "a voice of one's own": ({**WAV, "audio": {"format": "wav", "voice": {"id": "voice_1"}}}, "audio", "voice"),
    "a format": ({**WAV, "audio": {"format": "midi"}}, "audio", "pcm16"),
    "a stream of wav": ({**WAV, "stream": True}, "audio", "pcm16"),
    "sound without its form": ({"modalities": ["text", "audio"]}, "audio", "format"),
    "the form without sound": ({"audio": {"format": "wav"}}, "audio", "modalities"),
    "more of a sound": ({**WAV, "audio": {"format": "wav", "speed": 2}}, "audio", "speed"),
    "smell": ({"modalities": ["text", "smell"]}, "modalities", "smell"),
    "nothing": ({"modalities": []}, "modalities", "text and audio"),
    "sound and pictures": ({"modalities": ["text", "audio", "image"]}, "modalities", "text and image"),
    "steps of text": ({"extra_body": {"steps": 2}}, "steps", "modalities"),
    "seconds of pictures": ({"modalities": ["image"], "extra_body": {"max_seconds": 2}}, "max_seconds", "sound"),
    "steps without a decoder": ({**WAV, "extra_body": {"steps": 2}}, None, "diffusion"),
    "a schema said aloud": ({**WAV, "response_format": {"type": "json_object"}}, "response_format", "text"),
    "tools beside pictures": (
        {"modalities": ["image"], "tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "pictures",
    ),
    "stops beside pictures": ({"modalities": ["image"], "stop": "x"}, "stop", "pictures"),
    "thoughts beside pictures": ({"modalities": ["image"], "reasoning_effort": "low"}, "reasoning_effort", "pictures"),
    "a sound that was said": (
        {"messages": [*COUNT, {"role": "assistant", "audio": {"id": "audio_1"}}, *COUNT]}, "messages[1].audio",
        "transcript",
    ),
    "no picture among the drawn": (
        {"messages": [*COUNT, {"role": "assistant", "content": "", "images": [{"type": "text"}]}, *COUNT]},
        "messages[1].images[0]", "image_url",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told(client, name):
    changed, param, word = WRONG[name]
    refused(client.chat.completions.create, param, word, **{"model": "nano", "messages": COUNT, **changed})


@pytest.mark.parametrize(("part", "asked"), [("audio codec", WAV), ("image codec", {"modalities": ["image"]})])
def test_a_model_without_the_codec_says_so(nano_folder, part, asked):
    model = mmlm.assemble(nano_folder / "language_model", nano_folder / "image_encoder")
    with serving({"plain": lambda: model}) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.BadRequestError, match=f"no {part}"):
            client.chat.completions.create(model="plain", messages=COUNT, **asked)


# ---- previews


def test_previews_show_what_is_drawn_so_far(client, nano):
    asked = dict(model="nano", prompt=SCENE, stream=True, partial_images=3, output_format="png")
    *partial, last = client.images.generate(**asked, extra_body={"seed": 3})
    assert [one.type for one in partial] == ["image_generation.partial_image"] * 3
    assert [one.partial_image_index for one in partial] == [0, 1, 2]
    assert last.type == "image_generation.completed" and last.usage.output_tokens == 38
    whole, expected = opened(last.b64_json), nano.draw(SCENE, seed=3, details=True)
    assert (whole == np.asarray(expected.media[0], int)).all()
    plain = np.asarray(nano.draw(SCENE, seed=3, steps=0), int)  # as previews are decoded
    for one, shares in zip(partial, (0.25, 0.5, 0.75), strict=True):
        shown, there = opened(one.b64_json), int(9 * shares)  # places that are written, in reading order
        assert (one.size, one.output_format) == ("128x128", "png")
        for place in range(9):
            top, left = (43 * place for place in divmod(place, 3))
            cell = np.s_[top + 4 : top + 38, left + 4 : left + 38]
            assert (shown[cell] == (plain[cell] if place < there else 128)).all(), (shares, place)
    span = nano.language_model.vocabulary.spans["image"]
    assert (np.asarray(preview(nano, span, expected.token_ids)) == plain).all()


def test_an_edit_shows_at_once_what_it_keeps(client):
    start = Image.new("RGB", (64, 64), (200, 30, 30))
    alpha = np.full((64, 64, 4), 255, np.uint8)
    alpha[:, 32:, 3] = 0
    files = {}
    for name, picture in (("image", start), ("mask", Image.fromarray(alpha))):
        data = io.BytesIO()
        picture.save(data, "PNG")
        files[name] = (f"{name}.png", data.getvalue())
    first, last = client.images.edit(
        model="nano", prompt=SCENE, stream=True, partial_images=1, extra_body={"seed": 4, "steps": 0}, **files
    )
    assert (first.type, last.type) == ("image_edit.partial_image", "image_edit.completed")
    shown, whole = opened(first.b64_json), opened(last.b64_json)
    assert (shown[90:, 90:] == 128).all() and np.abs(shown[90:, :38] - whole[90:, :38]).mean() < 3
