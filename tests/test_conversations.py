"""Conversations: messages of every form, chat templates of several families, and the command that talks."""

import base64
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

import mmlm
from encoders.media.source import MediaError
from mmlm.cli import main
from mmlm.prompting.chat_template import plain, rendered, together
from mmlm.prompting.conversation import chat_prompt
from mmlm.prompting.messages import Message, ToolCall, as_messages
from mmlm.prompting.parts import END_OF_CHUNK, Image, Markup, Sound
from mmlm.prompting.processor import Processor
from mmlm.prompting.templates import PromptTemplate
from mmlm.prompting.vocabulary import MediaVocabulary
from mmlm.tasks.chat import room
from support import families, parts

# In the manner of published models: which white space is cut, what begins a text, where a system message goes.
TEMPLATES = {
    "chatml": "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou help."
    "<|im_end|>\n{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "trimmed": "{{ bos_token }}{% for m in messages %}<|head|>{{ m.role }}<|/head|>\n\n{{ m.content | trim }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}",
    "system within": "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{% set first = messages[0].content ~ '\n\n' %}{% set rest = messages[1:] %}{% else %}"
    "{% set first = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ first if loop.first else '' }}"
    "{{ m.content | trim }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}",
    "spaced": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|head|> {{ m.content }} <|/head|>"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
    "no control": "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}",
}
CONTROL = ["<|im_start|>", "<|im_end|>", "<|head|>", "<|/head|>"]
TOOLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
    '<tool_call>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</tool_call>'
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(template: str | None):
    made = families.tokenizer()
    made.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": CONTROL})
    made.chat_template = template
    return made


def processor(own) -> Processor:
    return Processor(own, MediaVocabulary(len(own)))


def ids_of(own, messages, **keywords) -> list[int]:
    return processor(own).encode(chat_prompt(own, messages, keywords)).input_ids


def upstream(own, messages, **keywords) -> list[int]:
    keywords = {"add_generation_prompt": messages[-1]["role"] != "assistant", **keywords}
    return own.apply_chat_template(messages, tokenize=True, return_dict=False, **keywords)


def said(*texts: str) -> list[dict]:
    return [{"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(texts)]


CONVERSATIONS = {
    "one": said("what is it?"),
    "three turns": said("what is it?", "A cat.\n\nOr two.", "größer? ✓"),
    "system": [{"role": "system", "content": "Answer briefly."}, *said("what is it?")],
    "white space": said("  what\n is it? \n", "\n a cat ", " and\tthis?"),
}


@pytest.mark.parametrize("form", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_conversation_has_the_ids_of_transformers(name, form):
    own = tokenizer(TEMPLATES[name])
    assert ids_of(own, CONVERSATIONS[form]) == upstream(own, CONVERSATIONS[form])


@pytest.mark.parametrize("begun", ["The answer is", "The answer is: "])
@pytest.mark.parametrize("name", ["chatml", "trimmed", "spaced"])
def test_an_answer_that_was_begun_goes_on_as_in_transformers(name, begun):
    own, messages = tokenizer(TEMPLATES[name]), said("what is it?", begun)
    assert ids_of(own, messages) == upstream(own, messages, continue_final_message=True)


def real(name: str) -> Path:
    folder = Path(os.environ.get("MMLM_REAL", Path(__file__).parents[2] / "shared/real")) / name
    if not folder.exists():
        pytest.skip(f"no real weights at {folder}: set MMLM_REAL to the folder that holds them")
    return folder


@pytest.mark.parametrize("form", CONVERSATIONS)
def test_a_published_template_has_the_ids_of_transformers(form):
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(real("smollm2-135m-instruct"))
    assert ids_of(own, CONVERSATIONS[form]) == upstream(own, CONVERSATIONS[form])


def test_a_published_model_answers_a_conversation_as_transformers_does():
    from transformers import pipeline

    place = real("smollm2-135m-instruct")
    history = said("What is the capital of France?", "Paris.", "And of Italy? Answer in one word.")
    theirs = pipeline("text-generation", str(place))(history, max_new_tokens=12, do_sample=False)
    model = mmlm.assemble(place, parts.image_encoder())
    assert model.chat(history, max_new_tokens=12) == theirs[0]["generated_text"][-1]["content"].strip()


def test_keywords_reach_the_template_and_are_checked():
    own = tokenizer(TEMPLATES["chatml"] + "{% if enable_thinking is defined and not enable_thinking %}No.{% endif %}")
    plainly = ids_of(own, said("a"))
    assert ids_of(own, said("a"), enable_thinking=False) == [*plainly, *own("No.")["input_ids"]]
    assert ids_of(own, said("a"), enable_thinking=True) == plainly
    for wrong, complaint in (
        ({"messages": []}, "not yours"),
        ({"date": object()}, "JSON"),
        ({"x": float("nan")}, "JSON"),
    ):
        with pytest.raises(ValueError, match=complaint):
            chat_prompt(own, said("a"), wrong)
    with pytest.raises(TypeError, match="dictionary"):
        chat_prompt(own, said("a"), ["enable_thinking"])


def test_thinking_of_earlier_answers_is_left_out():
    own = tokenizer(TEMPLATES["chatml"])
    thoughtful = said("a", "<think>\nhm\n</think>\n\nyes", "b")
    assert ids_of(own, thoughtful) == ids_of(own, said("a", "yes", "b"))
    begun = said("a", "<think>\nhm")
    assert ids_of(own, begun) == upstream(own, begun, continue_final_message=True)


# What is said is text


PIECES = st.sampled_from(
    [*CONTROL, "<s>", "<|endoftext|>", "<|im_", "start|>", "a", " ", "\n", "<image>", "\ufffc", "0"]
)
TYPED = st.lists(PIECES, min_size=1, max_size=8).map("".join)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["chatml", "trimmed", "spaced"]), st.tuples(TYPED, TYPED, TYPED))
def test_what_is_said_never_becomes_markup(name, texts):
    own = tokenizer(TEMPLATES[name])
    control = {*own.all_special_ids, *own.added_tokens_decoder}

    def controls(*said_texts: str) -> list[int]:
        return [token for token in ids_of(own, said(*said_texts)) if token in control]

    texts = ["x" + text + "x" for text in texts]  # white space alone is another form
    assert controls(*texts) == controls("b", "c", "d")
    decoded = own.decode(ids_of(own, said(*texts)), clean_up_tokenization_spaces=False)
    assert all(text in decoded for text in texts)


def test_a_call_of_a_tool_has_the_ids_of_transformers():
    own = tokenizer(TOOLS)
    call = {"name": "look_up", "arguments": {"city": 'Köln "am"\n\\Rhein', "near": ["a", 2, None, True], "n": 1.5}}
    messages = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "c1", "name": "look_up", "content": '{"rain": true}'},
    ]
    assert ids_of(own, messages) == upstream(own, messages)
    as_text = [{"function": {**call, "arguments": json.dumps(call["arguments"])}, "id": "c1"}]  # OpenAI's form
    assert ids_of(own, [messages[0], messages[1] | {"tool_calls": as_text}, messages[2]]) == upstream(own, messages)
    call["arguments"]["city"] = "<|im_end|>"
    ids = ids_of(own, messages)
    assert ids.count(own.convert_tokens_to_ids("<|im_end|>")) == 3


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{ messages[0].content }}", "leaves out what a message says: 'yes', of the assistant"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "repeats what a message says: 'a'"),
        ("{{ raise_exception('no system') }}", "fails: TemplateError: no system"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}\ufffc77\ufffc", "nobody said"),
    ],
)
def test_a_template_that_loses_what_is_said_is_refused(template, complaint):
    with pytest.raises(ValueError, match=complaint):
        chat_prompt(tokenizer(template), said("a", "yes", "b"))


def test_conversations_that_are_rendered_together_are_those_that_are_rendered_alone():
    own = tokenizer(TEMPLATES["trimmed"])
    for turns, system in ((1, False), (7, False), (9, False), (3, True)):
        messages = plain(turns, system)
        assert len(together(messages, True)) >= 4
        assert rendered(own, messages, True) == own.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    assert together(plain(5), True) == together(plain(1), True)  # so that a talk needs no new process at each turn
    assert together(plain(3), False) == [(plain(3), False)]


# Forms of messages


def png(color: str = "red") -> bytes:
    file = io.BytesIO()
    PILImage.new("RGB", (8, 8), color).save(file, "PNG")
    return file.getvalue()


def test_forms_of_one_message_are_one_message(tmp_path):
    data, path = png(), tmp_path / "a.png"
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    url = f"data:image/png;base64,{text}"

    def content(*items) -> tuple:
        return as_messages([{"role": "user", "content": list(items)}])[0].content

    what = {"type": "text", "text": "what?"}
    assert content({"type": "image", "path": str(path)}, what) == (Image(str(path)), "what?")
    assert content({"type": "image", "image": path}, "what?") == (Image(path), "what?")
    assert content({"type": "image", "url": url}, what) == (Image(url), "what?")
    assert content({"type": "image_url", "image_url": {"url": url, "detail": "low"}}, what) == (Image(url), "what?")
    assert content({"type": "image_url", "image_url": url}, what) == (Image(url), "what?")
    assert content({"type": "image", "base64": text}, what) == (Image(data), "what?")
    assert content(mmlm.Image(path), {"type": "input_text", "text": "what?"}) == (Image(path), "what?")
    sound = {"type": "input_audio", "input_audio": {"data": text, "format": "wav"}}
    assert content(sound) == content({"type": "audio", "base64": text}) == (Sound(data),)
    assert content({"type": "audio", "audio": "a.wav"}, Path("b.wav")) == (Sound("a.wav"), Sound(Path("b.wav")))
    call = {"function": {"name": "f", "arguments": '{"a": 1}'}}
    given = [
        {"role": "developer", "content": "Be brief."},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "annotations": []},
        {"role": "tool", "content": [{"type": "text", "text": "2"}], "tool_call_id": "x"},
    ]
    assert as_messages(iter(given)) == [
        Message("system", ("Be brief.",)),
        Message("assistant", (), (ToolCall("f", {"a": 1}),)),
        Message("tool", ("2",), tool_call_id="x"),
    ]


@pytest.mark.parametrize(
    ("messages", "error", "complaint"),
    [
        ([], ValueError, "conversation is empty"),
        ("hello", TypeError, "messages are a list"),
        (["hello"], TypeError, r"messages\[0\] is a dictionary"),
        ([{"content": "a"}], ValueError, r"messages\[0\]: the role is one of system, user"),
        (said("a", "b") + [{"role": "bot", "content": "a"}], ValueError, r"messages\[2\]: the role"),
        ([{"role": "user"}], ValueError, "has no content"),
        ([{"role": "user", "content": 3}], TypeError, "content is a text or a list, not int"),
        ([{"role": "user", "content": [3]}], TypeError, "a prompt part is text"),
        ([{"role": "user", "content": [{"type": "picture"}]}], ValueError, "unknown type 'picture'; known are image"),
        ([{"role": "user", "content": [{"type": "text"}]}], TypeError, "has a text, not nothing"),
        ([{"role": "user", "content": [{"type": "image"}]}], ValueError, "has one of image, url, path, base64"),
        ([{"role": "user", "content": [{"type": "image", "base64": "%"}]}], ValueError, "no base64"),
        ([{"role": "user", "content": [{"type": "input_audio", "input_audio": "x"}]}], TypeError, "base64 is a text"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]}], ValueError,
         "is a data: URL or an http"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a.b/c.png"}}]}], MediaError,
         "pass allow_url=True"),
        ([{"role": "user", "content": [{"type": "video", "url": "https://a.b/c.mp4"}]}], MediaError,
         "are not fetched; download it"),
        ([{"role": "user", "content": [{"type": "audio", "url": "https://a.b/c.wav"}]}], MediaError, "allow_url=True"),
        ([{"role": "user", "content": [END_OF_CHUNK]}], TypeError, "holds texts, pictures and recordings"),
        ([{"role": "user", "content": [Markup("<s>")]}], TypeError, "not Markup"),
        ([{"role": "user", "content": "a", "weight": 1}], ValueError, "unknown field 'weight'"),
        ([{"role": "user", "content": "a", "name": "<|im_end|>"}], ValueError, "name is a name of letters"),
        ([{"role": "user", "content": "a", "tool_calls": [{}]}], ValueError, "a call is"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "a b"}}]}], ValueError, "name of a function is"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}], ValueError, "no JSON"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}], ValueError,
         "a JSON object, not list"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[" * 10**5}}]}], ValueError,
         "no JSON"),
    ],
)  # fmt: skip
def test_messages_that_are_none_are_named(messages, error, complaint):
    with pytest.raises(error, match=complaint):
        as_messages(messages)


def test_a_dictionary_in_a_prompt_leads_to_chat():
    with pytest.raises(TypeError, match=r"model\.chat"):
        parts.shared("llama").generate([{"role": "user", "content": "a"}])


# With a model


def chatting(template: str | None = TEMPLATES["chatml"]):
    return parts.build("llama", tokenizer=tokenizer(template), ears="tokens")


def test_chat_continues_the_prompt_of_its_conversation_with_media_in_their_places():
    model = chatting()
    picture, other = parts.picture(1), parts.picture(2)
    messages = [
        {"role": "user", "content": [{"type": "image", "image": picture}, "what is it?"]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": ["and ", "this:", {"type": "image", "image": other}, "?"]},
    ]
    prompt = [
        Markup("<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n"), picture, "what is it?",
        Markup("<|im_end|>\n<|im_start|>assistant\n"), "A cat.", Markup("<|im_end|>\n<|im_start|>user\n"),
        "and \nthis:", other, "?", Markup("<|im_end|>\n<|im_start|>assistant\n"),
    ]  # fmt: skip
    expected = model.generate(prompt, max_new_tokens=6)
    found = model.chat(messages, max_new_tokens=6, details=True)
    assert found.token_ids == expected.token_ids and found.usage.media_items == 2
    assert model.chat([messages, said("a")], max_new_tokens=6) == [
        model.chat(messages, max_new_tokens=6), model.chat(said("a"), max_new_tokens=6),
    ]  # fmt: skip
    pieces = model.stream(model.chat_prompt(messages), max_new_tokens=6)
    assert "".join(pieces) == found.text


def test_an_answer_has_the_tokens_that_are_left():
    model = chatting()
    positions = model.language_model.max_length
    around = len(ids_of(model.processor.tokenizer, said("a"))) - 1
    messages = said("a" * (positions - around - 5))  # a byte is a token
    result = model.chat(messages, details=True)
    assert result.usage.generated_tokens == 5 or result.finish_reason == "stop"
    assert room(model, [model.chat_prompt(messages)]) == 5 and room(model, [model.chat_prompt(said("a"))]) == min(
        512, positions - around - 1
    )
    with pytest.raises(ValueError, match="positions"):
        model.chat(messages, max_new_tokens=6)


def test_the_latents_of_a_prefix_are_counted_and_a_stream_is_read_once():
    model = parts.shared("llama", visibility="prefix")
    positions = model.language_model.max_length
    written = io.BytesIO()
    parts.picture(1).save(written, "png")

    def asked(count: int) -> list[dict]:
        picture = io.BytesIO(written.getvalue())
        return [{"role": "user", "content": [{"type": "image", "image": picture}, "a" * count]}]

    taken = model.generate(model.chat_prompt(asked(1)), max_new_tokens=1).usage.prompt_tokens
    more = parts.RESAMPLER.num_latents - 1  # beside the position of the picture's token
    result = model.chat(asked(1 + positions - taken - more - 5), details=True)
    assert result.usage.generated_tokens == 5
    earlier = [*asked(1), {"role": "assistant", "content": "b"}, *asked(1 + positions - 2 * taken - 2 * more - 40)]
    assert model.chat(earlier, details=True).usage.generated_tokens > 5


def _spoken(text: str):
    class Spoken:
        pass

    spoken = Spoken()
    spoken.text = text
    return spoken


@pytest.mark.parametrize("template", [TEMPLATES["chatml"], None])
def test_recordings_are_written_down_heard_or_both(template, monkeypatch, tmp_path):
    model = chatting(template)
    path = tmp_path / "a.wav"
    import soundfile

    soundfile.write(path, np.sin(np.arange(4000) / 8).astype("float32") / 4, 16000)
    monkeypatch.setattr("mmlm.tasks.chat.transcribe", lambda *_, **__: _spoken(" how many legs? "))
    alone = [{"role": "user", "content": [{"type": "audio", "path": str(path)}]}]
    asked = [{"role": "user", "content": [{"type": "audio", "path": str(path)}, "answer it"]}]
    words = "Transcript of a recording: " if template else "Transcript:"
    assert model.chat_prompt(alone) == model.chat_prompt(said("how many legs?"))
    assert model.chat_prompt(asked) == model.chat_prompt(said(f"{words}how many legs?\nanswer it"))
    heard = model.chat_prompt(asked, mode="features")
    assert [part for part in heard if isinstance(part, Sound)] == [Sound(str(path))]
    assert not any("legs" in getattr(part, "text", str(part)) for part in heard)
    both = model.chat_prompt(asked, mode="both")
    assert Sound(str(path)) in both and any("legs" in str(part) for part in both)
    monkeypatch.setattr("mmlm.tasks.chat.transcribe", lambda *_, **__: _spoken(" "))
    with pytest.raises(ValueError, match="nothing is said"):
        model.chat_prompt(alone)
    with pytest.raises(ValueError, match="mode must be one of"):
        model.chat_prompt(alone, mode="ears")


def test_a_model_without_a_chat_template_is_asked_by_its_own_template():
    template = PromptTemplate()
    picture = Image("a.png")
    turns = [
        Message("system", ("Be brief.",)), Message("user", (picture, "what?")), Message("assistant", ("a cat",)),
        Message("user", ("why?",)), Message("assistant", ("be",)),
    ]  # fmt: skip
    asked = [
        "Be brief.\n",
        picture,
        "Question:what? Short answer:",
        "a cat",
        END_OF_CHUNK,
        "Question:why? Short answer:",
    ]
    assert template.conversation(turns[:-1]) == asked
    assert template.conversation(turns) == [*asked, "be"]
    assert template.conversation([Message("user", (picture,))]) == [picture, "Output:"]
    assert template.conversation([Message("user", (Sound("a"),))]) == [Sound("a"), "Short answer:"]
    with pytest.raises(ValueError, match="no chat template"):
        template.conversation([Message("tool", ("1",))])
    with pytest.raises(ValueError, match="no chat template"):
        parts.shared("llama").chat(said("a"), chat_template_kwargs={"a": 1})


def test_by_its_own_template_an_earlier_answer_ends_before_what_follows():
    model = parts.shared("llama")
    earlier = said("hello", "yes?")
    for asked in (said("hello", "yes?", "and wings?"), said("hello", "yes?", "and", "no", "and wings?")):
        expected = model.chat(asked, max_new_tokens=6)
        assert model.ask(messages=asked[:-1], question="and wings?", max_new_tokens=6) == expected
    prompt = ["Question:hello Short answer:", "yes?", END_OF_CHUNK, "Question:legs? Short answer:four\n"]
    expected = model.generate([*prompt, "Question:and wings? Short answer:"], max_new_tokens=6, stop="\n").text
    shown = [("legs?", "four")]
    assert model.ask(messages=earlier, question="and wings?", examples=shown, max_new_tokens=6) == expected
    assert model.ask(messages=earlier, max_new_tokens=6) == model.chat(earlier, max_new_tokens=6)


def test_examples_of_ask_are_turns_and_messages_come_before():
    model = chatting()
    shown = [("how many legs has a dog?", "four")]
    expected = model.chat(said(*shown[0], "and wings?"), max_new_tokens=6)
    assert model.ask(None, transcript="and wings?", examples=shown, max_new_tokens=6) == expected
    before = [{"role": "system", "content": "Be brief."}, *said("hello", "yes?")]
    expected = model.chat([*before, *said(*shown[0], "and wings?")], max_new_tokens=6)
    found = model.ask(None, transcript="and wings?", messages=before, examples=shown, max_new_tokens=6)
    assert found == expected
    asked = [*before, *said("and wings?")]
    assert model.ask(messages=asked, max_new_tokens=6) == model.chat(asked, max_new_tokens=6)
    for nothing in ({}, {"messages": asked, "examples": shown}):
        with pytest.raises(ValueError, match="nothing to answer: give"):
            model.ask(**nothing)
    own = chatting(TEMPLATES["chatml"] + "{{ 'No.' if hurry is defined }}")
    assert own.ask(None, transcript="a", chat_template_kwargs={"hurry": True}, max_new_tokens=6) == own.chat(
        said("a"), chat_template_kwargs={"hurry": True}, max_new_tokens=6
    )
    with pytest.raises(TypeError, match="unknown option 'enable_thinking'; .*chat_template_kwargs="):
        own.ask(None, transcript="a", enable_thinking=False)
    with pytest.raises(ValueError, match="pass chat=True"):
        model.ask(None, transcript="a", chat=False, chat_template_kwargs={"hurry": True})


# On the command line


def talk(monkeypatch, capsys, typed: str, *arguments: str) -> tuple[int, list[str], str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    code = main(["chat", *arguments])
    found = capsys.readouterr()
    return code, found.out.splitlines(), found.err


@pytest.fixture(scope="module")
def scene(nano_folder, tmp_path_factory):
    model = mmlm.load("nano")
    path = tmp_path_factory.mktemp("scene") / "a scene.png"
    model.draw("in the middle a large red circle, on a white background", seed=0).save(path)
    return model, path


def test_a_talk_is_answered_line_by_line(scene, monkeypatch, capsys, tmp_path):
    model, path = scene
    asked, again = "what color is the circle?", "what shape is it?"
    first = [{"role": "user", "content": [{"type": "image", "path": str(path)}, {"type": "text", "text": asked}]}]
    answer = model.chat(first, max_new_tokens=8)
    second = [*first, {"role": "assistant", "content": answer}, {"role": "user", "content": again}]
    saved = tmp_path / "talk.json"
    code, out, err = talk(
        monkeypatch, capsys, f'/image "{path}" {asked}\nnever mind\n/undo\n/nonsense\n{again}\n', "--max-new-tokens",
        "8", "--save", str(saved),
    )  # fmt: skip
    assert code == 1 and "/nonsense is no command" in err  # the others were answered
    assert out[0].strip() == answer == "red" and out[2].strip() == model.chat(second, max_new_tokens=8)
    kept = json.loads(saved.read_text())
    assert kept[:3] == second and kept[3] == {"role": "assistant", "content": out[2].strip()}
    saved.write_text(json.dumps(kept[:3]))
    code, out, _ = talk(monkeypatch, capsys, "", "--messages", str(saved), "--json", "--max-new-tokens", "8")
    (line,) = [json.loads(text) for text in out]
    assert code == 0 and line["role"] == "assistant" and line["content"] == kept[3]["content"]


def test_one_question_ends_the_talk_and_a_cut_is_told(scene, monkeypatch, capsys):
    _, path = scene
    code, out, err = talk(
        monkeypatch, capsys, "never read", "what color is the circle?", "--image", str(path), "--max-new-tokens", "1"
    )
    assert code == 0 and len(out) == 1 and "cut off after 1 tokens: raise --max-new-tokens" in err


def test_what_cannot_be_used_is_named_and_the_talk_goes_on(scene, monkeypatch, capsys, tmp_path):
    _, path = scene
    code, out, err = talk(
        monkeypatch, capsys, f"/image nowhere.png what?\n/image '{path}'\nwhat color is the circle?\n/exit\nmore\n",
        "--max-new-tokens", "8",
    )  # fmt: skip
    assert code == 1 and "'nowhere.png': no such file" in err and [line.strip() for line in out] == ["red"]
    typed = f"/image '{path}'\n/audio nowhere.wav\nwhat color is the circle?\n/save {tmp_path}/none/talk.json\n"
    code, out, err = talk(monkeypatch, capsys, typed, "--max-new-tokens", "8")
    assert code == 1 and "'nowhere.wav': no such file" in err and [line.strip() for line in out] == ["red"]
    assert f"{tmp_path}/none: no such folder" in err
    bad = tmp_path / "talk.json"
    bad.write_text('{"role": "user"}')
    for arguments, complaint in (
        (["--messages", str(bad)], "messages are a list, not dict"),
        (["--messages", str(tmp_path)], "not a regular file"),
        (["hello", "--image", "nowhere.png"], "nowhere.png: no such file"),
        (["hello", "--audio", "nowhere.wav"], "nowhere.wav: no such file"),
        (["hello", "--save", f"{tmp_path}/none/talk.json"], f"{tmp_path}/none: no such folder"),
        (["hello", "--save", str(tmp_path)], "is a folder: name a file in it"),
    ):
        code, out, err = talk(monkeypatch, capsys, "", *arguments)
        assert code == 2 and out == [] and complaint in err
    with pytest.raises(SystemExit):
        main(["chat", "hello", "--chat-template-kwargs", "[1]"])


def test_a_text_of_several_lines_and_one_that_begins_with_a_slash(scene, monkeypatch, capsys, tmp_path):
    saved = tmp_path / "talk.json"
    talk(monkeypatch, capsys, '"""\nwhat is\nit?\n"""\n//image a\n', "--save", str(saved), "--max-new-tokens", "1")
    kept = [message["content"] for message in json.loads(saved.read_text()) if message["role"] == "user"]
    assert kept == ["what is\nit?", "/image a"]
