"""What is given is checked where it is given: settings, arguments, and one input or several in every verb."""

import dataclasses
import inspect
import math
import typing

import numpy as np
import pytest
import torch

import mmlm
from decoders.codecs.audio_vqvae import AudioVQVAEConfig
from decoders.codecs.image_vqvae import ImageVQVAEConfig
from decoders.codecs.quantizer import QuantizerConfig
from decoders.diffusion.decoder import DiffusionDecoderConfig
from encoders.media import MediaError
from encoders.transcription.transcriber import Transcriber
from mmlm.assembly.codecs import Codecs
from mmlm.assembly.config import CodecPart, FrozenPart, ImageEncoderPart, ModelConfig
from mmlm.generation.options import GenerationOptions
from mmlm.model.config import FusionConfig, LoraConfig, ResamplerConfig
from mmlm.prompting.code_layout import CodeLayout
from mmlm.prompting.templates import PromptTemplate
from mmlm.reasoning.exchange import Limits
from mmlm.serving.cluster.scale import Scale
from mmlm.serving.options import EngineOptions
from mmlm.serving.settings import Limits as ServingLimits
from mmlm.serving.settings import Settings
from mmlm.training.alignment.config import GrpoConfig, PpoConfig
from mmlm.training.config import CodecTrainConfig, TrainConfig, TrainerConfig, WritingTrainConfig
from support import codec_parts, families, parts
from support.hearing import noise, tiny_whisper

PART = FrozenPart("a/model", "0" * 16)
CONFIGS = [
    ResamplerConfig(), FusionConfig(), LoraConfig(), PromptTemplate(), CodeLayout("audio", 8), GenerationOptions(),
    ImageVQVAEConfig(), AudioVQVAEConfig(), QuantizerConfig(), DiffusionDecoderConfig(), TrainerConfig(), TrainConfig(),
    WritingTrainConfig(), CodecTrainConfig(), Codecs(), PART, ImageEncoderPart("a", "b"), CodecPart("a", "b"),
    ModelConfig(PART), EngineOptions(), ServingLimits(), Settings(), Scale(), Limits(), GrpoConfig(), PpoConfig(),
]  # fmt: skip
WRONG = (object(), {"a": 1}, b"bytes", torch.float32, [None])  # of no field's kind
NO_NUMBERS = ("3", True, math.nan, np.int64(3), torch.tensor(3))


def fields():
    for config in CONFIGS:
        hints = typing.get_type_hints(type(config))
        for field in dataclasses.fields(config):
            yield pytest.param(config, field.name, hints[field.name], id=f"{type(config).__name__}.{field.name}")


@pytest.mark.parametrize(("config", "name", "hint"), list(fields()))
def test_a_value_of_a_wrong_kind_is_named_where_it_is_given(config, name, hint):
    kinds = typing.get_args(hint) or (hint,)
    wrong = [value for value in WRONG if not (typing.get_origin(hint) is dict and isinstance(value, dict))]
    wrong = [*wrong, *(NO_NUMBERS if {int, float} & {*kinds} and bool not in kinds else ())]
    if isinstance(config, GenerationOptions):
        own = (np.integer, float, list, *((dict,) if name == "json_schema" else ()))
        wrong = [value for value in wrong if not isinstance(value, own)]
    for value in wrong:
        with pytest.raises((TypeError, ValueError), match=name):
            dataclasses.replace(config, **{name: value})


@pytest.mark.parametrize(
    ("kind", "values", "named"),
    [
        (FusionConfig, dict(visibility="foo"), "visibility must be 'latest', 'group' or 'all', not 'foo'"),
        (FusionConfig, dict(heads=0), "heads must be at least 1, not 0"),
        (FusionConfig, dict(cross_attention_every="1"), "cross_attention_every must be a whole number"),
        (ResamplerConfig, dict(heads="8"), "heads must be a whole number, not '8'"),
        (ResamplerConfig, dict(depth=-1), "depth must be at least 0"),
        (ResamplerConfig, dict(stack=0), "stack must be at least 1"),
        (LoraConfig, dict(alpha="16"), "alpha must be a number, not '16'"),
        (AudioVQVAEConfig, dict(sample_rate="16000"), "sample_rate must be a whole number, not '16000'"),
        (ImageVQVAEConfig, dict(width=0), "width must be at least 1"),
        (QuantizerConfig, dict(decay=1.5), "decay"),
        (TrainConfig, dict(learning_rate="1e-3"), "learning_rate must be a number, not '1e-3'"),
        (WritingTrainConfig, dict(tune="all"), "tune must be one of 'rows', 'lora', 'full'"),
    ],
)
def test_the_message_says_what_would_do(kind, values, named):
    with pytest.raises((TypeError, ValueError), match=named):
        kind(**values)


# Assembling and loading


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (dict(dtype="float16"), "dtype is one of torch's types.*'float16': write torch.float16"),
        (dict(dtype=torch.int8), "floating-point"),
        (dict(dtype=None), "dtype"),
        (dict(device="gpu"), "no device 'gpu'"),
        (dict(device="meta"), "no device 'meta'"),
        (dict(device=None), "device is a name"),
        (dict(fusion={"heads": 4}), r"fusion is a FusionConfig\(…\), not dict"),
        (dict(resampler=FusionConfig()), "resampler is a ResamplerConfig"),
        (dict(fusion=FusionConfig(cross_attention_every=0)), "cross_attention_every must be in 1..3"),
        (dict(template="Output:"), "template is a PromptTemplate"),
        (dict(lora=8), "lora is a LoraConfig"),
        (dict(codecs="nano"), "codecs is a Codecs"),
        (dict(final_norm=False), "give it to the ready-made ClipImageEncoder itself"),
        (dict(seed="0"), "seed must be a whole number"),
        (dict(image_encoder=5), "not as int"),
        (dict(image_encoder=torch.nn.Linear(1, 1)), "ClipImageEncoder"),
        (dict(audio_encoder=torch.nn.Linear(1, 1)), "WhisperAudioEncoder"),
        (dict(audio_encoder=b"tiny"), "not as bytes"),
        (dict(language_model=None), "not as NoneType"),
        (dict(language_model=torch.nn.Linear(1, 1)), "language model is a causal one of transformers"),
        (dict(tokenizer="gpt2"), "tokenizer is one of transformers'"),
        (dict(tokenizer=None), "needs its tokenizer"),
    ],
)
def test_assemble_names_what_is_wrong(wrong, named):
    given = dict(
        language_model=families.language_model("llama"), image_encoder=parts.image_encoder(),
        tokenizer=families.tokenizer(),
    )  # fmt: skip
    with pytest.raises((TypeError, ValueError), match=named):
        mmlm.assemble(**{**given, **wrong})


@pytest.mark.parametrize(
    ("name", "wrong", "named"),
    [
        (None, {}, "a model is given by its name or path, not as NoneType"),
        (5, {}, "not as int"),
        ("nano", dict(dtype="float16"), "write torch.float16"),
        ("nano", dict(device="cuda:99"), "no device 'cuda:99'"),
        ("nano", dict(codecs={}), "codecs is a Codecs"),
    ],
)
def test_load_names_what_is_wrong(name, wrong, named):
    with pytest.raises((TypeError, ValueError), match=named):
        mmlm.load(name, **wrong)


# Verbs


def test_each_verb_names_the_nearest_option_for_one_that_it_does_not_know():
    model = parts.shared("llama")
    for verb, given, named in (
        (model.draw, dict(temprature=1.0), "did you mean 'temperature'"),
        (model.speak, dict(guidence_scale=2.0), "did you mean 'guidance_scale'"),
        (model.transcribe, dict(langauge="en"), "did you mean 'language'"),
        (model.caption, dict(num_beam=2), "did you mean 'num_beams'"),
        (model.generate, dict(stream=True), r"model.stream\(prompt"),
        (model.generate, dict(stop_strings=["a"]), "did you mean 'stop'"),
        (model.generate, dict(guidance_scale=2.0), "draw and speak"),
        (model.generate, dict(max_length=5), "did you mean 'max_new_tokens'"),
    ):
        with pytest.raises(TypeError, match=named):
            verb("a", **given)
    assert "temprature" not in inspect.signature(model.draw).parameters
    assert "max_new_tokens" not in inspect.signature(model.draw).parameters


FLAGS = ("x", "", 1, 0, None, np.True_, [], object())
COUNTS = ("3", 2.0, True, [], torch.tensor(3), object())
MEASURES = ("1", True, math.nan, None, [], object())
TEXTS = (1, True, b"en", ["en"], object())
OPTIONS = [  # of verbs, and values of no kind that they have
    ("caption", "details", FLAGS), ("answer", "details", FLAGS), ("ask", "details", FLAGS), ("chat", "details", FLAGS),
    ("draw", "details", FLAGS), ("speak", "details", FLAGS), ("draw", "rerank", FLAGS), ("chat", "allow_url", FLAGS),
    *(("transcribe", name, FLAGS) for name in
      ("condition_on_previous_text", "vad", "word_timestamps", "allow_truncated", "allow_url")),
    *((verb, "batch_size", (*COUNTS, None)) for verb in
      ("caption", "answer", "ask", "chat", "generate", "draw", "speak")),
    *((verb, "votes", COUNTS) for verb in ("answer", "ask", "chat")),
    *((verb, "steps", COUNTS) for verb in ("generate", "draw", "speak")),
    ("draw", "num_images", (*COUNTS, None)), ("transcribe", "beam_size", COUNTS),
    ("transcribe", "pcm_rate", ("3", True, math.nan, [], object())),
    *((verb, "seed", (*COUNTS, None)) for verb in ("draw", "speak", "transcribe")),
    *((verb, "max_seconds", MEASURES) for verb in ("generate", "speak", "transcribe")),
    *((verb, "guidance_scale", MEASURES) for verb in ("draw", "speak")), ("transcribe", "max_bytes", MEASURES),
    *((verb, "language", TEXTS) for verb in ("ask", "chat", "transcribe")), ("transcribe", "prompt", TEXTS),
    *((verb, "mode", ("x", 1, None, np.array([1, 2]))) for verb in ("ask", "chat")),
    ("generate", "generation_mode", ("x", 1, None)), ("transcribe", "task", ("x", 1, None)),
    ("transcribe", "channels", ("x", 1, np.array([1, 2]))), ("ask", "chat", ("x", 1, [])),
    *((verb, "chat_template_kwargs", ("x", "", 0, False, ())) for verb in ("ask", "chat")),
    *((verb, "progress", ("x", 1, [])) for verb in ("generate", "draw", "speak")),
    *((verb, "stop", (1, None, 2.5, [1])) for verb in ("caption", "answer", "ask", "chat", "generate", "stream")),
    *((verb, "bad_words_ids", ("x", ["x"], [[1.5]])) for verb in ("caption", "ask", "generate")),
    *((verb, name, ("", "x")) for verb in ("ask", "generate") for name in ("stop_token_ids", "logits_processor")),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "name", "wrong"), OPTIONS, ids=lambda value: value if isinstance(value, str) else "")
def test_an_option_of_a_verb_that_is_of_no_kind_it_has_is_named_before_any_work(verb, name, wrong, monkeypatch):
    model = parts.shared("llama", ears="latents")
    for work in ("encoders.media.sound.open_audio", "encoders.media.image.load_image"):
        monkeypatch.setattr(work, lambda *a, **k: pytest.fail("worked"))
    given = {"answer": [parts.picture(1), "what?"], "ask": [None, "what?"], "generate": [["a"]], "stream": [["a"]]}
    given |= {"chat": [[{"role": "user", "content": "a"}]], "caption": [parts.picture(1)], "transcribe": ["a.wav"]}
    for value in wrong:
        with pytest.raises((TypeError, ValueError), match=name):
            getattr(model, verb)(*given.get(verb, ["a"]), **{name: value})


@pytest.mark.parametrize("wrong", [dict(top_k=5), dict(votes=0), dict(temperature=-1.0), dict(stop=3)])
def test_options_that_cannot_be_are_told_before_a_recording_is_written_down(wrong, monkeypatch):
    model = parts.build("llama", ears="latents")
    for room in ("ask", "chat"):
        monkeypatch.setattr(f"mmlm.tasks.{room}.transcribe", lambda *a, **k: pytest.fail("transcribed"))
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        model.ask(parts.sound(0.2).source, **wrong)
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        model.chat([{"role": "user", "content": [mmlm.Sound(parts.sound(0.2).source)]}], **wrong)


def test_nothing_that_is_given_is_ignored():
    model = parts.shared("llama")
    with pytest.raises(ValueError, match="steps are those of pictures and sounds"):
        model.generate(["a"], steps=4)
    with pytest.raises(ValueError, match="no chat template: leave out chat=True"):
        model.ask(None, "what?", chat=True)
    for messages in ("", 0, False, {}, np.array([1, 2])):
        with pytest.raises((TypeError, ValueError), match="messages?"):
            model.ask(None, "what?", messages=messages)
    with pytest.raises(ValueError, match="length_penalty acts only in beam search: pass num_beams"):
        GenerationOptions(length_penalty=2.0)


@pytest.mark.parametrize("wrong", [None, 5, {}, object(), 2.5])
def test_no_verb_takes_what_is_neither_text_nor_media(wrong):
    """A ValueError or TypeError in words, from this library."""
    model = parts.shared("llama", ears="latents")
    for verb in (
        lambda: model.generate(wrong),
        lambda: model.generate([wrong]),
        lambda: model.caption(wrong),
        lambda: model.caption([wrong]),
        lambda: model.answer(parts.picture(1), wrong),
        lambda: model.answer(wrong, "what?"),
        lambda: model.ask(parts.sound(0.2).source, transcript="a", question=5 if wrong is None else wrong),
        lambda: model.ask(parts.sound(0.2).source, transcript={} if wrong is None else wrong),
        lambda: model.draw(wrong),
        lambda: model.speak(wrong),
    ):
        with pytest.raises((TypeError, ValueError)) as error:
            verb()
        said = str(error.value)
        assert said and "object has no attribute" not in said and "not supported between" not in said, said


def several(values):
    """The same values in everything that holds several."""
    yield list(values)
    yield tuple(values)
    yield iter(values)
    yield (value for value in values)
    array = np.empty(len(values), dtype=object)
    array[:] = values
    yield array


def test_several_mean_the_same_in_every_verb():
    model = parts.shared("llama")
    pictures, questions = [parts.picture(1), parts.picture(2)], ["what?", "how many things?"]
    for verb, values in (
        (lambda given: model.caption(given, max_new_tokens=3), pictures),
        (lambda given: model.answer(given, "what?", max_new_tokens=3), pictures),
        (lambda given: model.answer(pictures[0], given, max_new_tokens=3), questions),
        (
            lambda given: model.ask(None, question=given, transcript="", chat=False, max_new_tokens=3),
            questions,
        ),
        (
            lambda given: [r.text for r in model.generate(given, max_new_tokens=3)],
            [[pictures[0], "Output:"], [pictures[1], "Output:"]],
        ),
    ):
        alone = [verb([value])[0] for value in values]
        for given in several(values):
            assert verb(given) == alone
    prompt = [pictures[0], "Output:"]
    one = model.generate(prompt, max_new_tokens=3).text
    assert model.generate(iter(prompt), max_new_tokens=3).text == model.generate(tuple(prompt), max_new_tokens=3).text
    assert model.generate((row for row in [iter(prompt)]), max_new_tokens=3)[0].text == one
    assert "".join(model.stream(tuple(prompt), max_new_tokens=3)) == one


def test_a_stack_of_pictures_is_several_pictures():
    model = parts.shared("llama")
    stack = np.stack([np.asarray(parts.picture(seed)) for seed in (1, 2)])
    expected = model.caption([parts.picture(1), parts.picture(2)], max_new_tokens=3)
    assert model.caption(stack, max_new_tokens=3) == expected
    assert model.caption(torch.from_numpy(stack).permute(0, 3, 1, 2), max_new_tokens=3) == expected
    assert model.caption(stack[0], max_new_tokens=3) == expected[0]
    for layout in (torch.strided, torch.jagged):
        pictures = [torch.from_numpy(one).permute(2, 0, 1) for one in stack]
        assert model.caption(torch.nested.nested_tensor(pictures, layout=layout), max_new_tokens=3) == expected


def test_no_inputs_give_no_answers():
    model = parts.shared("llama", ears="latents")
    assert model.caption([]) == model.answer([], "what?") == model.ask([]) == model.ask(None, []) == []
    assert model.generate([]) == model.transcribe([]) == model.draw([]) == []


ARRAYS = {
    "nested": lambda: torch.nested.nested_tensor([torch.rand(20, 30), torch.rand(20, 30)]),
    "meta": lambda: torch.rand(2, 3, 20, 30).to("meta"),
    "sparse": lambda: torch.rand(20, 30).to_sparse_csr(),
    "structured": lambda: np.zeros((2, 20, 30), dtype=[("r", "u1")]),
    "of no dimension": lambda: np.array(0.5),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_hold_nothing_are_refused_by_every_verb_in_our_own_words(name):
    model, wrong, picture = parts.shared("llama", ears="latents"), ARRAYS[name](), parts.picture(1)
    for verb, given in (
        ("caption", [wrong]), ("answer", [wrong, "what?"]), ("answer", [picture, wrong]), ("transcribe", [wrong]),
        ("transcribe", [(wrong, 16_000)]), ("ask", [(wrong, 16_000)]), ("ask", [None, "what?", wrong]),
        ("generate", [[wrong, "Output:"]]), ("stream", [[wrong]]), ("draw", [wrong]), ("speak", [wrong]),
        ("chat", [[{"role": "user", "content": wrong}]]), ("log_probs", [[[wrong]], ["a"]]),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError)) as error:
            getattr(model, verb)(*given)
        ours = not {"torch", "numpy"} & set(error.traceback[-1].path.parts)
        assert ours and "ambiguous" not in str(error.value), f"{verb}: {error.value}"


@pytest.mark.parametrize("rate", [16_000.0, np.float32(16_000), np.int64(16_000)])
def test_a_rate_of_raw_samples_may_be_any_number_without_a_fraction(rate):
    """As it may for `load_audio`; other libraries tell rates as floats."""
    model, raw = parts.build("llama", ears="latents"), (noise(1) * 32_767).astype("<i2").tobytes()
    model.transcriber = Transcriber(tiny_whisper())
    assert model.transcribe(raw, pcm_rate=rate) == model.transcribe(raw, pcm_rate=16_000)
    with pytest.raises(MediaError, match="pcm_rate must be a whole number of Hz"):
        model.transcribe(raw, pcm_rate=float(rate) + 0.5)


def test_several_texts_are_drawn_and_recordings_written_down_alike(tmp_path):
    import soundfile

    model = parts.build("llama", ears="latents")
    model.transcriber = Transcriber(tiny_whisper())
    once, pairs = dict(temperatures=(0.0,)), [(noise(seconds), 16000) for seconds in (1.0, 2.0)]
    files = [str(tmp_path / name) for name in ("a.wav", "b.wav")]
    for file, (samples, rate) in zip(files, pairs, strict=True):
        soundfile.write(file, samples, rate, subtype="FLOAT")
    said = [model.transcribe(pair, **once) for pair in pairs]
    assert [one.seconds for one in said] == [1.0, 2.0]
    for given in several(files):
        assert model.transcribe(given, **once) == said
    with open(files[0], "rb") as file:
        assert model.transcribe(file, **once) == said[0]
    codecs = Codecs(image=codec_parts.palette_codec())
    drawing = mmlm.assemble(
        families.language_model("llama"), parts.image_encoder(), tokenizer=families.tokenizer(), codecs=codecs
    )
    alone = [picture.tobytes() for picture in drawing.draw(["a", "b"], seed=3)]
    for given in several(["a", "b"]):
        assert [picture.tobytes() for picture in drawing.draw(given, seed=3)] == alone


def test_a_files_name_in_a_prompt_is_not_taken_for_a_text(tmp_path, monkeypatch):
    model = parts.shared("llama")
    parts.picture(1).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    for prompt in ("photo.png", ["photo.png", "Output:"], [["photo.png", "Output:"]], [str(tmp_path / "photo.png")]):
        with pytest.raises(ValueError, match=r"is the name of a file.*write mmlm\.Image\('.*photo\.png'\)"):
            model.generate(prompt)
        if not isinstance(prompt[0], list):
            with pytest.raises(ValueError, match="name of a file"):
                model.stream(prompt)
    seen = model.generate([tmp_path / "photo.png", "Output:"], max_new_tokens=3)
    assert seen.usage.media_items == 1
    assert seen.text == model.generate([mmlm.Image("photo.png"), "Output:"], max_new_tokens=3).text
    for text in ("other.png", "what is in photo.png?", "photo"):
        assert model.generate([text], max_new_tokens=1).usage.media_items == 0


def test_one_stop_string_is_one_string():
    model = parts.shared("llama")
    recording = parts.sound(0.2).source
    for given in ("zebra", ["zebra"], ("zebra",)):
        text = model.ask(
            recording, transcript="how many?", examples=[("a", "b")], stop=given, max_new_tokens=12, details=True
        )
        assert text.finish_reason in ("length", "stop")
        free = model.ask(recording, transcript="how many?", examples=[("a", "b")], max_new_tokens=12, details=True)
        assert text.text == free.text.split("zebra")[0]


def test_a_part_that_holds_a_file_stands_for_the_file(tmp_path):
    """`mmlm.Sound` and `mmlm.Image`, which prompts take, go into the verbs that take one kind of media too."""
    model = parts.build("llama", ears="latents")
    sound = parts.sound(0.2).source
    model.transcriber = Transcriber(tiny_whisper())
    one = model.transcribe(sound, temperatures=(0.0,))
    assert model.transcribe(mmlm.Sound(sound), temperatures=(0.0,)) == one
    assert model.transcribe([mmlm.Sound(sound), sound], temperatures=(0.0,)) == [one, one]

    class Ears:
        def transcribe(self, recording, **options):
            return "how many?"

    model.__dict__["transcriber"] = Ears()
    picture = parts.picture(1)
    for mode in ("transcript", "both"):
        plain = model.ask(sound, "what?", mode=mode, image=picture, max_new_tokens=3)
        assert model.ask(mmlm.Sound(sound), "what?", mode=mode, image=mmlm.Image(picture), max_new_tokens=3) == plain
    codecs = Codecs(image=codec_parts.palette_codec())
    drawing = mmlm.assemble(
        families.language_model("llama"), parts.image_encoder(), tokenizer=families.tokenizer(), codecs=codecs
    )
    ones = np.ones((40, 48), bool)
    alone = drawing.draw("a", init_image=picture, mask=ones, seed=3)
    assert drawing.draw("a", init_image=mmlm.Image(picture), mask=mmlm.Image(ones), seed=3).tobytes() == (
        alone.tobytes()
    )


def test_the_home_folder_is_found_by_its_sign(tmp_path, monkeypatch):
    import soundfile

    from encoders.media import load_audio, load_image
    from mmlm.training.recipe import load_recipe

    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    parts.picture(1).save(home / "a.png")
    soundfile.write(home / "a.wav", np.zeros(1600), 16000)
    assert load_image("~/a.png").tobytes() == parts.picture(1).tobytes()
    assert load_audio("~/a.wav").seconds == 0.1
    with pytest.raises(FileNotFoundError, match="~/b.png"):
        load_image("~/b.png")
    with pytest.raises(FileNotFoundError, match="~nobody-of-this-name"):
        load_image("~nobody-of-this-name/b.png")
    parts.picture(2).save(here / "~a.png")  # a name that only begins so
    assert load_image("~a.png").tobytes() == parts.picture(2).tobytes()
    (home / "r.yaml").write_text("model: nano\ndata: d.jsonl\noutput: o\n")
    assert load_recipe("~/r.yaml").output == "o"
    model = parts.build("llama")
    model.language_model.model.save_pretrained(home / "lm")
    families.tokenizer().save_pretrained(home / "lm")
    made = mmlm.assemble("~/lm", parts.image_encoder())
    assert made.language_model.name == str(home / "lm")
    made.save("~/model")
    back = mmlm.load("~/model", image_encoder=parts.image_encoder())
    assert back.caption(parts.picture(1), max_new_tokens=3) == made.caption(parts.picture(1), max_new_tokens=3)
    assert sorted(path.name for path in here.iterdir()) == ["~a.png"]


def test_a_limit_below_a_second_is_told_as_it_was_given():
    from encoders.media import load_audio

    with pytest.raises(ValueError, match=r"longer than 0\.5 s"):
        load_audio((np.zeros(16000), 16000), max_seconds=0.5)
    with pytest.raises(ValueError, match=r"longer than 3,600 s"):
        load_audio((np.zeros(3601 * 1000, np.float32), 1000), max_seconds=3600)
