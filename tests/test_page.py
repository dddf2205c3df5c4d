"""The page in a real browser: each job done by clicks, keys and files."""

import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image, ImageDraw

pytest.importorskip("fastapi", reason="pip install 'mmlm[serve]'")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

import mmlm  # noqa: E402
from mmlm.cli import main  # noqa: E402
from mmlm.serving.app import make_app  # noqa: E402
from mmlm.serving.models import Models  # noqa: E402
from mmlm.serving.page.files import FOLDER  # noqa: E402
from mmlm.serving.settings import Settings  # noqa: E402
from support import page_server  # noqa: E402
from support.serving import until  # noqa: E402

expect = playwright.expect
expect.set_options(timeout=120_000)

ROOT = Path(__file__).parents[1]
SCENE = ROOT / "docs/images/scene.png"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
]  # fmt: skip
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def seen():
    return page_server.Seen()


@pytest.fixture(scope="module")
def scripted(seen):
    with page_server.serving(page_server.build(seen, ["script", "other"])) as address:
        yield address


@pytest.fixture(scope="module")
def real(nano):
    with page_server.serving(make_app(Models({"nano": lambda: nano}))) as address:
        yield address


@contextlib.contextmanager
def opened(browser, address):
    """The page on a desk; it must write no error to the console and ask no other host for anything."""
    context = browser.new_context(viewport=DESK, permissions=["microphone"], accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(120_000)
    faults: list[str] = []
    expected = re.compile("Failed to load resource")  # the browser's own line for a status that a test asks for
    page.on(
        "console", lambda line: line.type == "error" and not expected.search(line.text) and faults.append(line.text)
    )
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith((address, "data:", "blob:")) or faults.append(asked.url))
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    yield page
    context.close()
    assert faults == []


@pytest.fixture
def page(browser, scripted):
    """The page of a server whose answers are a script."""
    with opened(browser, scripted) as page:
        yield page


@pytest.fixture
def nano_page(browser, real):
    """The page of a server with nano."""
    with opened(browser, real) as page:
        yield page


@pytest.fixture(scope="module")
def recording(nano, tmp_path_factory):
    sound = nano.speak("seven", temperature=0.3, seed=0)
    path = tmp_path_factory.mktemp("sounds") / "seven.wav"
    soundfile.write(path, sound.waveform, sound.sample_rate)
    return path


def show(page, job):
    page.click(f"nav a[href='#{job}']")


def say(page, text, job="chat"):
    page.fill(f"#{job} .composer textarea", text)
    page.press(f"#{job} .composer textarea", "Enter")


def answer(page, job="chat"):
    """The last answer, once it is complete."""
    page.wait_for_selector(f"#{job} .composer:not([aria-busy])")
    return page.locator(f"#{job} .answer").last


def decodes(page, selector):
    """The seconds of a sound, once the browser has read it."""
    read = """element => element.readyState ? element.duration : new Promise((done) => {
        element.onloadedmetadata = () => done(element.duration);
    })"""
    return page.locator(selector).last.evaluate(read)


def is_seen(page, selector):
    """Whether the browser has read a picture."""
    return page.locator(selector).last.evaluate("image => image.decode().then(() => image.naturalWidth > 0)")


# Chat


def test_a_picture_is_asked_about(nano_page, nano):
    page = nano_page
    page.set_input_files("#chat input[type=file]", SCENE)
    assert is_seen(page, "#chat .attachments img")
    say(page, "what color is the background?")
    shown = {"type": "image", "path": str(SCENE)}
    expected = nano.chat([{"role": "user", "content": [shown, "what color is the background?"]}])
    assert answer(page).locator(".text").inner_text() == expected.strip()
    assert is_seen(page, "#chat .user img")


def test_pictures_are_pasted_and_dropped(page):
    data = base64.b64encode(SCENE.read_bytes()).decode()
    give = """([selector, kind, data]) => {
        const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "scene.png", { type: "image/png" }));
        const given = kind === "paste" ? { clipboardData: transfer } : { dataTransfer: transfer };
        const event = kind === "paste" ? ClipboardEvent : DragEvent;
        document.querySelector(selector).dispatchEvent(new event(kind, { ...given, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(give, ["#chat textarea", "paste", data])
    page.evaluate(give, ["#chat .log", "drop", data])
    expect(page.locator("#chat .attachments img")).to_have_count(2)
    page.click("#chat .attachments button >> nth=0")
    assert page.locator("#chat .attachments img").count() == 1


def test_a_recording_and_the_microphone_are_heard(page, recording, seen):
    page.set_input_files("#chat input[type=file]", recording)
    page.click("#chat .record")
    page.wait_for_selector("#chat .record[aria-pressed=true]")
    page.wait_for_timeout(1200)  # the browser's own microphone beeps once a second
    page.click("#chat .record")
    expect(page.locator("#chat .attachments audio")).to_have_count(2)
    say(page, "heard")
    answer(page)
    parts = seen.bodies[-1]["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["input_audio", "input_audio", "text"]
    sent = [soundfile.read(io.BytesIO(base64.b64decode(part["input_audio"]["data"]))) for part in parts[:2]]
    original, rate = soundfile.read(recording)
    assert [own[1] for own in sent] == [16000, 16000]
    assert abs(len(sent[0][0]) / 16000 - len(original) / rate) < 0.01
    assert abs(np.abs(sent[0][0]).mean() / np.abs(original).mean() - 1) < 0.1
    assert len(sent[1][0]) > 3000 and np.abs(sent[1][0]).max() > 0
    assert decodes(page, "#chat .user audio") > 0


def test_text_grows_and_stop_ends_it(page, seen):
    left = seen.left
    say(page, "count")
    page.wait_for_selector("#chat .answer[aria-busy=true] .text:text('3')")
    lengths = [len(page.locator("#chat .answer .text").inner_text())]
    for _ in range(3):
        page.wait_for_timeout(100)
        lengths.append(len(page.locator("#chat .answer .text").inner_text()))
    assert lengths == sorted(set(lengths))
    page.click("#chat .stop")
    stopped = answer(page)
    assert stopped.locator(".note").inner_text() == "Stopped."
    kept = stopped.locator(".text").inner_text()
    page.wait_for_timeout(200)
    assert stopped.locator(".text").inner_text() == kept and seen.left == left + 1
    say(page, "on")
    answer(page)
    roles = [message["role"] for message in seen.bodies[-1]["messages"]]
    assert roles == ["user", "assistant", "user"] and seen.bodies[-1]["messages"][1]["content"].startswith("0 1 2")


@pytest.mark.parametrize(
    ("text", "thoughts", "answered"), [("think", "two and two", "four"), ("reason", "three and three", "six")]
)
def test_thinking_is_folded_and_not_sent_back(page, seen, text, thoughts, answered):
    say(page, text)
    found = answer(page)
    assert found.locator(".text").inner_text() == answered
    folded = found.locator("details.thoughts")
    assert folded.get_attribute("open") is None and not folded.locator("div").is_visible()
    folded.locator("summary").press("Enter")
    assert folded.locator("div").inner_text() == thoughts
    say(page, "next")
    answer(page)
    assert seen.bodies[-1]["messages"][1] == {"role": "assistant", "content": answered}


def test_a_tool_is_called_and_its_result_given(page, seen):
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    page.click("#open-settings")
    page.fill("#settings [name=tools]", "[{")
    assert "no JSON" in page.locator("#settings .error").inner_text()
    page.fill("#settings [name=tools]", json.dumps(tools))
    page.click("#settings button.main")
    say(page, "tool")
    call = answer(page).locator(".call")
    assert call.locator("summary").inner_text() == "Calls weather"
    assert call.locator("pre").text_content() == '{"city": "Oslo"}' and not call.locator("pre").is_visible()
    call.locator("input").fill("sun")
    call.locator("input").press("Enter")
    page.wait_for_selector("#chat .answer:last-child .text:text('The tool says sun.')")
    made = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    assert seen.bodies[-1]["tools"] == tools
    assert seen.bodies[-1]["messages"][1:] == [
        {"role": "assistant", "content": "", "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "a", "content": "sun"},
    ]


def test_errors_are_said_where_they_happen(page, seen):
    say(page, "refuse")
    assert answer(page).locator(".error").inner_text() == "the model has no image encoder"
    say(page, "fail")
    failed = answer(page)
    assert failed.locator(".error").inner_text() == "the model computed values that are no numbers"
    assert failed.locator(".text").inner_text() == "half of an"
    failed.locator(".retry").click()
    expect(page.locator("#chat .answer")).to_have_count(2)
    answer(page)
    assert [message["content"] for message in seen.bodies[-1]["messages"]] == [[{"type": "text", "text": "fail"}]]
    page.set_input_files("#chat input[type=file]", {"name": "a.png", "mimeType": "image/png", "buffer": b"none"})
    page.wait_for_selector("#chat .composer .error:text('a.png is no picture')")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    say(page, "anyone?")
    assert "does not answer" in answer(page).locator(".error").inner_text()


def choose_answers(page, kind):
    page.click("#open-settings")
    page.select_option("#settings [name=answers]", kind)
    page.keyboard.press("Escape")


def test_pictures_and_sounds_of_an_answer_are_shown(page, seen):
    choose_answers(page, "said")
    say(page, "media")
    assert answer(page).locator(".text").inner_text() == "a teal square"
    assert is_seen(page, "#chat .answer img") and decodes(page, "#chat .answer audio") == 0.5
    assert seen.bodies[-1]["modalities"] == ["text", "audio"] and seen.bodies[-1]["audio"]["format"] == "pcm16"
    choose_answers(page, "both")
    say(page, "more")
    answer(page)
    asked = seen.bodies[-1]
    (picture,) = asked["messages"][1].pop("images")
    assert asked["messages"][1] == {"role": "assistant", "content": "a teal square"}
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")
    assert asked["modalities"] == ["text", "image"] and "audio" not in asked
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert is_seen(page, "#chat .answer img") and decodes(page, "#chat .answer audio") == 0.5


def test_nano_draws_its_answer_and_says_another(nano_page):
    page = nano_page
    choose_answers(page, "drawn")
    say(page, "in the middle a large red circle, on a white background")
    answer(page)
    assert is_seen(page, "#chat .answer img") and page.locator("#chat .answer audio").count() == 0
    choose_answers(page, "said")
    page.click("#open-settings")
    page.fill("#settings [name=max_tokens]", "3")
    page.keyboard.press("Escape")
    page.click("#chat .clear")
    say(page, "what color is the circle?")
    assert answer(page).locator(".text").inner_text()
    assert decodes(page, "#chat .answer audio") > 0.1


def test_what_models_write_is_text(page):
    say(page, "markup")
    found = answer(page)
    assert found.locator(".text").inner_text() == "<img src=x onerror=alert(1)> **é🦩**"
    assert found.locator("img").count() == 0


def test_settings_reach_the_server_and_a_cut_is_said(page, seen):
    page.click("#open-settings")
    for name, value in {
        "temperature": "0.5",
        "max_tokens": "1",
        "seed": "7",
        "system": "Be brief.",
        "key": "k",
    }.items():
        page.fill(f"#settings [name={name}]", value)
    page.keyboard.press("Escape")
    say(page, "hello")
    assert "Cut off" in answer(page).locator(".note").inner_text()
    asked = seen.bodies[-1]
    assert {name: asked[name] for name in ("temperature", "max_completion_tokens", "seed")} == {
        "temperature": 0.5, "max_completion_tokens": 1, "seed": 7,
    }  # fmt: skip
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}


def test_nothing_is_lost_by_a_reload(page):
    page.select_option("#model", "other")
    page.set_input_files("#chat input[type=file]", SCENE)
    say(page, "count")
    page.wait_for_selector("#chat .answer .text:text('0 1 2')")
    page.fill("#chat textarea", "a draft")
    page.set_input_files("#chat input[type=file]", SCENE)
    page.wait_for_selector("#chat .attachments img")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.locator("#model").input_value() == "other"
    assert page.locator("#chat .answer .text").inner_text().startswith("0 1 2")
    assert re.search("Stopped|cut", page.locator("#chat .answer").inner_text())
    assert is_seen(page, "#chat .user img") and is_seen(page, "#chat .attachments img")
    assert page.locator("#chat textarea").input_value() == "a draft"
    page.click("#chat .clear")
    page.reload()
    assert page.locator("#chat .message").count() == 0


def test_two_models_are_compared(page, seen):
    show(page, "compare")
    page.set_input_files("#compare input[type=file]", SCENE)
    before = len(seen.bodies)
    say(page, "what is it?", "compare")
    expect(page.locator("#compare .answer .text")).to_have_text(["You said: what is it?"] * 2)
    assert page.locator("#compare .answer h3").all_inner_texts() == ["script", "other"]
    asked = seen.bodies[before:]
    assert sorted(body["model"] for body in asked) == ["other", "script"]
    assert asked[0]["messages"] == asked[1]["messages"]
    page.select_option("#compare select >> nth=1", "script")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.locator("#compare select").nth(1).input_value() == "script"
    assert page.locator("#compare .answer").count() == 2


# Where it looked


def two_shapes():
    """A red circle on the left and a blue square on the right, as a file."""
    picture, data = Image.new("RGB", (64, 64), "white"), io.BytesIO()
    draw = ImageDraw.Draw(picture)
    draw.ellipse((4, 20, 28, 44), fill="red")
    draw.rectangle((38, 20, 60, 44), fill="blue")
    picture.save(data, "png")
    return {"name": "shapes.png", "mimeType": "image/png", "buffer": data.getvalue()}, picture


def clear(page):
    """How clear each patch of the picture is seen, 0 to 1."""
    read = """canvas => [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]"""
    alpha = np.array(page.locator("#chat .seen canvas").evaluate(read)).reshape(8, 8, 4)[..., 3]
    return 1 - alpha / 255 / 0.8


def test_each_word_shows_where_it_looked(nano_page, nano):
    page = nano_page
    file, picture = two_shapes()
    page.set_input_files("#chat input[type=file]", [file])
    assert is_seen(page, "#chat .attachments img")
    say(page, "what is on the left?")
    expect(answer(page).locator(".text")).to_have_text("a large red circle")
    page.click("#chat .look")
    words = page.locator("#chat .words button")
    expect(words).to_have_text(["a", "large", "red", "circle"])
    prompt = nano.chat_prompt([{"role": "user", "content": [mmlm.Image(picture), "what is on the left?"]}])
    maps = nano.attention_maps(prompt, "a large red circle")
    texts = [nano.processor.decode([token]).strip() for token in maps.token_ids]
    for name in ("red", "circle"):
        words.get_by_text(name).click()
        expected = maps.media[0].weights[texts.index(name)].view(8, 8).numpy()
        np.testing.assert_allclose(clear(page), expected / expected.max(), atol=0.02)
    page.keyboard.press("ArrowLeft")
    expect(words.nth(2)).to_have_attribute("aria-pressed", "true")
    assert "% of the attention" in page.inner_text("#chat .maps figcaption")
    page.click("#chat .look")
    expect(page.locator("#chat .maps")).to_have_count(0)


def test_a_heard_recording_shows_its_moments(nano_page):
    page = nano_page
    page.click("#open-settings")
    page.select_option("#settings select[name=mode]", "features")
    page.click("#settings button.main")
    page.set_viewport_size(PHONE)
    page.set_input_files("#chat input[type=file]", ROOT / "demos/questions/shapes.wav")
    page.wait_for_selector("#chat .attachments audio")
    page.set_input_files("#chat input[type=file]", [two_shapes()[0]])
    page.wait_for_selector("#chat .attachments img")
    say(page, "")
    page.click("#chat .look")
    page.locator("#chat .words button").last.click()
    read = """canvas => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, 1);
        return [...data].filter((_, index) => index % 4 === 3);
    }"""
    moments = page.locator("#chat canvas.heard").evaluate(read)
    assert len(set(moments)) > 5 and max(moments) == 255
    shares = [int(text.split("%")[0]) for text in page.locator("#chat .maps figcaption").all_inner_texts()]
    assert len(shares) == 2 and 98 <= sum(shares) <= 102
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


# Draw, speak, transcribe


def test_pictures_are_drawn_and_drawn_anew(nano_page, nano):
    page, text = nano_page, "on the left a large red heart, on a beige background"
    show(page, "draw")
    for name, value in {"prompt": text, "seed": "3", "temperature": "0.1"}.items():
        page.fill(f"#draw [name={name}]", value)
    page.click("#draw .go")
    expect(page.locator("#draw .results img")).to_have_count(1)
    assert is_seen(page, "#draw .results img")
    with page.expect_download() as saved:
        page.click("#draw .results a >> nth=0")
    drawn = np.asarray(Image.open(saved.value.path()))
    assert (drawn == np.asarray(nano.draw(text, seed=3, temperature=0.1))).all()
    page.click("#draw .results button >> nth=0")
    expect(page.locator("#draw canvas")).to_have_attribute("width", "64")
    paint_right_half(page)
    page.fill("#draw [name=prompt]", "on the right a large blue star, on a beige background")
    page.click("#draw .go")
    expect(page.locator("#draw .results article")).to_have_count(2)
    with page.expect_download() as saved:
        page.click("#draw .results a >> nth=0")
    changes = np.abs(np.asarray(Image.open(saved.value.path())).astype(int) - drawn).mean((0, 2))
    assert changes[40:].mean() > 4 * changes[:24].mean()
    page.reload()
    assert page.locator("#draw .results img").count() == 2


def paint_right_half(page):
    box = page.locator("#draw canvas").bounding_box()
    page.locator("#draw [name=brush]").fill("50")
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + box["height"] - 2, steps=5)
    page.mouse.up()


def test_a_mask_is_transparent_where_it_is_painted(page, seen):
    show(page, "draw")
    picture = io.BytesIO()
    Image.new("RGB", (80, 40), "teal").save(picture, "jpeg")
    file = {"name": "teal.jpg", "mimeType": "image/jpeg", "buffer": picture.getvalue()}
    page.set_input_files("#draw input[type=file]", file)
    expect(page.locator("#draw canvas")).to_have_attribute("width", "80")
    paint_right_half(page)
    page.fill("#draw [name=prompt]", "a boat")
    page.fill("#draw [name=steps]", "5")
    page.fill("#draw [name=n]", "2")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    expect(page.locator("#draw canvas")).to_have_attribute("width", "80")
    page.click("#draw .go")
    expect(page.locator("#draw .results img")).to_have_count(2)
    asked = seen.forms[-1]
    assert (asked["prompt"], asked["steps"], asked["n"], asked["model"]) == ("a boat", "5", "2", "script")
    assert asked["image"].format == asked["mask"].format == "PNG"
    assert asked["image"].size == asked["mask"].size == (80, 40)
    alpha = np.asarray(asked["mask"])[..., 3]
    assert (alpha[5:35, 48:] == 0).all() and (alpha[:, :40] == 255).all()


def test_a_mask_is_painted_by_keys(page):
    show(page, "draw")
    page.set_input_files("#draw input[type=file]", SCENE)
    page.wait_for_selector("#draw .painting:visible")
    expect(page.locator("#draw canvas")).to_have_attribute("width", str(Image.open(SCENE).width))
    page.focus("#draw canvas")
    page.keyboard.press("Space")
    for _ in range(8):
        page.keyboard.press("Shift+ArrowRight")
    painted = """canvas => {
        const pixels = canvas.getContext("2d");
        return [0.1, 0.5, 0.8].map((x) => pixels.getImageData(x * canvas.width, canvas.height / 2, 1, 1).data[3] > 0);
    }"""
    assert page.locator("#draw canvas").evaluate(painted) == [False, True, True]
    page.click("#draw .unpaint")
    assert page.locator("#draw canvas").evaluate(painted) == [False, False, False]


def test_a_text_is_said(nano_page, nano):
    page = nano_page
    show(page, "speak")
    page.fill("#speak [name=text]", "seven")
    page.click("#speak .go")
    page.wait_for_selector("#speak .results audio")
    assert decodes(page, "#speak .results audio") > 0.2
    with page.expect_download() as saved:
        page.click("#speak .results a")
    expected = nano.speak("seven", temperature=0.3, seed=0)
    assert soundfile.info(saved.value.path()).duration == pytest.approx(expected.seconds)


def test_a_recording_is_written_down_and_played_from_a_segment(nano_page, recording):
    page = nano_page
    show(page, "transcribe")
    page.set_input_files("#transcribe input[type=file]", recording)
    page.click("#transcribe .go")
    page.wait_for_selector("#transcribe .segments button")
    assert page.locator("#transcribe .segments").inner_text().split() == ["0:00", "seven"]
    assert page.locator("#transcribe .bar").bounding_box()["width"] > 100
    playing = page.locator("#transcribe audio")
    playing.evaluate("element => void (window.played = new Promise((done) => (element.onplaying = done)))")
    page.click("#transcribe .segments button")
    page.evaluate("window.played.then(() => true)")
    with page.expect_download() as saved:
        page.click("#transcribe .saves a:text('srt')")
    lines = Path(saved.value.path()).read_text().splitlines()
    assert lines[0] == "1" and re.fullmatch(r"00:00:00,\d{3} --> 00:00:0\d,\d{3}", lines[1]) and lines[2] == "seven"
    page.reload()
    assert page.locator("#transcribe .segments button").count() == 1 and decodes(page, "#transcribe audio") > 0.2


def test_an_error_without_words_is_told_by_its_status(page, recording):
    show(page, "transcribe")
    file = {"name": "broken.wav", "mimeType": "audio/wav", "buffer": recording.read_bytes()}
    page.set_input_files("#transcribe input[type=file]", file)
    page.click("#transcribe .go")
    page.wait_for_selector("#transcribe .error:text('The server answers 500')")


def test_a_timeline_plays_from_where_it_is_clicked(page, seen, tmp_path):
    soundfile.write(tmp_path / "three.wav", 0.1 * np.sin(np.arange(24_000) / 5), 8000)
    show(page, "transcribe")
    page.set_input_files("#transcribe input[type=file]", tmp_path / "three.wav")
    page.fill("#transcribe [name=language]", "en")
    page.click("#transcribe .go")
    lines = page.locator("#transcribe .segments button")
    expect(lines).to_have_text(["0:00One.", "0:01Two & <b>."])
    assert seen.forms[-1]["language"] == "en" and seen.forms[-1]["response_format"] == "verbose_json"
    assert decodes(page, "#transcribe audio") == 3
    whole = page.locator("#transcribe .timeline").bounding_box()
    second = page.locator("#transcribe .bar").nth(1).bounding_box()
    assert second["x"] - whole["x"] == pytest.approx(whole["width"] / 3, abs=2)
    assert second["width"] == pytest.approx(whole["width"] / 3, abs=2)
    time = "element => element.currentTime"
    for click in (lines.nth(1), page.locator("#transcribe .bar").nth(1)):
        page.locator("#transcribe audio").evaluate("element => { element.pause(); element.currentTime = 0; }")
        click.click()
        expect(page.locator("#transcribe .segments li").nth(1)).to_have_attribute("aria-current", "true")
        assert page.locator("#transcribe audio").evaluate(time) >= 1


def test_the_microphone_is_written_down(nano_page):
    page = nano_page
    show(page, "transcribe")
    page.click("#transcribe .record")
    page.wait_for_timeout(500)
    page.click("#transcribe .record")
    page.wait_for_selector("#transcribe .go:enabled")
    page.click("#transcribe .go")
    page.wait_for_selector("#transcribe .result:visible")
    assert decodes(page, "#transcribe audio") > 0.2


# Modules by themselves


def test_subtitles(page):
    segments = [{"start": 0, "end": 1.5, "text": " One."}, {"start": 3661.0004, "end": 3662.9996, "text": "a --> b"}]
    made = page.evaluate(
        "segments => import('/page/subtitles.js').then(({ srt, vtt }) => [srt(segments), vtt(segments)])",
        segments,
    )
    assert made[0] == "1\n00:00:00,000 --> 00:00:01,500\nOne.\n\n2\n01:01:01,000 --> 01:01:03,000\na -> b\n"
    assert made[1] == "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nOne.\n\n01:01:01.000 --> 01:01:03.000\na -> b\n"


@pytest.mark.parametrize(
    ("text", "thinking", "answered"),
    [
        ("plain", "", "plain"),
        ("<think>a", "a", ""),
        ("\n<think>a</think>\n\nb", "a", "b"),
        ("a</think>b", "a", "b"),  # the prompt has begun it
        ("say <think> here", "", "say <think> here"),
        ("<think>a</think>b</think>", "a", "b</think>"),
    ],
)
def test_thinking_is_told_from_the_answer(page, text, thinking, answered):
    found = page.evaluate("async (text) => (await import('/page/thinking.js')).split(text)", text)
    assert found == {"thinking": thinking, "answer": answered}


# How it looks, and how it comes


@pytest.mark.parametrize("job", ["chat", "draw", "speak", "transcribe", "compare"])
def test_a_phone_shows_it_without_scrolling_sideways(page, job):
    page.set_viewport_size(PHONE)
    page.set_input_files("#chat input[type=file]", SCENE)
    page.set_input_files("#draw input[type=file]", SCENE)
    for shown in ("chat", "compare"):
        show(page, shown)
        say(page, "a" * 300, shown)
        answer(page, shown)
    show(page, job)
    page.wait_for_selector(f"#{job}:visible")
    assert page.evaluate("document.scrollingElement.scrollWidth") == PHONE["width"]
    wide = """elements => elements.filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
        .map((one) => one.outerHTML)"""
    assert page.locator(f"header *, #{job} *").evaluate_all(wide) == []
    page.click("#open-settings")
    assert page.locator("#settings").bounding_box()["width"] <= PHONE["width"]


def test_every_control_has_a_name(page):
    """As screen readers say it: the browser's own tree of accessible names."""
    page.set_input_files("#draw input[type=file]", SCENE)
    for job in ("chat", "draw", "speak", "transcribe", "compare"):
        show(page, job)
        tree = page.locator("body").aria_snapshot()
        controls = re.findall(r"- (?:button|textbox|combobox|spinbutton|slider|link|img)\b(.*)", tree)
        assert len(controls) > 8 and all(re.match(r' "[^"]', control) for control in controls), tree


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(page, scheme):
    """WCAG's contrast of 4.5 between the colours of the page."""
    page.emulate_media(color_scheme=scheme)
    read = """names => names.map((name) => {
        const probe = document.body.appendChild(document.createElement("i"));
        probe.style.color = `var(--${name})`;
        const found = getComputedStyle(probe).color.match(/\\d+/g).map(Number);
        probe.remove();
        return found;
    })"""
    names = ["ground", "surface", "own", "accent", "ink", "soft", "bad", "on-accent"]
    colours = dict(zip(names, page.evaluate(read, names), strict=True))
    pairs = [(text, ground) for text in ("ink", "soft", "bad") for ground in ("ground", "surface")]
    for text, ground in [*pairs, ("ink", "own"), ("soft", "own"), ("on-accent", "accent"), ("accent", "surface")]:
        light, dark = sorted((luminance(colours[name]) for name in (text, ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (scheme, text, ground)


def luminance(colour):
    linear = [(value / 255 + 0.055) ** 2.4 / 1.055**2.4 if value > 10 else value / 255 / 12.92 for value in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_it_works_by_keyboard_alone(page):
    page.reload()
    page.wait_for_selector("body[data-ready]")
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "document.activeElement.textContent || document.activeElement.ariaLabel || document.activeElement.name"
            )
        )
    assert reached[:5] == ["Chat", "Draw", "Speak", "Transcribe", "Compare"]
    assert {"Settings", "Message", "files", "Record", "New", "Send"} <= set(reached), reached
    page.focus("#chat textarea")
    page.keyboard.type("count")
    page.keyboard.press("Enter")
    page.wait_for_selector("#chat .answer .text:text('0 1')")
    page.keyboard.press("Escape")
    assert answer(page).locator(".note").inner_text() == "Stopped."


def test_the_server_forbids_other_hosts(browser, scripted):
    page = browser.new_page()
    headers = page.goto(scripted).headers
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["connect-src"] == policy["script-src"] == "'self'"
    assert "unsafe" not in headers["content-security-policy"]
    for path in ("/page/main.js", "/page/style.css"):
        assert (
            page.request.get(scripted + path).headers["content-security-policy"] == headers["content-security-policy"]
        )
    for path in ("/page/../files.py", "/page/%2e%2e/files.py", "/page/nothing.js"):
        assert page.request.get(scripted + path).status == 404
    hits = []
    with page_server.serving(page_server.counting(hits)) as other:
        assert page.evaluate("address => fetch(address).then(() => 'sent', () => 'refused')", other) == "refused"
        page.evaluate("address => (document.body.appendChild(new Image()).src = `${address}/picture`)", other)
        page.wait_for_timeout(300)
    page.close()
    assert hits == []


def test_a_server_with_one_model_says_how_to_compare(nano_page):
    show(nano_page, "compare")
    nano_page.wait_for_selector("#compare .alone:visible")
    assert not nano_page.locator("#compare .composer").is_visible()


def test_the_page_needs_no_key_and_its_requests_bear_it(browser, nano):
    with page_server.serving(make_app(Models({"nano": lambda: nano}), Settings(api_key="open sesame"))) as address:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#notice:text('a key is needed')")
        page.click("#open-settings")
        page.fill("#settings [name=key]", "open sesame")
        page.click("#settings button.main")
        expect(page.locator("#model option")).to_have_text(["nano"])
        assert not page.locator("#notice").is_visible()
        page.close()


def test_mmlm_ui_shows_the_page(tmp_path):
    """The command prints the address and opens it; an interrupt ends it."""
    browser, shown = tmp_path / "browser", tmp_path / "shown"
    browser.write_text(f'#!/bin/sh\necho "$1" > {shown}\n')
    browser.chmod(0o755)
    command = [sys.executable, "-m", "mmlm", "ui", "--port", "0", "--open"]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "BROWSER": f"{browser} %s"}
    )
    try:
        address = running.stdout.readline().strip()
        with urllib.request.urlopen(f"{address}v1/models") as found:
            assert [model["id"] for model in json.load(found)["data"]] == ["nano"]
        with urllib.request.urlopen(address) as found:
            assert found.headers["content-type"].startswith("text/html")
        until(lambda: shown.is_file() and shown.read_text().strip() == address)
    finally:
        running.send_signal(signal.SIGINT)
        assert running.wait(60) in (0, 130)  # 0 where whoever started the tests ignores interrupts


def test_what_mmlm_ui_cannot_do_is_said_at_once(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["ui", "--port", port]) == 2
    assert f"port {port}" in (said := capsys.readouterr().err) and "--port 0" in said
    assert main(["ui", "nano", "nano"]) == 2 and "twice" in capsys.readouterr().err
    assert main(["ui", "--port", "70000"]) == 2 and "65535" in capsys.readouterr().err


def test_a_wheel_holds_the_page():
    """Each file that is there, and each that another names, is in the package."""
    found = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["mmlm"]
    packed = {path for pattern in patterns for path in (ROOT / "mmlm").glob(pattern)}
    assert {FOLDER / name for name in found} <= packed
    texts = [(FOLDER / name).read_text() for name in found]
    named = {name for text in texts for name in re.findall(r"(?:from \"\./|(?:src|href)=\"page/)([^\"]+)", text)}
    assert named == found - {"index.html"}
