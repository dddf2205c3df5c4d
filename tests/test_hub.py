"""Names on the hub: revisions, files of GGUF, mirrors, caches, errors. A hub on this machine answers."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from encoders.hub import hub_fault, split_revision
from support import families, gguf_files, parts
from support.hub import hub

ROOT = Path(__file__).parents[1]
NANO = ROOT / "mmlm/nano"
# In a process of its own, since huggingface_hub reads its environment when it is imported.
PROGRAM = """
import json, sys, torch
from pathlib import Path
from huggingface_hub import constants
from encoders.clip import ClipImageEncoder
from encoders.settings import settings_of
from encoders.weights import look_at_weights
from mmlm.assembly.load import load
from mmlm.assembly.frozen import causal_model
from support import parts
for name in sys.argv[1:]:
    kind, _, name = name.partition(":")
    if kind == "offline":
        constants.HF_HUB_OFFLINE = True
        continue
    if kind == "remove":
        next(Path(constants.HF_HUB_CACHE).rglob(name)).unlink()
        continue
    try:
        if kind == "clip":
            ClipImageEncoder.load(name)
        elif kind == "adapter":
            assert settings_of(name, name="adapter_config.json")["peft_type"] == "LORA"
            look_at_weights(name, library="peft")  # as for `with_adapter`, without that package
        elif kind == "whole":
            model = load(name, image_encoder=parts.image_encoder()).language_model.model
        else:
            model, _, lasting = causal_model(name, None, torch.float32)
            assert lasting == name
        with torch.no_grad():
            print(json.dumps(model(torch.arange(3, 9).unsqueeze(0)).logits.sum().item()))
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))
"""
LOADED = {  # the revision that each of these names has
    "lm:someone/old": 0, "lm:someone/lm": 0, "lm:someone/lm@v2": 1, "lm:someone/files/lm.gguf": 0,
    "lm:someone/files@v2/lm.gguf": 1, "whole:someone/seeing@v1": 1,
    "lm:someone/variant": 0, "lm:someone/variant_shards": 1, "lm:someone/variant_old": 0,
}  # fmt: skip
ABSENT = "no folder here, and no model of the hub at http://127.*HF_ENDPOINT.* correct the name, or log in"
REFUSED = {
    "lm:someone/gated": "is gated: accept its terms .* `hf auth login` .* HF_TOKEN",
    "whole:someone/gated": "is gated: accept its terms", "lm:someone/gated/lm.gguf": "is gated: accept its terms",
    "lm:someone/private": ABSENT, "lm:someone/absent": ABSENT, "whole:someone/absent": ABSENT,
    "lm:someone/lm@v3": "someone/lm has no revision 'v3' on the hub",
    "whole:someone/seeing@v3": "someone/seeing has no revision 'v3' on the hub",
    "lm:someone/files/absent.gguf": "is no file of the hub", "lm:someone/files": "config.json",
    "lm:someone/buffer": r"asks for a \w+\.bytearray", "lm:someone/shards": r"asks for a \w+\.bytearray",
    "lm:someone/elsewhere": "names the shard '../a.bin', which is no file of its folder, or none of weights",
    "clip:someone/eyes": r"asks for a \w+\.bytearray", "adapter:someone/adapter": r"asks for a \w+\.bytearray",
    "lm:someone/variants": "several variants \\(bf16, fp16\\): fetch them \\(`hf download someone/variants --local-dir",
    "lm:someone/variant_buffer": r"asks for a \w+\.bytearray",
    "lm:someone/broken": "did not give someone/broken \\(status 400\\)",
}  # fmt: skip
LACKING = ["lm:someone/lm", "lm:someone/other", "whole:someone/seeing", "lm:a/b/lm.gguf"]


def expected(seed: int) -> float:
    with torch.no_grad():
        return families.language_model("llama", seed)(torch.arange(3, 9).unsqueeze(0)).logits.sum().item()


class Buffer:
    """Unpickled, it is a buffer of 10^12 bytes."""

    def __reduce__(self):
        return bytearray, (10**12,)


def publish_pickles(place: Path) -> None:
    """Models whose weights are pickled: a good one, and others of which a pickle asks for more than there is."""
    evil = {"a": Buffer()}
    indexes = {"shards": "a-1.bin", "elsewhere": "../a.bin"}
    for name in ("old", "buffer", *indexes):
        folder = place / name / "main"
        folder.mkdir(parents=True)
        families.language_model("llama", 0).config.save_pretrained(folder)
        families.tokenizer().save_pretrained(folder)
        if shard := indexes.get(name):
            index = {"metadata": {}, "weight_map": {"model.norm.weight": shard}}
            (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
            torch.save(evil, folder / "a-1.bin")
        else:
            weights = families.language_model("llama", 0).state_dict() if name == "old" else evil
            torch.save(weights, folder / "pytorch_model.bin")
    eyes = place / "eyes/main"
    shutil.copytree(NANO / "image_encoder", eyes, copy_function=shutil.copyfile)
    (eyes / "open_clip_model.safetensors").unlink()
    torch.save(evil, eyes / "open_clip_pytorch_model.bin")
    adapter = place / "adapter/main"
    adapter.mkdir(parents=True)
    torch.save(evil, adapter / "adapter_model.bin")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"]}))


def publish_variants(place: Path) -> None:
    """Models that have weights of variants alone."""
    names = {"variant": (0, "fp16"), "variant_shards": (1, "fp16"), "variants": (0, "fp16", "bf16")}
    for name, (seed, *variants) in names.items():
        size = "20KB" if name == "variant_shards" else "1GB"
        for variant in variants:
            families.language_model("llama", seed).save_pretrained(
                place / name / "main", variant=variant, max_shard_size=size
            )
        families.tokenizer().save_pretrained(place / name / "main")
    for name, pickled in {"variant_old": "old", "variant_buffer": "buffer"}.items():
        shutil.copytree(place / pickled, place / name)
        (place / name / "main/pytorch_model.bin").rename(place / name / "main/pytorch_model.fp16.bin")


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict[str, list]:
    """For each name the sum of its logits, or its error: from the hub, then from the cache, then from half of it."""
    root = tmp_path_factory.mktemp("published")
    for seed, revision in enumerate(["main", "v2"]):
        model, folder = families.language_model("llama", seed), root / "someone/files" / revision
        model.save_pretrained(root / "someone/lm" / revision, max_shard_size="20KB")
        families.tokenizer().save_pretrained(root / "someone/lm" / revision)
        folder.mkdir(parents=True)
        gguf_files.model_file(folder / "lm.gguf", model, "llama", families.tokenizer())
    publish_pickles(root / "someone")
    publish_variants(root / "someone")
    model = parts.build("llama")
    model.language_model.name = "someone/lm@v2"
    model.save(root / "someone/seeing/v1")
    runs = {"hub": [*LOADED, *REFUSED], "cache": [*LOADED], "half": LACKING}
    names = [*runs["hub"], "offline:", *runs["cache"], "remove:model-00002-of-*.safetensors"]
    names += ["remove:model-00002-of-*.safetensors", *runs["half"]]
    with hub(root) as address:
        environment = {
            **os.environ, "HF_ENDPOINT": address, "HF_HUB_CACHE": str(root / "cache"), "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "TRANSFORMERS_OFFLINE": "0",
            "DISABLE_SAFETENSORS_CONVERSION": "1",
            "PYTHONPATH": f"{ROOT}:{ROOT}/tests:{os.environ.get('PYTHONPATH', '')}",
        }  # fmt: skip
        command = [sys.executable, "-W", "ignore", "-c", PROGRAM, *names]
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    lines = iter([json.loads(line) for line in run.stdout.splitlines()])
    return {kind: [next(lines) for _ in asked] for kind, asked in runs.items()}


def test_names_with_revisions_are_fetched_from_a_mirror(told):
    assert told["hub"][: len(LOADED)] == pytest.approx([expected(seed) for seed in LOADED.values()], abs=1e-4)


def test_what_was_fetched_is_loaded_again_without_a_network(told):
    assert told["cache"] == told["hub"][: len(LOADED)]


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_hub_refuses_is_told_in_one_line(told, name):
    line = told["hub"][len(LOADED) + list(REFUSED).index(name)]
    assert re.search(REFUSED[name], line) and "\n" not in line, line


@pytest.mark.parametrize("name", LACKING)
def test_a_cache_that_lacks_something_says_so(told, name):
    line = told["half"][LACKING.index(name)]
    words = (
        "not in the cache .*, or not whole, and nothing is fetched while HF_HUB_OFFLINE is set: load it once without"
    )
    assert re.search(words, line) and "\n" not in line, line


def test_a_hub_that_is_not_reached_is_told(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    error = OSError("in many words")
    error.__cause__ = LocalEntryNotFoundError("no")
    assert "cannot be reached: connect to the network" in str(hub_fault("a/b", error))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("user/model", ("user/model", None)), ("user/model@v1", ("user/model", "v1")), ("gpt2@main", ("gpt2", "main")),
        ("user/model@refs/pr/1", ("user/model", "refs/pr/1")), ("/runs/a@b", ("/runs/a@b", None)),
        ("../a@b", ("../a@b", None)), ("a/b/c@d", ("a/b/c@d", None)),
    ],
)  # fmt: skip
def test_a_revision_stands_after_the_name(name, expected):
    assert split_revision(name) == expected


def test_a_folder_that_is_there_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model@v1").mkdir()
    assert split_revision("model@v1") == ("model@v1", None)


def test_other_errors_are_not_the_hubs():
    assert hub_fault("a", ValueError("x")) is None
