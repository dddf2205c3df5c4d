"""The recipes that are shipped as YAML, on tiny stand-ins: only the names of parts and of data are others."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import transformers

import mmlm
from mmlm.cli import main
from support.clips import save_clip
from support.families import FAMILIES, tokenizer
from support.hearing import save_whisper, tiny_whisper
from support.training_objectives import noise

FOLDER = Path(__file__).parents[1] / "recipes"
NANO = Path(mmlm.__file__).parent / "nano"
BLOCKS, POSITIONS = 4, 512


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> str:
    """A language model of Llama's make, with the blocks that gated ones are to stand between."""
    folder = tmp_path_factory.mktemp("host")
    sizes = FAMILIES["llama"][1] | dict(num_hidden_layers=BLOCKS, max_position_embeddings=POSITIONS)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("clip")
    save_clip(folder)
    return str(folder)


@pytest.fixture
def pictures(tmp_path) -> list[str]:
    """Names of pictures in `tmp_path`."""
    for number, data in enumerate(noise(0, 32)):
        (tmp_path / f"{number}.png").write_bytes(data)
    return [f"{number}.png" for number in range(32)]


def captions_coco(host, clip, folder, names):
    images = [{"id": n, "file_name": name} for n, name in enumerate(names)]
    annotations = [{"image_id": n, "caption": f"picture {n} of two"} for n in range(len(names)) for _ in range(2)]
    (folder / "coco.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    parts = [f"model.language_model={host}", f"model.image_encoder={clip}"]
    return [*parts, f"data={folder}/coco.json", f"held_out={folder}/coco.json", f"images={folder}"]


def audio_questions(host, clip, folder, names):
    lines = []
    for n in range(8):
        soundfile.write(folder / f"{n}.wav", np.random.default_rng(n).normal(0, 0.1, 8000), 16000)
        lines.append({"audio": f"{n}.wav", "transcript": f"number {n}", "question": "which?", "answer": str(n)})
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, lines)))
    ears = save_whisper(tiny_whisper(), folder / "whisper.pt")
    parts = [f"model.language_model={host}", f"model.audio_encoder={ears}"]
    return [*parts, f"data={folder}/asked.jsonl", f"held_out={folder}/asked.jsonl"]


def codes_lora(host, clip, folder, names):
    mmlm.assemble(host, clip).save(folder / "reader")
    lines = [{"image": name, "caption": f"picture {n}"} for n, name in enumerate(names)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    parts = [f"model.load={folder}/reader", f"model.image_codec={NANO}/image_codec"]
    return [*parts, f"data={folder}/pairs.jsonl", f"held_out={folder}/pairs.jsonl"]


def documents(host, clip, folder, names):
    for number in range(2):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for page in range(16):
                picture = names[16 * number + page]
                fields = {"texts": ["A page.", None, f"About picture {page}."], "images": [None, "0.png", None]}
                (folder / "page.json").write_text(json.dumps(fields))
                tar.add(folder / "page.json", f"{page}.json")
                tar.add(folder / picture, f"{page}.0.png")
    parts = [f"model.language_model={host}", f"model.image_encoder={clip}"]
    return [*parts, f"data=[{folder}/0.tar,{folder}/1.tar]"]


STAND_INS = {own.__name__: own for own in (captions_coco, audio_questions, codes_lora, documents)}


def test_every_shipped_recipe_is_tried():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == STAND_INS.keys()


@pytest.mark.parametrize("name", STAND_INS)
def test_a_shipped_recipe_passes_its_dry_run(name, host, clip, pictures, tmp_path, capsys):
    overrides = [*STAND_INS[name](host, clip, tmp_path, pictures), f"output={tmp_path}/out"]
    assert main(["train", str(FOLDER / f"{name}.yaml"), *overrides, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["trial"]["cached"]["loss"] > 0 and found["trial"]["cached"]["steps"] == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", STAND_INS)
def test_a_key_that_is_no_more_fails(name, tmp_path, capsys):
    """What the test above would say of a shipped recipe with an old key."""
    old = (FOLDER / f"{name}.yaml").read_text() + "\nearlier_key: 1\n"
    (tmp_path / "old.yaml").write_text(old)
    assert main(["train", str(tmp_path / "old.yaml"), "--dry-run"]) == 2
    assert "unknown key 'earlier_key'" in capsys.readouterr().err
