"""What a model is made of, told by its files alone."""

import json

import pytest
import torch

import mmlm
from encoders.clip import ClipImageEncoder
from mmlm.assembly import inspect as inspecting
from mmlm.assembly.inspect import inspect
from mmlm.assembly.presets import ASSEMBLED
from mmlm.cli import main
from support import gguf_files, parts


def test_what_is_a_part_of_a_model_is_told_to_be_one(tmp_path, nano_folder, capsys):
    (tmp_path / "lm.gguf").write_bytes(b"GGUF")
    for part, words in {
        tmp_path / "lm.gguf": "a file",
        nano_folder / "language_model": "a llama of transformers",
    }.items():
        assert main(["chat", "hi", "--model", str(part)]) == 2
        given = f"mmlm chat: {part} is not a saved model but {words} (as a part of a model, give --language-model)\n"
        assert capsys.readouterr().err == given
        assert main(["inspect", str(part)]) == 2
        assert capsys.readouterr().err == f"mmlm inspect: {part} is not a saved model but {words}\n"


def test_nano_is_told_without_loading_it(nano_folder, monkeypatch):
    model = mmlm.load("nano")
    monkeypatch.setattr(ClipImageEncoder, "load", lambda *_, **__: pytest.fail("no weights are loaded"))
    found = inspect("nano")
    weights = {part.part: part.weights for part in found.parts}
    assert weights["language_model"] == sum(tensor.numel() for tensor in model.language_model.model.parameters())
    assert weights["added"] == sum(tensor.numel() for _, tensor in model.added_parameters())
    assert weights["image_encoder"] == sum(tensor.numel() for tensor in model.encoders["image"].parameters())
    size = (nano_folder / "language_model/model.safetensors").stat().st_size
    assert found.parts[0].size == size and found.parts[0].name == "preset:nano/language_model"
    assert found.jobs == ["generate", "caption", "answer", "transcribe", "ask", "draw", "speak"] and found.trained
    assert found.memory() == 4 * sum(weights.values())
    assert found.memory(halved=True) == found.memory() - 2 * (weights["language_model"] + weights["image_encoder"])


def test_a_model_that_was_never_trained_is_told_apart(tmp_path, capsys):
    """Its gates are shut; its parts were ready-made, and nothing is known of them."""
    model = parts.build("llama")
    for layer in model.fusion.layers:
        layer.attn_gate.data.zero_()
    model.save(tmp_path)
    assert not inspect(tmp_path).trained and inspect(tmp_path).memory() is None
    assert main(["inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "never trained" in out and "memory" not in out
    model.fusion.layers[0].attn_gate.data.fill_(0.5)
    model.save(tmp_path)
    assert inspect(tmp_path).trained


@pytest.mark.parametrize("name", ASSEMBLED)
def test_a_preset_is_told_before_it_is_downloaded(name, monkeypatch, capsys):
    monkeypatch.setattr(inspecting, "weight_files", lambda place: None)
    assert main(["inspect", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [part["name"] for part in found["parts"][:-1]] == [
        ASSEMBLED[name].language_model, ASSEMBLED[name].image_encoder, ASSEMBLED[name].audio_encoder,
    ]  # fmt: skip
    assert found["memory"]["float32"] == 4e6 * sum(ASSEMBLED[name].millions.values()) and not found["trained"]


def test_what_is_no_model_is_an_error(tmp_path, capsys):
    assert main(["inspect", str(tmp_path)]) == 2
    assert "is not a saved model" in capsys.readouterr().err


def test_parts_in_other_forms_are_told_by_what_they_tell(tmp_path):
    """A file of GGUF tells its shapes; one of another kind is not counted, and no error."""
    tensors = {"token_embd.weight": torch.zeros(8, 4), "output_norm.weight": torch.zeros(4)}
    path = gguf_files.write(tmp_path / "model.gguf", {"general.architecture": "llama"}, tensors)
    assert inspecting._facts("language_model", str(path)).weights == 36
    (tmp_path / "other.bin").write_bytes(b"no weights that torch knows")
    found = inspecting._facts("audio_encoder", str(tmp_path / "other.bin"))
    assert found.weights is None and found.size == 27
