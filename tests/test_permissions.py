"""Every file that is written has the permissions of the user's umask, whichever library wrote it."""

import os
import stat
from pathlib import Path

import pytest
import torch

import mmlm
from decoders.codecs.checkpoint import save_codec
from decoders.files import save_tensors
from mmlm.cli import main
from mmlm.retrieval.rices import Rices
from support.codec_parts import image_codec
from support.training_objectives import CASES, picture_folder, tiny_encoder, tiny_records


@pytest.fixture(params=[0o022, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def assert_permissions(folder: Path, umask: int, *names: str) -> None:
    """Of all files and folders; and each of the names is among them."""
    found = {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    assert all(any(Path(path).match(name) for path in found) for name in names), found.keys()
    plain = {path: 0o777 & ~umask if (folder / path).is_dir() else 0o666 & ~umask for path in found}
    assert {path: oct(mode) for path, mode in found.items()} == {path: oct(mode) for path, mode in plain.items()}


@pytest.mark.parametrize("name", ["adapters", "codes", "codec", "diffusion decoder"])
def test_files_of_a_run(name, tmp_path, umask):
    case, output = CASES[name], tmp_path / "run"
    picture_folder(tmp_path)
    settings = {"tune": "full"} if name == "codes" else {}
    case.train(case.build(), output, steps=1, **settings)
    own = {
        "adapters": ("features/*/*.safetensors", "model/config.json"),
        "codes": ("codes/*/*.safetensors", "language_model/model.safetensors", "model/model.safetensors"),
        "codec": ("codec/model.safetensors", "previews/000001.png"),
        "diffusion decoder": ("decoder/model.safetensors", "previews/000001.png"),
    }[name]
    sums = "checkpoints/step-*/SHA256SUMS"
    assert_permissions(output, umask, "metrics.jsonl", "checkpoints/step-*/model.safetensors", sums, *own)


def test_files_of_a_save(tmp_path, umask, nano_folder, capsys):
    model = mmlm.load(nano_folder)
    model.save(tmp_path / "saved" / "plain")
    model.save(tmp_path / "saved" / "bundle", bundle=True)
    save_codec(image_codec(), tmp_path / "saved" / "codec")
    Rices(tiny_encoder(), tiny_records(2), cache=tmp_path / "saved" / "index")
    drawn, spoken = str(tmp_path / "saved" / "a.png"), str(tmp_path / "saved" / "a.wav")
    assert main(["draw", "a red ring", "--model", str(nano_folder), "-o", drawn]) == 0
    assert main(["speak", "one", "--model", str(nano_folder), "-o", spoken, "--max-seconds", "0.5"]) == 0
    assert_permissions(
        tmp_path / "saved", umask, "bundle/*/model.safetensors", "index/*/*.safetensors", "a.png", "a.wav"
    )


def test_safetensors_are_written_in_one_place():
    """The library lets the owner alone read what it writes, so that `save_tensors` stands between."""
    root = Path(__file__).parents[1]
    files = [path for folder in ("mmlm", "encoders", "decoders") for path in (root / folder).rglob("*.py")]
    assert [str(path.relative_to(root)) for path in files if "save_file" in path.read_text()] == ["decoders/files.py"]


def test_a_file_that_finds_no_room_is_an_error_of_the_system(tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    tensors = {"a": torch.zeros(500_000)}
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))  # Python ignores the signal, as it does everywhere
    try:
        with pytest.raises(OSError, match="model.safetensors cannot be written.*make room"):
            save_tensors(tensors, tmp_path / "model.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    save_tensors(tensors, tmp_path / "model.safetensors")
