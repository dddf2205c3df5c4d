"""The command line: help without weight, one clear line for bad input, the same words as the Python interface."""

import dataclasses
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image, ImageDraw
from whisper import DecodingResult
from whisper.tokenizer import get_tokenizer

from encoders.media.sound import SAMPLE_RATE
from encoders.transcription import transcriber
from mmlm.cli import build_parser, keys, main
from support import parts
from support.hearing import noise, save_whisper, tiny_whisper

VERBS = (
    "caption answer generate transcribe ask chat draw speak serve ui init train data index eval probe convert models "
    "inspect"
).split()
HEAVY = ("torch", "transformers", "open_clip", "whisper", "PIL", "numpy", "matplotlib", "omegaconf", "huggingface_hub")


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def help_text(verb: str, capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.fixture
def pictures(tmp_path):
    """Three pictures of one shape each."""
    paths = []
    for name, colour in (("red", (250, 5, 5)), ("blue", (5, 5, 250)), ("green", (5, 250, 5))):
        image = Image.new("RGB", (64, 64), (243, 243, 243))
        ImageDraw.Draw(image).ellipse((24, 24, 42, 42), fill=colour)
        paths.append(tmp_path / f"{name}.png")
        image.save(paths[-1])
    return [str(path) for path in paths]


@pytest.fixture
def pairs(tmp_path, pictures):
    """A folder of captioned and questioned pictures with its metadata.jsonl."""
    lines = [
        {"file_name": name, "text": f"a {colour} circle", "question": "what color is it?", "answer": colour}
        for name, colour in (("red.png", "red"), ("blue.png", "blue"), ("green.png", "green"))
    ]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(tmp_path)


@pytest.fixture(scope="module")
def nano(nano_folder):
    import mmlm

    return mmlm.load("nano")


# ---- help


@pytest.mark.parametrize("arguments", [["--help"], *([verb, "--help"] for verb in VERBS), ["--version"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\n"
        "from mmlm.cli import main\n"
        "try:\n"
        f"    main({arguments})\n"
        "except SystemExit as ended:\n"
        "    assert ended.code == 0\n"
        f"print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    )
    assert run_python(code).endswith("heavy: []\n")


@pytest.mark.parametrize("encoding, printed", [("utf-8", "–"), ("latin-1", "\\u2013"), ("ascii", "\\u2013")])
def test_what_the_encoding_of_the_output_lacks_is_no_error(encoding, printed):
    """A terminal of Latin-1, or a log of ASCII: numbers "0–1" of the help have a dash that neither has."""
    command, own = [sys.executable, "-m", "mmlm", "train", "--help"], {**os.environ, "PYTHONIOENCODING": encoding}
    shown = subprocess.run(command, env=own, capture_output=True, check=True)
    assert printed.encode("utf-8") in shown.stdout and not shown.stderr


def test_every_verb_is_listed(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert re.findall(r"^    (\w+)", shown, re.MULTILINE) == list(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_examples_of_the_help_are_valid_commands(verb, capsys):
    examples = help_text(verb, capsys).partition("examples:\n")[2].splitlines()
    assert examples
    for example in examples:
        command = example.partition("  (")[0] if "  (" in example.strip() else example
        arguments = shlex.split(command.rpartition(" | ")[2])
        arguments = arguments[arguments.index("mmlm") :]  # behind a launcher
        assert arguments[:2] == ["mmlm", verb]
        build_parser().parse_args(arguments[1:])


def test_parts_keep_their_order():
    args = build_parser().parse_args(
        ["generate", "--image", "1.png", "--text", "a cat.", "--text", "then", "--image", "2.png", "--text", "a"]
    )
    assert args.parts == (
        ("image", "1.png"),
        ("text", "a cat."),
        ("text", "then"),
        ("image", "2.png"),
        ("text", "a"),
    )


def test_import_is_lazy_and_complete():
    assert run_python("import sys, mmlm; print('torch' in sys.modules)") == "False\n"
    import mmlm

    assert all(getattr(mmlm, name) is not None for name in mmlm.__all__)
    assert set(mmlm.__all__) <= set(dir(mmlm))
    with pytest.raises(AttributeError, match="has no attribute 'captoin'"):
        mmlm.captoin  # noqa: B018


# ---- bad input


def refused(capsys, *arguments: str) -> str:
    """The one line that a refused command leaves on stderr."""
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and err.startswith(f"mmlm {arguments[0]}: ")
    return err


def test_a_missing_picture_is_named_before_the_model_is_loaded(capsys, tmp_path):
    assert "nowhere.jpg: no such file" in refused(capsys, "caption", str(tmp_path / "nowhere.jpg"))
    assert "nowhere.jpg" in refused(capsys, "answer", str(tmp_path / "nowhere.jpg"), "what is it?", "--model", "none")


def test_a_file_that_is_no_picture_is_named(capsys, tmp_path, pictures):
    (tmp_path / "notes.txt").write_text("hello")
    assert "notes.txt" in refused(capsys, "caption", str(tmp_path / "notes.txt"), "--model", "none")
    whole = (tmp_path / "red.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    assert "half.png" in refused(capsys, "caption", str(tmp_path / "half.png"), "--model", "none")


def test_an_unknown_model_is_named(capsys, pictures):
    assert "'none'" in refused(capsys, "caption", pictures[0], "--model", "none")


def test_a_damaged_model_is_named(capsys, pictures, tmp_path):
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").write_bytes(b"none")
    assert f"{tmp_path} is damaged" in refused(capsys, "caption", pictures[0], "--model", str(tmp_path))


def test_an_unknown_device_is_named(capsys, pictures):
    assert "'gpu'" in refused(capsys, "caption", pictures[0], "--device", "gpu")


def test_an_empty_prompt_is_refused(capsys, pictures):
    assert "--image" in refused(capsys, "generate")
    assert "the question is empty" in refused(capsys, "answer", pictures[0], " ", "--model", "none")


@pytest.mark.parametrize(
    ("verb", "limit", "said"),
    [
        ("caption", "--max-pixels", "--max-pixels must be a number above 0, not 0"),
        ("caption", "--max-bytes", "--max-bytes must be a number above 0, not 0"),
        ("transcribe", "--max-seconds", "--max-seconds must be a number above 0, not 0"),
        ("transcribe", "--pcm-rate", "at 0 Hz"),
    ],
)
def test_a_limit_of_0_is_not_taken_for_none(capsys, pictures, talk, verb, limit, said):
    file = pictures[0] if verb == "caption" else str(talk)
    assert said in refused(capsys, verb, file, limit, "0", "--model", "none")


def test_a_file_whose_name_begins_like_an_option_is_told_how_to_be_given(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("-a.png").write_bytes(b"")
    with pytest.raises(SystemExit):
        main(["caption", "-a.png"])
    assert "(did you mean ./-a.png?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--num-beams", "0", "--num-beams must"),
        ("--max-new-tokens", "-1", "--max-new-tokens"),
        ("--temperature", "0", "temperature"),
        ("--top-p", "1.5", "--top-p"),
    ],
)
def test_generation_options_out_of_range(capsys, pictures, option, value, complaint):
    assert complaint in refused(capsys, "caption", pictures[0], option, value, "--model", "none")


def test_what_cannot_be_drawn_or_said_is_refused_before_the_model_is_loaded(capsys, tmp_path, monkeypatch):
    out = str(tmp_path / "out.png")
    assert "-n 4" in refused(capsys, "draw", "a ring", "-o", out, "--rerank", "--model", "none")
    assert "--init-image" in refused(capsys, "draw", "a ring", "-o", out, "--mask", out, "--model", "none")
    assert "no such folder" in refused(capsys, "draw", "a ring", "-o", str(tmp_path / "no/out.png"), "--model", "none")
    assert "must end in" in refused(capsys, "draw", "a ring", "-o", str(tmp_path / "out.txt"), "--model", "none")
    assert "must end in" in refused(capsys, "speak", "two", "-o", str(tmp_path / "out.png"), "--model", "none")
    assert "no such folder" in refused(capsys, "speak", "two", "-o", str(tmp_path / "no/out.wav"), "--model", "none")

    def denied(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    assert "cannot be written to" in refused(capsys, "draw", "a ring", "-o", out, "--model", "none")


def test_a_recipe_is_checked_before_it_runs(capsys, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    assert "recipe.yaml" in refused(capsys, "train", str(recipe))
    recipe.write_text(f"model: {{load: nano}}\ndata: {tmp_path}/pairs.jsonl\noutput: {tmp_path}/out\nsteps: 1\n")
    assert "learning_rat" in refused(capsys, "train", str(recipe), "learning_rat=1e-3")
    assert "key=value" in refused(capsys, "train", str(recipe), "steps")
    assert "pairs.jsonl" in refused(capsys, "train", str(recipe))
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_traceback(pictures):
    with pytest.raises(FileNotFoundError):
        main(["caption", pictures[0], "--model", "none", "--debug"])


def test_wrong_usage_exits_with_2(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["draw"])
    assert ended.value.code == 2
    for verb, given in (("caption", "IMAGE"), ("transcribe", "AUDIO")):
        for arguments in ([], ["a.file", "--data", "pairs.jsonl"]):
            assert main([verb, *arguments]) == 2
            assert f"give either {given}, one or more, or --data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("ask a.wav --langage en", "mmlm ask: unknown: --langage en (did you mean --language?); see `mmlm ask --help`"),
        ("transcribe a.wav --dtype x", "mmlm transcribe: unknown: --dtype x; see `mmlm transcribe --help`"),
        ("data check a.jsonl --medai", "mmlm data: unknown: --medai (did you mean --media?); see `mmlm data --help`"),
        (
            "train r.yaml --dryrun steps=3",
            "mmlm train: unknown: --dryrun steps=3 (did you mean --dry-run?); see `mmlm train --help`",
        ),
        (
            "draw -o a.png",
            "mmlm draw: the following arguments are required: TEXT; see `mmlm draw --help`",
        ),
    ],
)
def test_wrong_usage_is_one_line_of_its_verb(command, line, capsys):
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert ended.value.code == 2 and capsys.readouterr() == ("", f"{line}\n")


@pytest.mark.parametrize(
    "command, found",
    [
        ("train r.yaml --dry-run steps=3 a=1", {"recipe": "r.yaml", "overrides": ["steps=3", "a=1"]}),
        ("train r.yaml", {"recipe": "r.yaml", "overrides": []}),
        ("eval nano --suite captions d.json", {"model": "nano", "data": "d.json"}),
        ("answer a.png --json what?", {"image": "a.png", "question": "what?"}),
        ("caption a.png --json b.png", {"images": ["a.png", "b.png"]}),
        ("data check a.jsonl --media b.jsonl", {"action": "check", "source": ["a.jsonl", "b.jsonl"]}),
        ("draw -o a.png -- -x", {"output": "a.png", "text": "-x"}),
        ("answer -- a.png -what", {"image": "a.png", "question": "-what"}),
    ],
)
def test_options_stand_anywhere(command, found):
    args = vars(build_parser().parse_args(command.split()))
    assert {name: args[name] for name in found} == found


# ---- the verbs, on nano


def test_one_picture_gives_one_line(nano, pictures, capsys):
    assert main(["caption", pictures[0]]) == 0
    assert capsys.readouterr().out == nano.caption(pictures[0]) + "\n"


def test_several_pictures_give_a_line_each_in_order(nano, pictures, capsys):
    names = pictures * 3  # more than one batch
    expected = {name: nano.caption(name) for name in pictures}
    assert main(["caption", *names]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines == [[name, expected[name]] for name in names]


def test_json_is_one_object_a_line(nano, pictures, capsys):
    assert main(["caption", *pictures, "--json", "--num-beams", "3", "--max-new-tokens", "12"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = [nano.caption(name, num_beams=3, max_new_tokens=12) for name in pictures]
    shown = [(record["image"], record["caption"]) for record in records]
    assert shown == list(zip(pictures, expected, strict=True))
    results = nano.caption(pictures, num_beams=3, max_new_tokens=12, details=True)
    for record, result in zip(records, results, strict=True):
        assert record["token_ids"] == list(result.token_ids) and record["usage"] == vars(result.usage)
        assert record["log_probs"] == pytest.approx(result.log_probs, abs=1e-3) and record["score"] is not None


def test_a_picture_from_standard_input(nano, pictures, capsys, monkeypatch):
    with open(pictures[1], "rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read())))
    assert main(["caption", "-"]) == 0
    assert capsys.readouterr().out == nano.caption(pictures[1]) + "\n"


def test_answer(nano, pictures, capsys):
    question = "what color is the circle?"
    assert main(["answer", pictures[1], question, "--json"]) == 0
    answer = nano.answer(pictures[1], question)
    record = json.loads(capsys.readouterr().out)
    assert (record["image"], record["question"], record["answer"]) == (pictures[1], question, answer)
    assert main(["answer", pictures[1], question, "--details"]) == 0
    line, details = capsys.readouterr().out.splitlines()
    result = nano.answer(pictures[1], question, details=True)
    assert line == answer and f"ended by {result.finish_reason}" in details
    assert f"{len(result.token_ids)} tokens after {result.usage.prompt_tokens}" in details


@pytest.mark.parametrize("weights", ["exact", "fp16", "int8", "int4"])
def test_packed_weights_write_what_the_packed_model_writes(pictures, capsys, monkeypatch, weights):
    import mmlm
    from mmlm.assembly.multimodal_lm import MultimodalLM

    expected = mmlm.load("nano").pack(weights).caption(pictures)
    asked, pack = [], MultimodalLM.pack
    monkeypatch.setattr(MultimodalLM, "pack", lambda model, weights: (asked.append(weights), pack(model, weights))[1])
    assert main(["caption", *pictures, "--pack", weights]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines == [[name, text] for name, text in zip(pictures, expected, strict=True)] and asked == [weights]


def test_generate_writes_what_the_model_writes(nano, pictures, capsys):
    import mmlm

    prompt = [mmlm.Image(pictures[0]), "Output:a red circle", mmlm.Image(pictures[1]), "Output:"]
    arguments = ["generate", "--image", pictures[0], "--text", "Output:a red circle", "--image", pictures[1]]
    assert main([*arguments, "--text", "Output:"]) == 0
    assert capsys.readouterr().out == parts.texts(nano, prompt) + "\n"
    assert main([*arguments, "--text", "Output:", "--num-beams", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == parts.texts(nano, prompt, num_beams=2)


def test_sampling_follows_its_seed(nano, pictures, capsys):
    texts = []
    for seed in ("1", "1", "2", "3"):
        options = ["--temperature", "3", "--seed", seed, "--max-new-tokens", "8"]
        assert main(["generate", "--text", "Output:", *options]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and len(set(texts)) > 1


def test_few_shot_examples_come_before_the_picture(nano, pictures, pairs, capsys):
    import mmlm

    assert main(["caption", pictures[0], "--examples", pairs, "--shots", "2"]) == 0
    rices = mmlm.Rices(nano.encoders["image"], pairs)
    prompt = rices.caption_prompt(pictures[0], 2, nano.template)
    assert sum(isinstance(part, mmlm.Image) for part in prompt) == 3
    assert capsys.readouterr().out == " ".join(parts.texts(nano, prompt).split()) + "\n"


def test_models_lists_nano_with_its_size(nano_folder, capsys):
    assert main(["models", "--json"]) == 0
    record, *others = map(json.loads, capsys.readouterr().out.splitlines())
    names = ["chat-tiny", "chat-small", "chat-medium", "openflamingo-3b", "openflamingo-3b-instruct"]
    assert [other["name"] for other in others][:5] == names
    assert "whisper/small" in others[1]["about"] and others[1]["megabytes"] == 5100
    size = sum(path.stat().st_size for path in nano_folder.rglob("*") if path.is_file())
    assert record["name"] == "nano" and record["about"] and abs(record["megabytes"] - size / 1e6) < 0.1


def test_train_then_caption_and_measure(nano, pictures, pairs, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: {load: nano}\ndata: none\noutput: none\nsteps: 2\nbatch_size: 2\n")
    output = tmp_path / "run"
    assert main(["train", str(recipe), f"data={pairs}", f"output={output}"]) == 0
    folder = capsys.readouterr().out.strip()
    assert folder == str(output / "model")
    assert main(["caption", pictures[0], "--model", folder]) == 0
    assert capsys.readouterr().out.strip()
    assert main(["eval", folder, pairs, "--limit", "3", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["image"]["loss"]["records"] == 3 and report["image"]["answers"]["count"] == 3
    assert report["audio"] is None


def test_a_run_whose_model_is_not_there_leaves_nothing(pairs, tmp_path, capsys):
    recipe, output = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(f"model: {{load: nothere}}\ndata: {pairs}\noutput: {output}\nsteps: 1\n")
    assert "no model 'nothere'" in refused(capsys, "train", str(recipe))
    assert not output.exists()
    output.mkdir()
    (output / "recipe.yaml").write_text("of an earlier run")
    assert "no model 'nothere'" in refused(capsys, "train", str(recipe))
    assert (output / "recipe.yaml").read_text() == "of an earlier run"


# ---- transcribe


@pytest.fixture(scope="module")
def ears(tmp_path_factory):
    """A random Whisper in upstream's file layout."""
    return str(save_whisper(tiny_whisper(sharpness=3.0), tmp_path_factory.mktemp("ears") / "whisper.pt"))


@pytest.fixture
def talk(tmp_path):
    path = tmp_path / "talk.wav"
    soundfile.write(path, noise(4.0), SAMPLE_RATE)
    return str(path)


@pytest.fixture
def said(monkeypatch):
    """What the model is taken to say: two segments, whatever it hears."""
    tokenizer = get_tokenizer(True, num_languages=99, language="en", task="transcribe")
    first = tokenizer.timestamp_begin
    tokens = [first, *tokenizer.encode(" Good"), first + 50, first + 50, *tokenizer.encode(" day."), first + 100]

    def decode(model, heard, options, generator):
        return DecodingResult(
            heard.features, "en", None, tokens, " Good day.", avg_logprob=-0.1, no_speech_prob=0.0, temperature=0.0,
            compression_ratio=1.0,
        )  # fmt: skip

    monkeypatch.setattr(transcriber, "decode_window", decode)


def test_transcribe_prints_what_is_said(capsys, ears, talk, said):
    assert main(["transcribe", talk, "--model", ears, "--language", "English"]) == 0
    assert capsys.readouterr().out == "Good\nday.\n"
    assert main(["transcribe", talk, talk, "--model", ears, "--language", "en"]) == 0
    assert capsys.readouterr().out == f"{talk}\tGood\n{talk}\tday.\n" * 2
    assert main(["transcribe", talk, "--model", ears, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["audio"] == talk and record["text"] == "Good day."
    assert [(s["start"], s["end"]) for s in record["segments"]] == [(0.0, 1.0), (1.0, 2.0)]


def test_a_recording_in_which_nobody_speaks_has_its_line_among_others(capsys, tmp_path, ears, talk, said):
    silent = str(tmp_path / "silent.wav")
    soundfile.write(silent, [0.0] * SAMPLE_RATE, SAMPLE_RATE)
    assert main(["transcribe", silent, talk, "--model", ears, "--language", "en"]) == 0
    assert capsys.readouterr().out == f"{silent}\t\n{talk}\tGood\n{talk}\tday.\n"


@pytest.mark.parametrize("other", [["--format", "srt"], ["--output", "folder"]])
def test_json_is_not_given_beside_other_forms(other, capsys, ears, talk):
    assert main(["transcribe", talk, "--model", ears, "--json", *other]) == 2
    assert "without --format and --output" in capsys.readouterr().err


def test_transcribe_writes_upstreams_formats(capsys, tmp_path, ears, talk, said):
    assert main(["transcribe", talk, "--model", ears, "--language", "en", "--format", "srt"]) == 0
    srt = capsys.readouterr().out
    assert srt.startswith("1\n00:00:00,000 --> 00:00:01,000\nGood\n\n2\n00:00:01,000 --> 00:00:02,000\nday.\n")
    folder = tmp_path / "out/subtitles"
    arguments = ["--model", ears, "--language", "en", "--format", "all", "--output", str(folder)]
    assert main(["transcribe", talk, *arguments]) == 0
    assert capsys.readouterr().out == ""
    assert sorted(path.name for path in folder.iterdir()) == [f"talk.{e}" for e in ("json", "srt", "tsv", "txt", "vtt")]
    assert (folder / "talk.srt").read_text().strip() == srt.strip()


def test_transcribe_reads_a_microphone(capsys, monkeypatch, ears, said):
    raw = (noise(2.0) * 32767).astype("<i2").tobytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))
    assert main(["transcribe", "-", "--pcm-rate", "16000", "--model", ears, "--language", "en"]) == 0
    assert capsys.readouterr().out == "Good\nday.\n"


def test_transcribe_refuses_with_a_reason(capsys, tmp_path, ears, talk):
    assert "nowhere.wav: no such file" in refused(capsys, "transcribe", "nowhere.wav", "--model", "none")
    assert "'none' is neither a file" in refused(capsys, "transcribe", talk, "--model", "none")
    (tmp_path / "notes.txt").write_text("hello, this is no sound")
    assert "notes.txt" in refused(capsys, "transcribe", str(tmp_path / "notes.txt"), "--model", ears)
    assert "elvish" in refused(capsys, "transcribe", talk, "--model", ears, "--language", "elvish")
    assert "--output" in refused(capsys, "transcribe", talk, "--model", ears, "--format", "all")


# ---- ask


QUESTIONS = Path(__file__).parents[1] / "demos/questions"
SCENE = str(Path(__file__).parents[1] / "docs/images/scene.png")


def test_ask_answers_what_is_asked_aloud(nano, capsys):
    recording = str(QUESTIONS / "shapes.wav")
    assert main(["ask", recording, "--image", SCENE, "--show-transcript"]) == 0
    said = nano.transcribe(recording)
    answer = nano.ask(recording, image=SCENE)
    assert capsys.readouterr().out == f"transcript: {said.text}\n{answer}\n"
    assert main(["ask", recording, "--image", SCENE, "--mode", "both", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["answer"] == nano.ask(recording, image=SCENE, mode="both") and record["mode"] == "both"
    assert record["transcript"] == json.loads(json.dumps(said.to_dict()))


def test_ask_answers_a_question_about_a_recording_from_a_microphone(nano, capsys, monkeypatch):
    samples, rate = soundfile.read(QUESTIONS / "order.wav", dtype="int16")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(samples.tobytes())))
    question = "Which drink does the speaker order?"
    assert main(["ask", "-", question, "--pcm-rate", str(rate), "--mode", "features", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["answer"] == nano.ask(QUESTIONS / "order.wav", question, mode="features")
    assert record["transcript"] is None and record["question"] == question


def test_ask_refuses_with_a_reason(capsys, tmp_path):
    recording = str(QUESTIONS / "shapes.wav")
    assert "nowhere.wav: no such file" in refused(capsys, "ask", "nowhere.wav")
    assert "nothing is written down" in refused(capsys, "ask", recording, "--mode", "features", "--show-transcript")
    soundfile.write(tmp_path / "silence.wav", [0.0] * 16_000, 16_000)
    assert "nothing is said" in refused(capsys, "ask", str(tmp_path / "silence.wav"))
    (tmp_path / "notes.txt").write_text("no sound at all, only some text")
    assert "notes.txt" in refused(capsys, "ask", str(tmp_path / "notes.txt"))


def test_transcribe_has_a_whisper_of_its_own(nano, capsys):
    assert main(["transcribe", str(QUESTIONS / "order.wav")]) == 0
    assert capsys.readouterr().out.strip() == nano.transcribe(QUESTIONS / "order.wav").text


# ---- recipes


def test_the_help_of_train_has_every_key_with_its_default_and_meaning(capsys):
    """Read from the sources without an import; here against the classes themselves."""
    from decoders.codecs.audio_vqvae import AudioVQVAEConfig
    from decoders.codecs.image_vqvae import ImageVQVAEConfig
    from decoders.diffusion.decoder import DiffusionDecoderConfig
    from mmlm.model.config import FusionConfig, LoraConfig
    from mmlm.prompting.templates import PromptTemplate
    from mmlm.training.config import CodecTrainConfig, TrainConfig, WritingTrainConfig
    from mmlm.training.model_recipe import AudioResampler, ImageResampler

    shown = re.sub(r"\s+", " ", help_text("train", capsys))
    for prefix, settings in (
        ("", TrainConfig()),
        ("", CodecTrainConfig()),
        ("write.", WritingTrainConfig()),
        ("model.resampler.", ImageResampler()),
        ("model.audio_resampler.", AudioResampler()),
        ("model.fusion.", FusionConfig()),
        ("model.template.", PromptTemplate()),
        ("model.lora.", LoraConfig()),
        ("codec.image.", ImageVQVAEConfig()),
        ("codec.image.quantizer.", ImageVQVAEConfig().quantizer),
        ("codec.audio.", AudioVQVAEConfig()),
        ("codec.audio.quantizer.", AudioVQVAEConfig().quantizer),
        ("decoder.", DiffusionDecoderConfig()),
    ):
        for field in dataclasses.fields(settings):
            value = getattr(settings, field.name)
            if not dataclasses.is_dataclass(value):
                written = json.dumps(value).strip('"') if not isinstance(value, float) else repr(value)
                assert f" {prefix}{field.name} = {written}" in shown, f"{prefix}{field.name}"
    for word in ("pairs.jsonl", "metadata.jsonl", "WebDataset", "COCO", "data = required", "resume = true"):
        assert word in shown
    for tables in keys.TABLES.values():
        for prefix, file, name in tables:
            assert not [f"{prefix}{key.name}" for key in keys.keys_of(file, name) if not key.meaning]


@pytest.mark.parametrize("kind", ["adapters", "codec", "writing"])
def test_init_writes_a_recipe_that_is_right(kind, tmp_path, monkeypatch, capsys):
    from mmlm.data import read_records
    from mmlm.training import load_recipe

    monkeypatch.chdir(tmp_path)
    assert main(["init", "first.yaml", "--kind", kind]) == 0
    assert "mmlm train first.yaml" in capsys.readouterr().out
    recipe = load_recipe("first.yaml")
    assert len(read_records(recipe.data)) == 32 and len(read_records(recipe.held_out)) == 8
    assert recipe.output == "runs/first"
    text = Path("first.yaml").read_text()
    assert main(["init", "first.yaml"]) == 2 and "exists already" in capsys.readouterr().err
    assert Path("first.yaml").read_text() == text
    assert main(["init", "mine.yaml", "--kind", kind, "--data", "my: data.jsonl", "--output", "out"]) == 2
    assert "no file matches 'my: data.jsonl'" in capsys.readouterr().err and not Path("mine.yaml").exists()
    Path("my: data.jsonl").write_text("", encoding="utf-8")
    assert main(["init", "mine.yaml", "--kind", kind, "--data", "my: data.jsonl", "--output", "out"]) == 0
    mine = load_recipe("mine.yaml")
    assert (mine.data, mine.held_out, mine.output) == ("my: data.jsonl", None, "out")


def test_what_init_writes_runs(nano_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    assert main(["train", "recipe.yaml", "steps=2", "batch_size=2", "held_out=null"]) == 0
    capsys.readouterr()
    assert main(["train", "recipe.yaml", "steps=2", "batch_size=2", "held_out=null", "--json"]) == 0
    shown = capsys.readouterr()
    assert "is finished, all 2 steps" in shown.err and json.loads(shown.out)["steps"] == 2


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_the_codec_that_init_writes_is_trained_from_end_to_end(kind, tmp_path, monkeypatch, capsys):
    """As it is written but for its steps: data, held-out data, previews, and a codec that gives back media."""
    from decoders.codecs.checkpoint import load_codec

    monkeypatch.chdir(tmp_path)
    given, few = [], ["steps=2", "eval_every=1", "preview_every=1"]
    if kind == "audio":
        given, few = ["--data", "sounds", "--held-out", "sounds"], [*few, "batch_size=2"]
        Path("sounds").mkdir()
        for number in range(3):
            soundfile.write(f"sounds/{number}.wav", np.sin(np.arange(8000) * (0.1 + 0.1 * number)) / 2, 8000)
    assert main(["init", "codec.yaml", "--kind", "codec", *given]) == 0
    text = Path("codec.yaml").read_text()
    if kind == "audio":  # what its comment says
        assert "or audio: {} for recordings" in text
        text = re.sub(r"  image:.*?\n\n", "  audio: {}\n\n", text, flags=re.DOTALL)
        Path("codec.yaml").write_text(text)
    assert main(["train", "codec.yaml", *few]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "runs/codec/codec"
    assert len([*Path("runs/codec/previews").glob("*.png")]) == 2
    codec = load_codec("runs/codec/codec")
    media = torch.rand(1, 3, 64, 64) if kind == "image" else torch.rand(1, 1, 8000) - 0.5
    assert codec.decode(codec.encode(media).codes).shape[-1] >= media.shape[-1]


# ---- parts joined on the command line


def test_parts_are_joined_to_a_new_model(nano, nano_folder, monkeypatch, capsys):
    """What is written is what `assemble` gives of the same parts; the encoder that the job does not need stays away."""
    import mmlm
    from encoders.clip import ClipImageEncoder

    ears = str(nano_folder / "audio_encoder.pt")
    language_model = str(nano_folder / "language_model")
    expected = mmlm.assemble(language_model, audio_encoder=ears).ask("demos/questions/shapes.wav", max_new_tokens=4)
    monkeypatch.setattr(ClipImageEncoder, "load", lambda *_, **__: pytest.fail("it is not needed"))
    given = ["--language-model", language_model, "--audio-encoder", ears, "--image-encoder", "nowhere"]
    assert main(["ask", "demos/questions/shapes.wav", *given, "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out.strip() == " ".join(expected.split())


@pytest.mark.filterwarnings("default:the adapters of this model were never trained")
def test_what_was_never_trained_says_so_in_one_line(nano_folder, pictures, capsys):
    given = ["--language-model", str(nano_folder / "language_model")]
    eyes = ["--image-encoder", str(nano_folder / "image_encoder")]
    assert main(["caption", *pictures[:2], *given, *eyes, "--max-new-tokens", "1"]) == 0
    error = capsys.readouterr().err
    assert error.startswith("mmlm caption: the adapters of this model were never trained") and error.count("\n") == 1
    assert error.endswith("as `mmlm ask` does\n")
    assert main(["chat", "what?", "--image", pictures[0], *given, *eyes, "--max-new-tokens", "1"]) == 0
    assert "as `mmlm ask` does: pass --mode transcript\n" in capsys.readouterr().err
    assert main(["caption", pictures[0], *given]) == 2
    assert "--image-encoder" in capsys.readouterr().err


def test_a_part_takes_the_place_of_a_named_models(pictures, nano_folder, capsys):
    assert main(["caption", pictures[0]]) == 0
    plain = capsys.readouterr().out
    assert (
        main(["caption", pictures[0], "--model", "nano", "--language-model", str(nano_folder / "language_model")]) == 0
    )
    assert capsys.readouterr().out == plain
