"""What `mmlm train --dry-run` tells before weights are loaded, against models that were put together for real."""

import json

import numpy as np
import pytest
import soundfile
from PIL import Image

import mmlm
from mmlm.assembly.presets import ASSEMBLED
from mmlm.cli import main
from mmlm.model.config import DEFAULTS, FusionConfig, ResamplerConfig
from mmlm.training import plan_from_recipe
from mmlm.training.plan import new_weights
from support.clips import save_clip
from support.families import language_model, tokenizer
from support.hearing import save_whisper, tiny_whisper
from support.whisper_forms import save_upstream, upstream


def save_language_model(family, folder):
    language_model(family).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def strip(folder):
    """The folder without its weights."""
    for file in folder.glob("*.safetensors"):
        file.unlink()


@pytest.mark.parametrize("family", ["gpt2", "mpt", "llama", "gemma3"])
@pytest.mark.parametrize(
    ("eyes", "ears", "forms", "fusion"),
    [
        ("folder", None, {"image": ResamplerConfig(depth=2, num_latents=5, heads=2, dim_head=8)}, FusionConfig()),
        ("nano", "file", {"audio": ResamplerConfig(depth=0, stack=4)}, FusionConfig(cross_attention_every=2, heads=3)),
        (None, "folder", {"audio": ResamplerConfig(depth=1, timed=True, ff_mult=2)}, FusionConfig(ff_mult=1)),
        ("nano", None, {"image": ResamplerConfig(depth=0)}, FusionConfig(kind="prefix")),
    ],
)
def test_weights_are_counted_by_the_settings_of_parts_alone(family, eyes, ears, forms, fusion, tmp_path):
    host = save_language_model(family, tmp_path / "host")
    encoders = {}
    if eyes == "folder":
        save_clip(tmp_path / "clip")
        encoders["image"] = str(tmp_path / "clip")
    elif eyes:
        encoders["image"] = "preset:nano/image_encoder"
    if ears == "folder":
        encoders["audio"] = str(save_upstream(upstream(), tmp_path / "whisper"))
    elif ears:
        encoders["audio"] = str(save_whisper(tiny_whisper(), tmp_path / "whisper.pt"))
    model = mmlm.assemble(
        host,
        encoders.get("image"),
        audio_encoder=encoders.get("audio"),
        resampler=forms.get("image"),
        audio_resampler=forms.get("audio"),
        fusion=fusion,
    )
    real = sum(tensor.numel() for _, tensor in model.added_parameters())
    for folder in (host, tmp_path / "clip", tmp_path / "whisper"):
        strip(folder)
    sizes = {own: forms.get(own) or DEFAULTS[own] for own in encoders}
    assert new_weights(str(host), encoders, sizes, fusion) == real


def test_a_width_that_settings_do_not_tell_is_said_to_be_unknown(tmp_path):
    host = str(save_language_model("llama", tmp_path / "host"))
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper/config.json").write_text("{}")  # as CTranslate2's, which have no sizes
    sizes = {"audio": ResamplerConfig()}
    assert new_weights(host, {"audio": str(tmp_path / "whisper")}, sizes, FusionConfig()) is None
    with pytest.raises(ValueError, match=r"cross_attention_every must be in 1\.\.3, not 4"):
        new_weights(host, {"audio": "whisper/base"}, sizes, FusionConfig(cross_attention_every=4))


@pytest.fixture
def data(tmp_path):
    """Three pictures, one of which is missing, and two recordings."""
    for n in range(2):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{n}.png")
        soundfile.write(tmp_path / f"{n}.wav", np.zeros(800), 16000)
    lines = [{"image": f"{n}.png", "captions": ["one", "two"]} for n in range(3)]
    lines += [{"audio": f"{n}.wav", "transcript": "words", "question": "what?", "answer": "this"} for n in range(2)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "pairs.jsonl"


def recipe(tmp_path, **keys):
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"output": str(tmp_path / "out"), **keys}))  # JSON is YAML
    return path


def test_the_plan_tells_what_is_used_and_why_and_needs_no_weights(data, tmp_path):
    host = save_language_model("llama", tmp_path / "host")
    strip(host)
    model = {
        "language_model": str(host), "image_encoder": "preset:nano/image_encoder",
        "audio_encoder": "preset:nano/audio_encoder.pt", "resampler": {"depth": 2, "num_latents": 8},
    }  # fmt: skip
    path = recipe(tmp_path, model=model, data=str(data), held_out=str(data), bad_limit=0.5, batch_size=2, epochs=3)
    shown = str(plan_from_recipe(path, ["steps=7", "accumulation=2"]))
    lines = dict(line.split(":", 1) for line in shown.splitlines())
    lines = {name: value.strip() for name, value in lines.items()}
    assert lines["resampler of pictures"] == "2 layers, 8 latents (named by the recipe)"
    assert "the default" in lines["resampler of sound"] and "the default" in lines["fusion"]
    assert lines["data"] == "4 records, 2 pictures, 2 recordings, 12 texts, 1 bad" == lines["held out"]
    assert lines["steps"] == "7 of 4 examples"
    assert not (tmp_path / "out").exists()
    plan = plan_from_recipe(path)
    assert plan_from_recipe(path, ["model.lora.rank=0"]) == plan  # no adapters
    assert plan_from_recipe(path, ["model.lora.rank=4"]).choices[-1].value == "rank 4 in all linear layers"
    assert plan.steps == 6  # 3 passes over 4 records, 2 a step
    assert f"{plan.weights:,} weights" == lines["trains"]


def test_one_process_of_a_launcher_shows_the_plan(data, tmp_path, monkeypatch, capsys):
    path = tmp_path / "r.yaml"
    path.write_text(f"model: nano\ndata: {data}\noutput: {tmp_path}/o\nbad_limit: 0.5\n")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, shown in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        assert main(["train", str(path), "--dry-run"]) == 0
        assert bool(capsys.readouterr().out) is shown


def test_what_a_run_refuses_a_dry_run_refuses(data, tmp_path, capsys):
    path = recipe(tmp_path, model="nano", data=str(data))
    assert main(["train", str(path), "--dry-run"]) == 2  # one bad record of five
    assert "no picture at" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_plans_of_saved_models_of_codecs_and_of_writing(data, tmp_path, nano_folder):
    plan = plan_from_recipe(recipe(tmp_path, model="nano", data=str(data), bad_limit=0.5))
    nano = mmlm.load("nano")
    assert plan.weights == sum(tensor.numel() for _, tensor in nano.added_parameters())
    assert all(choice.why == "as nano has it" for choice in plan.choices) and len(plan.choices) == 3
    tiny = plan_from_recipe(recipe(tmp_path, model="chat-tiny", data=str(data), bad_limit=0.5))  # nothing is fetched
    assert "whisper/base" in tiny.model and tiny.weights == ASSEMBLED["chat-tiny"].millions["added"] * 1e6
    size = {"size": 16, "downsample": 4, "width": 16, "blocks": 1}
    codec = plan_from_recipe(recipe(tmp_path, codec={"image": size}, data=str(data.parent), steps=5, batch_size=3))
    assert (codec.data, codec.held_out, codec.steps, codec.per_step) == ("2 pictures", None, 5, 3) and codec.weights
    writing = {"write": {"steps": 9}, "model": "nano", "data": str(data.parent / "good.jsonl")}
    (tmp_path / "good.jsonl").write_text("".join(data.read_text().splitlines(keepends=True)[:2]))
    found = plan_from_recipe(recipe(tmp_path, **writing))
    assert found.weights is None and found.steps == 9 and found.data.startswith("2 records, 2 pictures")


@pytest.mark.parametrize(
    ("name", "width", "blocks", "eyes", "ears"),
    [  # as their makers tell
        ("chat-tiny", 960, 32, 768, 512),
        ("chat-small", 1536, 28, 768, 768),
        ("chat-medium", 2560, 36, 1152, 1280),
    ],
)
def test_presets_tell_how_many_weights_their_adapters_have(name, width, blocks, eyes, ears, monkeypatch):
    monkeypatch.setattr("mmlm.training.plan.language_model_size", lambda _: (width, blocks))
    monkeypatch.setattr("mmlm.training.plan.encoder_width", lambda own, _: {"image": eyes, "audio": ears}[own])
    count = new_weights("", {"image": "", "audio": ""}, DEFAULTS, FusionConfig())
    assert round(count / 1e6) == ASSEMBLED[name].millions["added"]
