"""Saved models: equal models are equal files, folders may move, a bundle needs nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch

from decoders.codecs.checkpoint import save_codec
from decoders.diffusion.checkpoint import save_decoder
from decoders.diffusion.decoder import DiffusionDecoder, DiffusionDecoderConfig
from mmlm.assembly.assemble import assemble
from mmlm.assembly.bundle import narrowed
from mmlm.assembly.codecs import Codecs
from mmlm.assembly.load import load
from mmlm.assembly.names import absolute_name, relative_name
from mmlm.cli import main
from support import families, parts
from support.codec_parts import image_codec
from support.saved import write_parts

ROOT = Path(__file__).parents[1]


def write_model(folder: Path, **options):
    """A model of these parts, saved beside them."""
    codec = image_codec()
    save_codec(codec, folder / "codec")
    decoder = DiffusionDecoder(codec, DiffusionDecoderConfig(channels=(16,)))
    save_decoder(decoder, folder / "decoder")
    model = assemble(
        folder / "lm", folder / "clip", audio_encoder=folder / "ears.pt", resampler=parts.RESAMPLER,
        audio_resampler=parts.EARS["latents"], fusion=parts.fusion(),
        codecs=Codecs(image=folder / "codec", image_decoder=folder / "decoder"),
    )  # fmt: skip
    parts.open_gates(model)
    model.save(folder / "model", **options)
    return model


def answers(model) -> tuple:
    """What a model makes of a picture, a sound and a text to draw."""
    drawn = model.draw("x", seed=1)
    return model.caption(parts.picture(1), max_new_tokens=6), logits(model).tolist(), drawn.tobytes()


@torch.no_grad()
def logits(model) -> torch.Tensor:
    batch, media = parts.encoded(model, [[parts.picture(1), parts.sound(0.5), "x"]])
    return model(batch, media).logits


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "folder", "expected"),
    [
        ("/runs/1/lm", "/runs/1/model", "../lm"),
        ("/runs/lm", "/runs/1/model", "../../lm"),
        ("/runs/1/model/lm", "/runs/1/model", "./lm"),
        ("/lm", "/runs/1/model", "/lm"),  # only the root holds both
        ("/home/me/lm", "/home/me/a/b/model", "/home/me/lm"),  # far above
        ("ViT-B-32//runs/1/clip.pt", "/runs/1/model", "ViT-B-32/../clip.pt"),
        ("ViT-B-32/openai", "/runs/1/model", "ViT-B-32/openai"),
        ("gpt2", "/runs/1/model", "gpt2"),
        ("user/lm", "/runs/1/model", "user/lm"),
        ("preset:nano/language_model", "/runs/1/model", "preset:nano/language_model"),
    ],
)
def test_a_path_near_the_model_starts_from_its_folder(name, folder, expected):
    assert relative_name(name, folder) == expected
    assert absolute_name(expected, folder) == name


def test_a_model_and_its_parts_move_together(tmp_path, monkeypatch, recwarn):
    (tmp_path / "here").mkdir()
    model = write_model(write_parts(tmp_path / "here"))
    saved = json.loads((tmp_path / "here/model/config.json").read_text())
    assert saved["language_model"]["name"] == "../lm" and saved["image_encoder"]["name"] == "../clip"
    assert saved["audio_encoder"]["name"] == "../ears.pt" and saved["image_decoder"]["name"] == "../decoder"
    expected = answers(model)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "here", tmp_path / "elsewhere/there")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert answers(load("there/model")) == expected
    assert not [one for one in recwarn if "fingerprint" in str(one.message)]


def test_parts_in_a_new_place_are_pointed_at(tmp_path, capsys):
    model = write_model(write_parts(tmp_path))
    expected = logits(model)
    parts.picture(1).save(tmp_path / "picture.png")
    (tmp_path / "far/away").mkdir(parents=True)
    for name in ("lm", "clip", "ears.pt"):
        shutil.move(tmp_path / name, tmp_path / "far/away" / name)
    new = {"language_model": "lm", "image_encoder": "clip", "audio_encoder": "ears.pt"}
    new = {part: str(tmp_path / "far/away" / name) for part, name in new.items()}
    given = {}
    for part, place in new.items():
        with pytest.raises(FileNotFoundError, match=f"does not exist.*{part}= .*--{part.replace('_', '-')} on"):
            load(tmp_path / "model", **given)
        given[part] = place
    assert torch.equal(logits(load(tmp_path / "model", **given)), expected)
    flags = [word for part, place in new.items() for word in (f"--{part.replace('_', '-')}", place)]
    arguments = ["caption", str(tmp_path / "picture.png"), "--model", str(tmp_path / "model"), "--max-new-tokens", "2"]
    assert main([*arguments, *flags]) == 0
    capsys.readouterr()
    assert main(arguments) == 2 and "--language-model" in capsys.readouterr().err


def test_a_part_that_the_model_has_not_is_no_place_for_another_one(tmp_path):
    parts.build("llama").save(tmp_path)
    with pytest.raises(ValueError, match="has no audio encoder"):
        load(tmp_path, audio_encoder="whisper/tiny")


def test_a_bundle_loads_with_nothing_else_present(tmp_path, recwarn):
    (tmp_path / "parts").mkdir()
    model = write_model(write_parts(tmp_path / "parts"), bundle=True)
    expected = answers(model)
    shutil.move(tmp_path / "parts/model", tmp_path / "bundle")
    shutil.rmtree(tmp_path / "parts")
    loaded = load(tmp_path / "bundle")
    assert answers(loaded) == expected
    assert not [one for one in recwarn if "fingerprint" in str(one.message)]
    picture = torch.rand(1, 3, 32, 32)
    assert torch.equal(loaded.encoders["image"].embed_images(picture), model.encoders["image"].embed_images(picture))
    before = contents(tmp_path / "bundle")
    loaded.save(tmp_path / "bundle", bundle=True)  # over itself
    assert contents(tmp_path / "bundle") == before


def test_what_no_file_can_hold_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="image encoder.*given ready-made.*image_encoder="):
        parts.build("llama").save(tmp_path / "saved", bundle=True)
    assert not list((tmp_path / "saved").iterdir())


def test_weights_from_16_bits_take_16_bits_in_a_bundle_and_others_stay():
    exact, bfloat = torch.tensor([1.5, -2.0]), torch.tensor([1e-30, 3e38]).bfloat16().float()
    rounded = torch.tensor([1 / 3])
    found = narrowed({"a": exact, "b": bfloat, "c": rounded, "d": exact, "n": torch.tensor([7])})
    assert [found[name].dtype for name in "abcn"] == [torch.float16, torch.bfloat16, torch.float32, torch.int64]
    assert torch.equal(found["a"].float(), exact) and torch.equal(found["b"].float(), bfloat)
    assert found["d"].data_ptr() == found["a"].data_ptr()  # tied weights stay tied


def test_a_published_clip_is_bundled_with_its_architecture(tmp_path):
    """A name like ViT-S-32/FILE: the architecture comes from open_clip, the weights from the file."""
    name = "ViT-S-32-alt"
    torch.save(open_clip.create_model(name).state_dict(), tmp_path / "clip.pt")
    model = assemble(
        families.language_model("llama"), f"{name}/{tmp_path}/clip.pt", tokenizer=families.tokenizer(),
        resampler=parts.RESAMPLER, fusion=parts.fusion(),
    )  # fmt: skip
    model.save(tmp_path / "model", bundle=True)
    (tmp_path / "clip.pt").unlink()
    loaded = load(tmp_path / "model")
    assert loaded.config().image_encoder.fingerprint == model.config().image_encoder.fingerprint
    assert loaded.caption(parts.picture(2), max_new_tokens=4) == model.caption(parts.picture(2), max_new_tokens=4)


SAVES = """
import sys
from support import parts
model = parts.build("llama", ears="latents")
for module in model.modules():  # the same parameters, registered in another order
    module._parameters = dict(reversed(module._parameters.items()))
model.fusion.layers._modules = dict(reversed(model.fusion.layers._modules.items()))
model.save(sys.argv[1])
"""


def test_equal_models_are_equal_files(tmp_path):
    """Whatever process saves them, and in whatever order their parameters come."""
    parts.build("llama", ears="latents").save(tmp_path / "a")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests"}
    subprocess.run([sys.executable, "-c", SAVES, tmp_path / "b"], check=True, env=environment, capture_output=True)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert sorted(contents(tmp_path / "a")) == ["config.json", "model.safetensors"]


def test_real_parts_are_bundled(tmp_path, recwarn):
    """A published language model and Whisper, from MMLM_REAL or ../shared/real; skipped where they do not lie there."""
    folder = Path(os.environ.get("MMLM_REAL", ROOT.parent / "shared/real"))
    places = [folder / name for name in ("smollm2-135m-instruct", "whisper-base.pt")]
    if not all(place.exists() for place in places):
        pytest.skip(f"no real weights in {folder}: set MMLM_REAL to the folder that holds them")
    model = assemble(
        places[0], parts.image_encoder(), audio_encoder=places[1], resampler=parts.RESAMPLER,
        audio_resampler=parts.EARS["latents"], fusion=parts.fusion(),
    )  # fmt: skip
    write_parts(tmp_path)
    model = load(model.save(tmp_path / "first"), image_encoder=tmp_path / "clip")
    model.save(tmp_path / "model", bundle=True)
    recwarn.clear()
    loaded = load(tmp_path / "model")
    assert not [one for one in recwarn if "fingerprint" in str(one.message)]
    assert all(str(tmp_path / "model") in part.name for part in (loaded.language_model, *loaded.encoders.values()))
    assert loaded.caption(parts.picture(1), max_new_tokens=3) == model.caption(parts.picture(1), max_new_tokens=3)
