"""Many inputs at the command line: the bad one is named, the others are done, and no output overwrites another."""

import ast
import io
import json
import os
import re
import tarfile
from pathlib import Path

import pytest
import soundfile
from PIL import Image, ImageDraw
from whisper import DecodingResult
from whisper.tokenizer import get_tokenizer

from encoders.media.sound import SAMPLE_RATE
from encoders.transcription import transcriber
from mmlm.cli import build_parser, main
from mmlm.cli.messages import on_the_command_line
from mmlm.tasks import votes
from support.hearing import noise, save_whisper, tiny_whisper


def picture(path: Path, colour: str = "red") -> str:
    image = Image.new("RGB", (64, 64), (243, 243, 243))
    ImageDraw.Draw(image).ellipse((24, 24, 42, 42), fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return str(path)


def lines(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


# ---- pictures


def test_the_good_pictures_are_captioned_and_the_bad_one_is_named(tmp_path, nano, loaded, capsys):
    good = [picture(tmp_path / f"{name}.png", name) for name in ("red", "blue")]
    bad = tmp_path / "bad.png"
    bad.write_text("not a picture")
    assert main(["caption", good[0], str(bad), str(tmp_path / "gone.png"), good[1]]) == 1
    out, err = capsys.readouterr()
    assert lines(out) == [[name, nano.caption(name)] for name in good]
    gone, named, total = err.splitlines()
    assert "gone.png: no such file" in gone and "bad.png" in named and total.endswith("named above")
    assert "2 of 4" in total and all(line.startswith("mmlm caption: ") for line in err.splitlines())


def test_fail_fast_ends_at_the_first(tmp_path, loaded, capsys):
    bad = tmp_path / "bad.png"
    bad.write_text("not a picture")
    assert main(["caption", str(bad), picture(tmp_path / "red.png"), "--fail-fast"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "bad.png" in err and not loaded


def test_nothing_is_loaded_where_nothing_can_be_read(tmp_path, loaded, capsys):
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_text("not a picture")
    assert main(["caption", str(tmp_path)]) == 2
    assert not loaded and "2 of 2" in capsys.readouterr().err


def test_a_fault_within_the_model_is_found_by_trying_one_after_another(tmp_path, nano, loaded, monkeypatch, capsys):
    names = [picture(tmp_path / f"{name}.png", name) for name in ("red", "green", "blue")]
    with Image.open(names[1]) as image:
        wrong = image.convert("RGB").tobytes()
    generate = votes.generate

    def one_fails(model, prompts, **options):
        for prompt in prompts:
            if any(getattr(part, "source", part).tobytes() == wrong for part in prompt if hasattr(part, "source")):
                raise ValueError("the logits are not finite")
        return generate(model, prompts, **options)

    monkeypatch.setattr(votes, "generate", one_fails)
    assert main(["caption", *names]) == 1
    out, err = capsys.readouterr()
    assert [name for name, _ in lines(out)] == [names[0], names[2]]
    assert f"{names[1]}: the logits are not finite" in err


def test_folders_patterns_and_data_go_in(tmp_path, loaded, capsys, monkeypatch):
    one, two = picture(tmp_path / "photos/a.png"), picture(tmp_path / "photos/more/b.PNG", "blue")
    (tmp_path / "photos/notes.txt").write_text("not for you")
    picture(tmp_path / "photos/.thumbnails/a.png")
    assert main(["caption", str(tmp_path / "photos")]) == 0
    out, err = capsys.readouterr()
    assert [name for name, _ in lines(out)] == [one, two]
    assert "2 pictures; left out: 1 .txt, 1 hidden" in err
    assert main(["answer", str(tmp_path / "photos/**/*.[pP][nN][gG]"), "what color is it?"]) == 0
    assert [name for name, _ in lines(capsys.readouterr().out)] == [one, two]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["caption", "~/photos/a.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["image"] == one
    for pattern, complaint in (("photos/*.gif", "no file matches"), ("phot*", "only folders match")):
        assert main(["caption", str(tmp_path / pattern)]) == 2
        assert complaint in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["caption", str(tmp_path / "empty")]) == 2
    assert "no pictures in this folder" in capsys.readouterr().err


def test_data_gives_its_pictures_whatever_their_texts(tmp_path, loaded, capsys):
    paths = [picture(tmp_path / f"{name}.png", name) for name in ("red", "blue")]
    manifest = tmp_path / "m.jsonl"
    rows = [{"image": "red.png"}, {"image": "gone.png"}, {"image": "blue.png", "caption": "a blue circle"}]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["caption", "--data", str(manifest)]) == 1
    out, err = capsys.readouterr()
    assert [name for name, _ in lines(out)] == paths and "m.jsonl:2" in err
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for path in paths:
            tar.add(path, Path(path).name)
    assert main(["caption", "--data", str(tmp_path / "t.tar")]) == 0
    found = lines(capsys.readouterr().out)
    assert [name for name, _ in found] == [f"{tmp_path}/t.tar/red.png", f"{tmp_path}/t.tar/blue.png"]
    assert main(["caption", "--data", str(tmp_path / "none.tar")]) == 2
    assert main(["caption", "--data", str(manifest), paths[0]]) == 2


# ---- limits, in the words of the command line


def test_limits_of_pictures_are_named_by_their_flags(tmp_path, loaded, capsys):
    name = picture(tmp_path / "red.png")
    for flag, value in (("--max-pixels", "100"), ("--max-bytes", "20")):
        assert main(["caption", name, flag, value]) == 2
        assert f"raise {flag}" in capsys.readouterr().err
    assert main(["caption", "https://example.org/x.png"]) == 2
    assert "pass --allow-url" in capsys.readouterr().err
    assert not loaded


def test_limits_of_recordings_are_named_by_their_flags(tmp_path, loaded, ears, capsys):
    path = tmp_path / "talk.wav"
    soundfile.write(path, noise(4.0), SAMPLE_RATE)
    cut = tmp_path / "cut.wav"
    cut.write_bytes(path.read_bytes()[:-SAMPLE_RATE])
    for verb in ("transcribe", "ask"):
        assert main([verb, str(path), "--max-seconds", "2"]) == 2
        assert "raise --max-seconds" in capsys.readouterr().err
        assert main([verb, str(path), "--max-bytes", "2"]) == 2
        assert "raise --max-bytes" in capsys.readouterr().err
    assert main(["transcribe", str(cut), "--model", ears]) == 2
    assert "pass --allow-truncated" in capsys.readouterr().err
    (tmp_path / "cut.jsonl").write_text('{"audio": "cut.wav"}\n')
    rows = tmp_path / "rows"
    assert main(["transcribe", "--data", str(tmp_path / "cut.jsonl"), "--output", str(rows), "--model", ears]) == 2
    assert "pass --allow-truncated" in json.loads((rows / "part-00000.jsonl").read_text())["error"]
    assert main(["transcribe", str(cut), "--model", ears, "--allow-truncated"]) == 0
    assert not loaded


# ---- recordings


@pytest.fixture(scope="module")
def ears(tmp_path_factory):
    """A random Whisper in upstream's file layout."""
    return str(save_whisper(tiny_whisper(sharpness=3.0), tmp_path_factory.mktemp("ears") / "whisper.pt"))


@pytest.fixture
def said(monkeypatch):
    """What the model is taken to say, whatever it hears: the number of times that it was asked."""
    tokenizer = get_tokenizer(True, num_languages=99, language="en", task="transcribe")
    first, calls = tokenizer.timestamp_begin, []

    def decode(model, heard, options, generator):
        calls.append(options)
        text = f" Number {len(calls)}."
        tokens = [first, *tokenizer.encode(text), first + 50]
        return DecodingResult(
            heard.features,
            "en",
            None,
            tokens,
            text,
            avg_logprob=-0.1,
            no_speech_prob=0.0,
            temperature=0.0,
            compression_ratio=1.0,
        )

    monkeypatch.setattr(transcriber, "decode_window", decode)
    return calls


def talk(path: Path, seconds: float = 1.0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(seconds), SAMPLE_RATE)
    return str(path)


def written(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text().strip() for path in sorted(folder.rglob("*.txt"))}


def transcribe(*arguments: str, model: str) -> int:
    return main(["transcribe", *arguments, "--model", model, "--language", "en"])


def test_the_good_recordings_are_written_and_the_bad_one_is_named(tmp_path, ears, said, capsys):
    names = [talk(tmp_path / "a.wav"), str(tmp_path / "bad.wav"), talk(tmp_path / "c.wav")]
    (tmp_path / "bad.wav").write_text("not sound")
    assert transcribe(*names, "--output", str(tmp_path / "texts"), model=ears) == 1
    assert written(tmp_path / "texts") == {"a.txt": "Number 1.", "c.txt": "Number 2."}
    err = capsys.readouterr().err
    assert "bad.wav" in err and "1 of 3 could not be used" in err
    assert transcribe(*names[1:], "--fail-fast", model=ears) == 2
    assert capsys.readouterr().out == ""


def test_a_bad_recording_is_found_before_the_model_is_loaded(tmp_path, capsys):
    (tmp_path / "bad.wav").write_text("not sound")
    assert transcribe(str(tmp_path / "bad.wav"), model="none") == 2
    assert "bad.wav" in capsys.readouterr().err


def test_recordings_of_one_name_keep_their_folders(tmp_path, ears, said, capsys):
    names = [talk(tmp_path / "day1/talk.wav"), talk(tmp_path / "day2/talk.wav"), talk(tmp_path / "day1/intro.wav")]
    assert transcribe(*names, "--output", str(tmp_path / "one"), model=ears) == 0
    expected = {"day1/talk.txt": "Number 1.", "day2/talk.txt": "Number 2.", "intro.txt": "Number 3."}
    assert written(tmp_path / "one") == expected
    for given, folder in ((str(tmp_path / "day*/talk.wav"), "two"), (str(tmp_path / "day2"), "three")):
        assert transcribe(given, "--output", str(tmp_path / folder), model=ears) == 0
    assert set(written(tmp_path / "two")) == {"day1/talk.txt", "day2/talk.txt"}
    assert set(written(tmp_path / "three")) == {"talk.txt"}


def test_outputs_that_would_be_the_same_are_refused_before_any_work(tmp_path, said, capsys):
    names = [talk(tmp_path / "talk.wav"), talk(tmp_path / "talk.flac")]
    assert transcribe(*names, "--output", str(tmp_path / "texts"), model="none") == 2
    err = capsys.readouterr().err
    assert names[0] in err and names[1] in err and "would both become" in err
    assert not (tmp_path / "texts").exists() and not said
    assert transcribe(*names, "--format", "srt", model="none") == 2
    assert "--output" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_to_is_refused_before_any_work(tmp_path, said, capsys):
    (tmp_path / "file").write_text("in the way")
    assert transcribe(talk(tmp_path / "talk.wav"), "--output", str(tmp_path / "file" / "texts"), model="none") == 2
    err = capsys.readouterr().err
    assert "is a file; choose another folder" in err and not said


def test_data_writes_below_its_folder_wherever_its_names_lead(tmp_path, ears, said):
    data = Path(talk(tmp_path / "x.wav")).read_bytes()
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name in ("../../out.wav", "sub/in.wav"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    given = ("--data", str(tmp_path / "t.tar"), "--output", str(tmp_path / "texts"), "--format", "txt")
    assert transcribe(*given, model=ears) == 0
    assert set(written(tmp_path)) == {"texts/out.txt", "texts/sub/in.txt"}


def test_what_was_heard_before_an_error_is_written(tmp_path, ears, said, monkeypatch, capsys):
    from mmlm.cli import transcribe as verb

    def cut_off(running, name):
        yield next(iter(running))
        raise ValueError(f"{name}: truncated")

    monkeypatch.setattr(verb, "with_bar", cut_off)
    name = talk(tmp_path / "long.wav", 4.0)
    assert transcribe(name, "--output", str(tmp_path / "texts"), model=ears) == 2
    assert written(tmp_path / "texts") == {"long.txt": "Number 1."}
    assert "what was heard until then is written" in capsys.readouterr().err


def test_ask_takes_a_pattern_but_not_a_file_for_a_question(tmp_path, nano, loaded, capsys):
    folder = Path(__file__).parents[1] / "demos/questions"
    names = [str(folder / "order.wav"), str(folder / "shapes.wav")]
    assert main(["ask", *names]) == 2
    assert "quoted pattern" in capsys.readouterr().err and not loaded
    (tmp_path / "bad.wav").write_text("not sound")
    for name in names:
        os.link(name, tmp_path / Path(name).name)
    question = "Which drink does the speaker order?"
    assert main(["ask", str(tmp_path / "*.wav"), question, "--mode", "features"]) == 1
    out, err = capsys.readouterr()
    assert lines(out) == [
        [str(tmp_path / Path(name).name), nano.ask(name, question, mode="features")] for name in names
    ]
    assert "bad.wav" in err and len(loaded) == 1
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"audio": "order.wav"}) + "\n")
    assert main(["ask", "--data", str(manifest), question, "--mode", "features", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["question"] == question


# ---- first contact


def test_nano_says_what_it_cannot_do_only_where_it_cannot(tmp_path, loaded, capsys):
    import numpy as np

    scene = str(Path(__file__).parents[1] / "docs/images/scene.png")
    assert main(["caption", scene, picture(tmp_path / "red.jpg"), picture(tmp_path / "blue.png", "blue")]) == 0
    assert capsys.readouterr().err == ""
    # A photograph stands for itself by its grain: smooth light with some noise.
    light = np.linspace(40, 220, 200)[:, None, None] + np.linspace(-30, 30, 240)[None, :, None]
    grain = np.random.default_rng(0).normal(0, 6, (200, 240, 3))
    Image.fromarray((light + grain).clip(0, 255).astype(np.uint8)).save(tmp_path / "photo.jpg")
    assert main(["caption", str(tmp_path / "photo.jpg"), str(tmp_path / "photo.jpg")]) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "drawn scenes only" in err and "--model openflamingo-3b" in err
    assert main(["generate", "--image", str(tmp_path / "photo.jpg"), "--text", "Output:", "--max-new-tokens", "1"]) == 0
    assert capsys.readouterr().err.count("drawn scenes only") == 1
    assert main(["caption", str(tmp_path / "photo.jpg"), "--model", "other"]) == 0
    assert capsys.readouterr().err == ""


def test_nano_draws_what_the_examples_of_the_help_say(nano):
    from mmlm.cli import draw

    texts = set(re.findall(r'draw "(.*?)"', draw.EXAMPLES))
    assert len(texts) >= 3
    for text in texts:
        assert text in [nano.caption(picture) for picture in nano.draw(text, 4, seed=1)]


def test_the_presets_that_notes_name_exist():
    from mmlm.assembly.presets import ASSEMBLED, OPEN_FLAMINGO
    from mmlm.cli import first_contact

    named = re.findall(r"--model ([\w/-]+)", Path(first_contact.__file__).read_text())
    assert named and all(name in ASSEMBLED or name in OPEN_FLAMINGO or name == "whisper/small" for name in named)


def test_the_first_try_of_the_help_works_in_an_empty_folder(tmp_path, loaded, monkeypatch, capsys):
    import shlex

    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out.partition("A first try:\n")[2].splitlines()
    monkeypatch.chdir(tmp_path)
    assert len(shown) == 2
    for line in shown:
        assert main(shlex.split(line)[1:]) == 0
    out = capsys.readouterr().out.splitlines()
    drawn = re.search(r'draw "(.*?)"', shown[0])
    assert drawn and out[1] == drawn[1]  # the caption is what was asked for


# ---- messages


def messages_of_the_library() -> set[str]:
    """Texts of the errors that the library raises, with 7 in place of what is filled in."""

    def text(node: ast.AST) -> str:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        if isinstance(node, ast.JoinedStr):
            return "".join(text(value) or "7" for value in node.values)
        return ""

    found = set()
    for folder in ("mmlm", "encoders", "decoders"):
        for path in (Path(__file__).parents[1] / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and re.search(r"(Error|truncated|_check)$", ast.unparse(node.func)):
                    found |= {text(argument) for argument in node.args}
    return {message for message in found if " " in message}


def test_no_message_names_a_remedy_that_the_verb_has_not():
    messages = messages_of_the_library()
    remedy = re.compile(r"\b(raise|pass|set|leave) (?!--)([a-z]+_[a-z_]+|[a-z_]+=)")
    named = {message for message in messages if remedy.search(message)}
    assert len(named) > 12  # max_seconds, max_bytes, max_pixels, allow_url, do_sample, language_model, …
    verbs = {
        "caption": ["x"], "answer": ["x", "q"], "generate": [], "transcribe": ["x"], "ask": ["x"],
        "draw": ["t", "-o", "x.png"], "speak": ["t", "-o", "x.wav"], "eval": ["m", "d"], "convert": ["m", "o"],
    }  # fmt: skip
    for verb, arguments in verbs.items():
        flags = build_parser().parse_args([verb, *arguments]).flags
        for message in named:
            shown = on_the_command_line(message, flags)
            assert not remedy.search(shown), (verb, shown)
            assert {flag for flag in re.findall(r"--[a-z-]+", shown)} <= flags


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            "'a.wav': longer than 9 s; cut it, or raise max_seconds",
            "'a.wav': longer than 9 s; cut it, or raise --max-seconds",
        ),
        (
            "'a.png': more than 9 pixels; scale it down or raise max_pixels",
            "'a.png': more than 9 pixels; scale it down",
        ),
        ("'max_seconds/a.wav': cut; raise max_seconds", "'max_seconds/a.wav': cut; raise --max-seconds"),
        ("use what is there: pass allow_truncated=True", "use what is there: pass --allow-truncated"),
        ("use dtype='auto'", "use --dtype auto"),
        ("Load it with dtype=torch.float32", "Load it with --dtype float32"),
        ("it must be above 0 (to decode greedily, leave do_sample off)", "it must be above 0"),
        ("the model does not exist (any more): pass language_model= instead", "the model does not exist (any more)"),
        ("there is\nno file", "there is no file"),
        ("runs/max_seconds is no file: raise max_seconds", "runs/max_seconds is no file: raise --max-seconds"),
    ],
)
def test_keywords_become_flags(message, shown):
    assert on_the_command_line(message, {"--max-seconds", "--allow-truncated", "--dtype"}) == shown


def test_recipes_keep_their_keys():
    assert build_parser().parse_args(["train", "recipe.yaml"]).flags is None
    assert on_the_command_line("or raise bad_limit", None) == "or raise bad_limit"


@pytest.mark.parametrize("device", ["mps", "meta", "xpu", "foo", "cuda:99", "cpu:x", ""])
@pytest.mark.parametrize("verb", ["caption", "transcribe"])
def test_a_device_that_is_not_there_is_one_line(tmp_path, verb, device, capsys):
    name = picture(tmp_path / "red.png") if verb == "caption" else talk(tmp_path / "a.wav")
    assert main([verb, name, "--device", device]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "--device" in err and device in err


def test_what_torch_refuses_is_one_line_too(tmp_path, loaded, nano, monkeypatch, capsys):
    def fails(*arguments, **options):
        raise RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'\nand more")

    monkeypatch.setattr(votes, "generate", fails)
    assert main(["caption", picture(tmp_path / "red.png")]) == 2
    assert capsys.readouterr().err == (
        "mmlm caption: RuntimeError: \"addmm_impl_cpu_\" not implemented for 'Half' and more\n"
    )


def test_a_photograph_of_an_iphone_is_named(tmp_path, capsys):
    for name in ("IMG_1.HEIC", "IMG_1.jpg"):
        (tmp_path / name).write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0mif1MiHB" + bytes(5000))
        assert main(["caption", str(tmp_path / name)]) == 2
        assert "HEIC photograph" in (err := capsys.readouterr().err) and "JPEG" in err


def test_a_prompt_that_spells_a_control_token_is_text(tmp_path, ears, said):
    name = talk(tmp_path / "a.wav")
    assert transcribe(name, "--prompt", "notes <|endoftext|> of a talk", model=ears) == 0
    tokenizer = get_tokenizer(True, num_languages=99, language="en", task="transcribe")
    assert tokenizer.eot not in said[0].prompt
    assert tokenizer.encoding.decode(said[0].prompt) == " notes <|endoftext|> of a talk"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["draw", "a ring", "-o", "x.png", "--strength", "2"], "--strength"),
        (
            ["draw", "a ring", "-o", "x.png", "--init-image", "SCENE", "--strength", "2"],
            "--strength is a share, 0 to 1",
        ),
        (["draw", "a ring", "-o", "x.png", "--init-image", "none.png", "--mask", "SCENE"], "none.png"),
        (
            ["draw", "a ring", "-o", "x.png", "--init-image", "SCENE", "--mask", "SCENE", "--strength", "0.3"],
            "--strength is a share of --init-image, for where no --mask",
        ),
        (["draw", "a ring", "-o", "x.png", "--temperature", "0"], "temperature must be in 1e-6"),
        (["draw", " ", "-o", "x.png"], "at least one word"),
        (["draw", "a ring", "-o", "x.png", "-n", "0"], "-n must"),
        (["speak", "two", "-o", "x.wav", "--max-seconds", "0"], "--max-seconds"),
        (["speak", "two", "-o", "x.wav", "--steps", "-1"], "--steps"),
        (["eval", "nano", "none.jsonl"], "none.jsonl"),
        (["caption", "SCENE", "--examples", "none.jsonl"], "none.jsonl"),
        (["ask"], "AUDIO"),
    ],
)
def test_everything_is_checked_before_a_model_is_loaded(tmp_path, monkeypatch, loaded, capsys, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    scene = picture(tmp_path / "scene.png")
    assert main([scene if word == "SCENE" else word for word in arguments]) == 2
    assert complaint in capsys.readouterr().err and not loaded


def test_a_model_is_shown_on_one_screen(nano):
    lines = repr(nano).splitlines()
    assert len(lines) <= 24 and all(len(line) <= 100 for line in lines)
    count = sum(tensor.numel() for tensor in nano.encoders["image"].parameters())
    assert f"{count / 1e6:.1f} M weights" in next(line for line in lines if "image encoder" in line)
    assert "LlamaForCausalLM" in lines[1] and "cpu, float32" in lines[-2]
