"""A quick form of each benchmark, for what they assert: that all ways to compute give the same. Never for time."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import soundfile
import torch

from support import hearing, parts

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """A benchmark's module by its name, run as a script is: its own folder first on the path."""
    threads = torch.get_num_threads()
    monkeypatch.setitem(sys.modules, "parts", load("parts"))  # a script finds it in its own folder
    yield load
    torch.set_num_threads(threads)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_as_scripts_they_hide_no_package():
    """Python puts a script's own folder first: a file there that is named as a package is what gets imported."""
    shown = subprocess.run([sys.executable, FOLDER / "generation.py", "--help"], capture_output=True, text=True)
    assert shown.returncode == 0 and "usage: generation.py" in shown.stdout, shown.stderr


QUICK = ["--rounds", "1", "--threads", "1", "--size", "quick"]


def test_generation(benchmark, capsys, monkeypatch):
    module = benchmark("generation")
    monkeypatch.setattr(module, "bandwidth", lambda device: 1e9)
    monkeypatch.setattr(module, "arithmetic", lambda dtype, device: 1e11)
    first, *_, last = module.WORKLOADS  # all are run alike
    module.main([*QUICK, "--new", "18", "--only", first, last])
    lines = capsys.readouterr().out.splitlines()
    titles = [line.split(" | ")[0].removeprefix("| ") for line in lines if "| fp32 packed |" in line]
    assert titles == [first, last]


def test_holding(benchmark, capsys, monkeypatch):
    module = benchmark("holding")
    assert [len(module.tokenizer_of(size)) for size in (512, 5000)] == [512, 5000]
    arguments = ["--vocabularies", "512", "--width", "64", "--layers", "1", "--rounds", "1", "--tokens", "24"]
    monkeypatch.setattr("sys.argv", ["holding", *arguments])
    module.main()
    lines = capsys.readouterr().out.splitlines()
    ways = [line.split(" | ")[1] for line in lines[2:8]]
    assert ways == ["tokenizer, read once", "free", "control", "watched", "call", "JSON"]


def test_serving(benchmark, capsys):
    benchmark("serving").main(["--clients", "2", "--requests", "5", "--rounds", "2", "--threads", "1"])
    assert "share of requests that got the same tokens: 1.00 (1.00 to 1.00)" in capsys.readouterr().out


def test_recordings_that_are_served(benchmark, capsys):
    arguments = ["--clients", "2", "--recordings", "2", "--seconds", "2", "--threads", "1"]
    benchmark("serving_recordings").main(arguments)
    assert "2 of 2 got the same text and times" in capsys.readouterr().out


def test_drawings_of_many_texts(benchmark, capsys, monkeypatch):
    module = benchmark("drawing")
    monkeypatch.setattr(module, "SIZES", (1, 2))
    module.main(["--count", "2", "--rounds", "1"])
    assert capsys.readouterr().out.count("| 2 of 2 |") == 2  # one by one, and two at once


def test_encoders(benchmark, capsys, monkeypatch):
    module = benchmark("encoding")
    monkeypatch.setattr(module, "arithmetic", lambda dtype, device: 1e11)
    module.main([*QUICK, "--pictures", "1", "3"])
    assert capsys.readouterr().out.count("fp32 packed") == 2


def test_packing(benchmark, capsys):
    """Whether its laws hold is told by time, and is no matter of a test."""
    benchmark("packing").main(["--rounds", "1", "--new", "20", "--size", "quick", "--threads", "1"])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| quick")]
    assert [row[1] for row in rows] == ["fp32", "bf16", "fp16", "fp32 as fp16", "fp32 as int8"]
    assert all(len(row) == 10 for row in rows) and "GB" in lines[-1]


def test_one_row(benchmark, monkeypatch):
    """The shapes of OPT-125m by hand; parts of a token that make the whole."""
    monkeypatch.setitem(sys.modules, "packing", benchmark("packing"))
    module = benchmark("one_row")
    assert module.shapes("small") == [(768, 768), (2304, 768), (3072, 768), (768, 3072), (50272, 768)]
    assert "fp32 torch" in module.reached((64, 64), 100_000, 1)
    assert sum(module.shares("quick", "bf16", 20).values()) == pytest.approx(1)


@torch.no_grad()
def test_models_that_share_their_weights_are_packed_each_in_its_way(benchmark):
    module = benchmark("parts")
    model = module.build("quick")
    twin = module.sharing(model).pack("int8")
    assert all(a.data_ptr() == b.data_ptr() for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert model.language_model.acceleration is None
    batch, media = module.prompts(model, 1, 1)
    with module.unaccelerated(twin):
        assert torch.equal(module.generate(twin, batch, media, 4), module.generate(model, batch, media, 4))
    assert twin.language_model.acceleration is not None


def test_training(benchmark, capsys):
    """Beside itself alone: the peer has an environment of its own. That all ways have one loss is asserted inside."""
    module = benchmark("training")
    module.main([*QUICK, "--alone", "--batch", "3", "--row-length", "40", "--only", *module.WAYS])
    lines = capsys.readouterr().out.splitlines()
    rows = {cells[1].strip(): cells for cells in (line.split("|") for line in lines if line.startswith("| "))}
    assert set(module.WAYS) <= rows.keys()
    work = {name: float(rows[name][4]) for name in module.WAYS}
    assert work["fp32, checkpointing"] > work["fp32"] > work["fp32, cached"]


def test_loss(benchmark, capsys):
    benchmark("loss").main(["--vocabulary", "600", "--tokens", "64", "--rounds", "1", "--threads", "1"])
    losses = [line.split("|")[5].strip() for line in capsys.readouterr().out.splitlines() if " | " in line][2:]
    assert len(losses) == 4 and losses[0] == losses[1]


def test_decoding(benchmark, capsys):
    benchmark("decoding").main(["--rounds", "1", "--tokens", "4", "--sizes", "64x2"])
    assert "| 2 x 64 |" in capsys.readouterr().out


def test_hearing(benchmark, capsys):
    benchmark("hearing").main(["--model", "quick", "--rounds", "1", "--seconds", "1", "30"])
    assert capsys.readouterr().out.count("x |") == 2


def test_whisper_sizes(benchmark, tmp_path):
    recording = tmp_path / "noise.wav"
    soundfile.write(recording, hearing.noise(2.0), 16000)
    found = benchmark("whisper_sizes").measure("quick", str(recording), tokens=4, rounds=1)
    assert found["features"] == [1, 100, 64] and found["ratio"] > 0


def test_transcribing(benchmark, capsys, tmp_path, monkeypatch):
    """A process for the program that is there, and a line for the one that is not."""
    hearing.save_whisper(hearing.tiny_whisper(sharpness=3.0), tmp_path / "whisper-quick.pt")
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", hearing.noise(2.0), 16000)
    lines = [f'{{"audio": "{name}.wav", "transcript": "a red circle"}}\n' for name in ("a", "b")]
    (tmp_path / "speech.jsonl").write_text("".join(lines))
    module, compared = benchmark("transcribing"), []
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(
        "mmlm.evaluation.metrics.words.word_error_rate", lambda said, expected: compared.append((said, expected)) or 0.5
    )
    programs = ["faster-whisper int8", "mmlm", "mmlm exact together"]
    given = ["--weights", str(tmp_path), "--model", "quick", "--programs", *programs, "--language", "en"]
    module.main(
        [str(tmp_path / "speech.jsonl"), *given, "--rounds", "1", "--search", "1", "--sets", "each", "--threads", "1"]
    )
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1] for row in rows] == programs
    assert rows[0][3].startswith("not installed") and float(rows[1][3]) > 0 and float(rows[2][3]) > 0
    (said, expected), together = compared
    assert expected == ["a red circle"] * 2 and together == (said, expected)
    options = module.arguments(["x", *given, "--threads", "1"])
    transcribe = module.loaded("openai-whisper", options)
    assert len(said) == 2 and [type(text) for text in transcribe([hearing.noise(2.0)])] == [str]


def test_precision(benchmark, capsys, tmp_path):
    for name in ("1.png", "2.png"):
        parts.picture(int(name[0])).save(tmp_path / name)
    lines = [f'{{"image": "{name}.png", "caption": "a small red circle"}}\n' for name in (1, 2)]
    (tmp_path / "pairs.jsonl").write_text("".join(lines))
    benchmark("precision").main([str(tmp_path / "pairs.jsonl")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[-1] for line in lines if "fp32" in line] == ["100.0% |", "100.0% |"]
    assert sum("packed" in line for line in lines) == 5


def test_startup(benchmark, capsys, monkeypatch):
    module = benchmark("startup")
    monkeypatch.setattr(module, "COMMANDS", {name: module.COMMANDS[name] for name in ("python -c pass", "mmlm --help")})
    module.main(["--rounds", "1"])
    assert capsys.readouterr().out.count("\n") == 4


def test_the_bytes_of_a_token(benchmark):
    """OPT of width 64, 2 blocks, 512 words; gated blocks of 8 heads of 64: counted by hand."""
    module = benchmark("parts")
    attention, norms, hidden = 4 * (64 * 64 + 64), 2 * 2 * 64, 2 * 64 * 256 + 256 + 64
    gated = 2 * 64 + 2 * 64 * 512 + 1 + 2 * 64 + 2 * 64 * 256 + 1
    assert module.bytes_read_a_token(module.build("quick")) == 4 * (2 * (attention + norms + hidden + gated) + 512 * 64)


@torch.no_grad()
def test_the_operations_of_an_attention(benchmark):
    """Three products of queries, keys and values, two of the attention itself, and one behind it: by hand."""
    layer, x = torch.nn.MultiheadAttention(32, 4, batch_first=True).eval(), torch.randn(2, 10, 32)
    counted = benchmark("parts").operations(layer, lambda: layer(x, x, x, need_weights=False))
    linear, attention = 2 * 4 * 20 * 32 * 32, 2 * 2 * 2 * 10 * 10 * 32
    assert counted in (linear, linear + attention), "the attention itself is counted for some of its kernels alone"


def test_killed_runs_and_flipped_bits_of_every_objective():
    """In a process of its own, which forks the runs that it kills."""
    command = [sys.executable, FOLDER / "soak_kills.py", "--count", "7", "--flips", "8"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("| 1 |") >= 7 + 8  # each objective was killed, and a file of each was damaged


def test_a_stream_has_all_records_of_its_shards(benchmark, tmp_path, monkeypatch):
    streaming = benchmark("streaming")
    for name, value in dict(PER_SHARD=5, STEPS=2, BATCH=3).items():
        monkeypatch.setattr(streaming, name, value)
    (tmp_path / "shards").mkdir()
    pattern = str(streaming.make(tmp_path / "shards", 2))
    streaming.index(pattern, tmp_path / "index")
    assert streaming.stream(pattern, tmp_path / "index")["records"] == 10
    assert streaming.whole(pattern, tmp_path)["records"] == 10


def test_captions_of_many_pictures(benchmark, nano_folder, tmp_path, capsys):
    picture = Path(__file__).parents[1] / "docs/images/scene.png"
    (tmp_path / "m.jsonl").write_text((json.dumps({"image": str(picture)}) + "\n") * 2)
    benchmark("batch").main([str(tmp_path / "m.jsonl"), "--count", "2", "--width", "64", "--rounds", "1"])
    out = capsys.readouterr().out
    assert all(f"| 64 | {way} |" in out for way in ("a loop", "a list", "a job"))


def test_features_in_16_bits(benchmark, nano_folder, tmp_path, capsys):
    picture = Path(__file__).parents[1] / "docs/images/scene.png"
    (tmp_path / "m.jsonl").write_text(json.dumps({"image": str(picture), "caption": "a red circle"}) + "\n")
    benchmark("features").main([str(tmp_path / "m.jsonl"), "--count", "1"])
    out = capsys.readouterr().out
    found = re.search(r"nano, image \| 1 \| ([\d,]+) \| ([\d,]+) \| .*\| (\S+) \|\n\nloss (\S+) as made, (\S+) as", out)
    assert found is not None
    before, after = (int(size.replace(",", "")) for size in found.groups()[:2])
    moved, plain, rounded = map(float, found.groups()[2:])
    assert 1.9 < before / after < 2.0 and 0 < moved <= 2**-11 and rounded == pytest.approx(plain, abs=1e-3)
