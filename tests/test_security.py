"""Files of strangers: nothing in them runs, and no more is spent on them than their bytes are worth."""

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import mmlm
from decoders.codecs.checkpoint import load_codec, save_codec
from decoders.codecs.image_vqvae import ImageVQVAE, ImageVQVAEConfig
from decoders.codecs.pretrained import load_pretrained
from decoders.codecs.quantizer import QuantizerConfig
from decoders.diffusion.checkpoint import load_decoder, save_decoder
from decoders.diffusion.decoder import DiffusionDecoder, DiffusionDecoderConfig
from encoders.clip import ClipImageEncoder
from encoders.guarded import torch_file
from encoders.sizes import SPARE_BYTES, RefusedError, _arange, believed
from encoders.texts import tokenizing
from encoders.whisper import WhisperAudioEncoder
from mmlm.assembly.codecs import load_one_codec
from mmlm.assembly.frozen import causal_model
from mmlm.assembly.interop import peft_adapter
from mmlm.assembly.interop.open_flamingo_checkpoint import read_checkpoint
from mmlm.assembly.widths import encoder_width, language_model_size
from mmlm.data import read_records
from mmlm.data.cache import TensorCache
from mmlm.data.streams import find_shards
from mmlm.data.streams.index import index_of, index_path
from mmlm.prompting.conversation import chat_prompt, turn_end
from mmlm.training.checkpoint import latest_checkpoint, save_checkpoint
from mmlm.training.recipe import load_recipe
from support import clips, families, gguf_files
from support.whisper_forms import ctranslate2_file

NANO = Path(mmlm.__file__).parent / "nano"
DOCUMENTED = (ValueError, TypeError, OSError, ImportError)


class Attack:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


class Trap:
    """A folder for a part that carries code, and the mark that this code would leave."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, folder / "RAN"

    def copy(self, part: str, **changes: object) -> Path:
        """A part of nano, with other values in its config.json."""
        made = self.folder / part
        if (NANO / part).is_dir():
            shutil.copytree(NANO / part, made, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(NANO / part, made)
        if changes:
            change(made / "config.json", **changes)
        return made

    def code(self, folder: Path, *names: str) -> None:
        """Python files that leave the mark when they are imported."""
        lines = [f"open({str(self.mark)!r}, 'w')", "from transformers import PreTrainedConfig as C"]
        for name in names:
            (folder / f"{name}.py").write_text("\n".join(lines))

    def pickle(self, path: Path, form: str = "torch") -> Path:
        """A pickle that leaves the mark: bare, as torch.save writes it, or as it wrote it long ago."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if form == "bare":
            path.write_bytes(pickle.dumps({"a": Attack(self.mark)}))
        else:
            torch.save({"state_dict": Attack(self.mark)}, path, _use_new_zipfile_serialization=form == "torch")
        return path


def change(file: Path, **values: object) -> None:
    """Other values in a JSON file; a name with __ in it leads into its sections."""
    config = json.loads(file.read_text())
    for name, value in values.items():
        *sections, last = name.split("__")
        place = config
        for section in sections:
            place = place[section]
        place[last] = value
    file.write_text(json.dumps(config))


@pytest.fixture
def trap(tmp_path, monkeypatch) -> Iterator[Trap]:
    """Whatever asks on standard input is told "yes"."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n" * 100))
    yield Trap(tmp_path)


def evil_config(trap: Trap) -> Path:
    folder = trap.copy(
        "language_model", model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}
    )
    trap.code(folder, "own")
    return folder


def evil_tokenizer(folder: Path, trap: Trap) -> Path:
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.T", "own.T"]}, tokenizer_class="Own")
    trap.code(folder, "own")
    return folder


# Each door: a name, and what goes through it


def clip_tokenizer(trap: Trap, **kwargs: object) -> object:
    folder = evil_tokenizer(trap.copy("image_encoder"), trap)
    change(folder / "open_clip_config.json", model_cfg__text_cfg__tokenizer_kwargs=kwargs)
    return ClipImageEncoder.load(folder).embed_texts(["a"])


def clip_text_tower(trap: Trap) -> object:
    folder = trap.copy("image_encoder")
    change(folder / "open_clip_config.json", model_cfg__text_cfg__hf_model_name=str(evil_config(trap)))
    return ClipImageEncoder.load(folder)


def clip_timm(trap: Trap) -> object:
    folder = trap.copy("image_encoder")
    change(folder / "open_clip_config.json", model_cfg__vision_cfg__timm_model_name=f"local-dir:{evil_config(trap)}")
    return ClipImageEncoder.load(folder)


def clip_weights(trap: Trap, form: str) -> object:
    folder = trap.copy("image_encoder")
    (folder / "open_clip_model.safetensors").unlink()
    trap.pickle(folder / "open_clip_pytorch_model.bin", form)
    return ClipImageEncoder.load(folder)


def clip_of_transformers(trap: Trap) -> object:
    """Code for every part of a CLIPModel: its model, tokenizer, processor."""
    folder = trap.folder / "clip"
    clips.save_clip(folder)
    evil_tokenizer(folder, trap)
    change(folder / "config.json", auto_map={"AutoConfig": "own.C", "AutoModel": "own.M"})
    change(folder / "preprocessor_config.json", auto_map={"AutoImageProcessor": "own.T"}, image_processor_type="Own")
    ClipImageEncoder.load(folder)  # none of which it needs
    return ClipImageEncoder.load(folder).embed_texts(["a"])


def clip_of_transformers_weights(trap: Trap, form: str) -> object:
    folder = trap.folder / "clip"
    clips.save_clip(folder)
    (folder / "model.safetensors").unlink()
    trap.pickle(folder / "pytorch_model.bin", form)
    return ClipImageEncoder.load(folder)


def archive_of_torchscript(trap: Trap, pickles: dict[str, bytes]) -> Path:
    """A small archive with other pickles in it."""
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(trap.folder / "plain.pt"))
    with zipfile.ZipFile(trap.folder / "plain.pt") as plain, zipfile.ZipFile(trap.folder / "ViT-B-32.pt", "w") as made:
        for name in plain.namelist():
            made.writestr(name, pickles.get(name.partition("/")[2]) or plain.read(name))
    return trap.folder / "ViT-B-32.pt"


def openai_file(trap: Trap, *names: str) -> object:
    evil = pickle.dumps({"a": Attack(trap.mark)}, protocol=2)
    return ClipImageEncoder.load(archive_of_torchscript(trap, dict.fromkeys(names, evil)))


def model_weights(trap: Trap, form: str) -> object:
    folder = trap.copy("language_model")
    (folder / "model.safetensors").unlink()
    trap.pickle(folder / "pytorch_model.bin", form)
    return causal_model(folder, None, torch.float32)


def adapter(trap: Trap, **settings: object) -> object:
    """An adapter of peft, whose weights or settings are code."""
    folder = trap.folder / "adapter"
    trap.pickle(folder / "adapter_model.bin")
    trap.code(folder, "own")
    base = str(trap.copy("language_model"))
    written = {"peft_type": "LORA", "base_model_name_or_path": base, "target_modules": ["q_proj"], "r": 2, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(written))
    return causal_model(folder, None, torch.float32)


def lora(trap: Trap, form: str) -> object:
    """The same, read beside a model: code in the place of its weights, and beside them."""
    folder = trap.folder / "adapter"
    trap.pickle(folder / "adapter_model.bin", form)
    trap.pickle(folder / "adapter_model.safetensors", form)
    trap.code(folder, "own")
    written = {"peft_type": "LORA", "target_modules": ["q_proj"], "r": 2, "lora_alpha": 2, "auto_mapping": {"a": "own"}}
    (folder / "adapter_config.json").write_text(json.dumps(written))
    return peft_adapter.load(mmlm.load("nano", encoders=["image"]), folder)


def gguf_file(trap: Trap) -> object:
    """Files of code and a pickle beside a file of GGUF, and a chat template that would leave the mark."""
    language_model, tokenizer = families.language_model("llama"), families.tokenizer()
    folder = evil_config(trap)
    trap.pickle(folder / "pytorch_model.bin")
    path = gguf_files.model_file(
        folder / "a.gguf", language_model, "llama", tokenizer,
        **{"tokenizer.chat_template": ESCAPES[1].replace("MARK", str(trap.mark))},
    )  # fmt: skip
    return turn_end(causal_model(path, None, torch.float32)[1])


def bystanders(trap: Trap) -> object:
    """Files that some loader of transformers or diffusers would read: processors, schedulers, ways to generate."""
    folder = trap.copy("language_model")
    trap.code(folder, "own", "generate", "pipeline", "processing_own")
    (folder / "custom_generate").mkdir()
    trap.code(folder / "custom_generate", "generate")
    own = {"auto_map": {"AutoProcessor": "own.T", "AutoImageProcessor": "own.T", "AutoFeatureExtractor": "own.T"}}
    for name in ("processor_config", "preprocessor_config", "feature_extractor"):
        (folder / f"{name}.json").write_text(json.dumps(own))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": ["pipeline", "C"], "scheduler": ["own", "C"]}))
    return causal_model(folder, None, torch.float32)


def whisper_folder(trap: Trap, form: str) -> object:
    """A folder of transformers, with code beside it and a pickle for weights; or one of CTranslate2."""
    folder = trap.folder / "ears"
    trap.pickle(folder / ("model.bin" if form == "CTranslate2" else "pytorch_model.bin"), "torch")
    trap.code(folder, "own", "modeling_whisper", "tokenization_whisper")
    auto = {"AutoConfig": "own.C", "AutoModel": "own.M", "AutoTokenizer": ["own.T", "own.T"]}
    config = {} if form == "CTranslate2" else {"model_type": "whisper", "auto_map": auto}
    for name in ("config.json", "tokenizer_config.json", "generation_config.json", "preprocessor_config.json"):
        (folder / name).write_text(json.dumps(config))
    if form == "shards":
        trap.pickle(folder / "a.bin", "old")
        (folder / "pytorch_model.bin").unlink()
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "a.bin"}}))
    return WhisperAudioEncoder.load(folder)


def published_codec(trap: Trap, model_type: str, name: str, **changes: object) -> object:
    folder = trap.folder / "codec"
    trap.pickle(folder / name)
    trap.code(folder, "own")
    auto = {"AutoConfig": "own.C", "AutoModel": "own.M"}
    kind = {"_class_name": model_type} if model_type == "VQModel" else {"model_type": model_type}
    (folder / "config.json").write_text(json.dumps({**kind, "auto_map": auto, **changes}))
    return load_one_codec(folder)


def own_decoder(trap: Trap) -> object:
    folder = trap.copy("image_codec")
    (folder / "scheduler_config.json").write_text(json.dumps({"_class_name": "Own", "auto_map": {"Own": "own.C"}}))
    trap.code(folder, "own")
    trap.pickle(folder / "model.safetensors")
    return load_decoder(folder, load_codec(NANO / "image_codec"))


def recipe(trap: Trap, line: str) -> object:
    path = trap.folder / "recipe.yaml"
    path.write_text(line.replace("MARK", str(trap.mark)))
    return load_recipe(path)


def checkpoint(trap: Trap) -> object:
    weights = {"a": torch.zeros(1)}
    place = save_checkpoint(trap.folder, 1, weights, weights, {}, 1)
    trap.pickle(place / "model.safetensors")
    return latest_checkpoint(trap.folder)


def template(trap: Trap, text: str) -> object:
    tokenizer = families.tokenizer()
    tokenizer.chat_template = text.replace("MARK", str(trap.mark))
    return turn_end(tokenizer), chat_prompt(tokenizer, [{"role": "user", "content": "a"}])


def saved(trap: Trap, name: str) -> object:
    folder = trap.folder / "saved"
    folder.mkdir()
    config = json.loads((NANO / "config.json").read_text())
    config["language_model"]["name"] = name
    (folder / "config.json").write_text(json.dumps(config))
    # As a stranger would: the digest is that of the config. It guards against accidents, not against strangers.
    from mmlm.assembly.config import digest

    save_file(load_file(NANO / "model.safetensors"), folder / "model.safetensors", metadata={"config": digest(config)})
    return mmlm.load(folder)


def saved_weights(trap: Trap) -> object:
    folder = trap.folder / "saved"
    trap.pickle(folder / "model.safetensors")
    shutil.copyfile(NANO / "config.json", folder / "config.json")
    return mmlm.load(folder)


def archive(trap: Trap) -> object:
    trap.pickle(trap.folder / "a.pyd", "bare")
    trap.pickle(trap.folder / "a.pth")
    trap.pickle(trap.folder / "a.json", "bare")
    trap.pickle(trap.folder / "a.jpg", "bare")
    with tarfile.open(trap.folder / "pairs.tar", "w") as tar:
        for name in ("a.pyd", "a.pth", "a.json", "a.jpg"):
            tar.add(trap.folder / name, name)
    return [record.decode() for record in read_records(str(trap.folder / "pairs.tar"))]


def table(trap: Trap) -> object:
    """A table whose schema names a type that is a pickle, and whose media and texts are pickles."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    evil = pickle.dumps(Attack(trap.mark), protocol=2)
    named = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": evil}
    medium = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([pa.field("image", medium), pa.field("text", pa.binary(), metadata=named)], {b"pandas": evil})
    rows = {"image": [{"bytes": evil, "path": "a.jpg"}], "text": [evil]}
    pq.write_table(pa.table(rows, schema), trap.folder / "a.parquet")
    return [record.decode() for record in read_records(trap.folder / "a.parquet")]


def shard_index(trap: Trap, form: str) -> object:
    """The index of a shard is a pickle."""
    with tarfile.open(trap.folder / "a.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"))
    (shard,) = find_shards(trap.folder / "a.tar")
    trap.pickle(index_path(shard, trap.folder), form)
    return index_of(shard, trap.folder)


ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch MARK') }}",
    "{{ self.__init__.__globals__.__builtins__.open('MARK', 'w') }}",
    "{{ ''|attr('__class__') }}{% include 'MARK' %}",
    "{{ messages.__class__.__base__.__subclasses__() }}{{ raise_exception.__globals__['open']('MARK', 'w') }}",
)
YAML = (
    "model: !!python/object/apply:os.system ['touch MARK']",
    "model: !!python/object/new:builtins.open [MARK, w]",
    "model: !!python/name:os.system",
    'model: nano\ndata: ${eval:\'open("MARK", "w")\'}',
)
DOORS: dict[str, Callable[[Trap], object]] = {
    "CLIP, tokenizer that asks for trust": lambda trap: clip_tokenizer(trap, trust_remote_code=True),
    "CLIP, tokenizer": clip_tokenizer,
    "CLIP, other settings of a tokenizer": lambda trap: clip_tokenizer(trap, tokenizer_file="/etc/passwd", proxies={}),
    "CLIP, text tower": clip_text_tower,
    "CLIP, image tower": clip_timm,
    **{f"CLIP, weights {form}": lambda trap, form=form: clip_weights(trap, form) for form in ("torch", "old", "bare")},
    "CLIP, file": lambda trap: ClipImageEncoder.load(f"ViT-S-32-alt/{trap.pickle(trap.folder / 'a.pt')}"),
    "CLIP of transformers": clip_of_transformers,
    **{
        f"CLIP of transformers, weights {form}": lambda trap, form=form: clip_of_transformers_weights(trap, form)
        for form in ("torch", "old", "bare")
    },
    **{
        f"CLIP of OpenAI, {form}": lambda trap, form=form: ClipImageEncoder.load(
            trap.pickle(trap.folder / "ViT-B-32.pt", form)
        )
        for form in ("torch", "old", "bare")
    },
    "CLIP of OpenAI, TorchScript": lambda trap: openai_file(trap, "data.pkl"),
    "CLIP of OpenAI, TorchScript's constants": lambda trap: openai_file(trap, "constants.pkl"),
    "language model": lambda trap: causal_model(evil_config(trap), None, torch.float32),
    "tokenizer": lambda trap: causal_model(evil_tokenizer(trap.copy("language_model"), trap), None, torch.float32),
    "language model, weights": lambda trap: model_weights(trap, "torch"),
    "language model, weights bare": lambda trap: model_weights(trap, "bare"),
    "GGUF": gguf_file,
    "adapter, weights": adapter,
    "adapter, module": lambda trap: adapter(trap, megatron_config={"a": 1}, megatron_core="own"),
    "adapter, mapping": lambda trap: adapter(trap, auto_mapping={"base_model_class": "C", "parent_library": "own"}),
    "adapter of another kind": lambda trap: adapter(trap, peft_type="XLORA", adapters={"a": str(trap.folder)}),
    **{f"LoRA of peft {form}": lambda trap, form=form: lora(trap, form) for form in ("torch", "old", "bare")},
    "processors, schedulers": bystanders,
    "Whisper": lambda trap: WhisperAudioEncoder.load(trap.pickle(trap.folder / "a.pt")),
    "Whisper bare": lambda trap: WhisperAudioEncoder.load(trap.pickle(trap.folder / "a.pt", "bare")),
    **{
        f"Whisper, {form}": lambda trap, form=form: whisper_folder(trap, form)
        for form in ("transformers", "shards", "CTranslate2")
    },
    "width of a Whisper": lambda trap: encoder_width("audio", str(trap.pickle(trap.folder / "a.pt"))),
    "width of a Whisper bare": lambda trap: encoder_width("audio", str(trap.pickle(trap.folder / "a.pt", "bare"))),
    "width of a language model": lambda trap: language_model_size(str(evil_config(trap))),
    "VQGAN": lambda trap: load_pretrained(trap.pickle(trap.folder / "a.ckpt")),
    "VQGAN old": lambda trap: load_pretrained(trap.pickle(trap.folder / "a.ckpt", "old")),
    "EnCodec": lambda trap: published_codec(trap, "encodec", "pytorch_model.bin"),
    "VQModel": lambda trap: published_codec(trap, "VQModel", "diffusion_pytorch_model.bin"),
    "VQModel, safetensors": lambda trap: published_codec(trap, "VQModel", "diffusion_pytorch_model.safetensors"),
    "Janus": lambda trap: published_codec(trap, "janus", "pytorch_model.bin", vq_config={}),
    "codec": lambda trap: load_one_codec(trap.pickle(trap.copy("image_codec") / "model.safetensors").parent),
    "decoder": own_decoder,
    **{f"recipe {at}": lambda trap, line=line: recipe(trap, line) for at, line in enumerate(YAML)},
    "checkpoint of training": checkpoint,
    "cache": lambda trap: "a" in TensorCache(trap.pickle(trap.folder / "f/a.safetensors").parent),
    "cache bare": lambda trap: "a" in TensorCache(trap.pickle(trap.folder / "f/a.safetensors", "bare").parent),
    **{f"chat template {at}": lambda trap, text=text: template(trap, text) for at, text in enumerate(ESCAPES)},
    "saved model, its weights": saved_weights,
    "saved model, its language model": lambda trap: saved(trap, str(evil_config(trap))),
    "OpenFlamingo": lambda trap: read_checkpoint(trap.pickle(trap.folder / "checkpoint.pt")),
    "archive": archive,
    "table of Parquet": table,
    **{f"index of a shard {form}": lambda trap, form=form: shard_index(trap, form) for form in ("torch", "bare")},
}


@pytest.mark.parametrize("door", DOORS)
def test_nothing_that_is_loaded_runs(trap, door):
    try:
        DOORS[door](trap)
    except DOCUMENTED as error:
        assert not any(advice in str(error) for advice in ("trust_remote_code", "weights_only"))  # no advice to run it
    assert not trap.mark.exists()


@pytest.mark.parametrize("door", ["tokenizer", "processors, schedulers"])
def test_code_that_nobody_needs_does_not_hinder(trap, door):
    """A tokenizer that transformers knows by its files, and files that are not read."""
    if door == "tokenizer":
        folder = trap.copy("language_model")
        trap.code(folder, "own")
        model, tokenizer, _ = causal_model(folder, None, torch.float32)
    else:
        model, tokenizer, _ = bystanders(trap)
    assert model(**tokenizer("a", return_tensors="pt")).logits.isfinite().all() and not trap.mark.exists()


def test_the_traps_do_spring_for_who_trusts_them(tmp_path):
    """Otherwise the marks above would prove nothing. In a process of its own, which may do what we never do."""
    trap = Trap(tmp_path)
    folder = evil_config(trap)
    code = f"import transformers; transformers.AutoConfig.from_pretrained({str(folder)!r})"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    subprocess.run([sys.executable, "-c", code], input=b"yes\n", env=environment, capture_output=True, check=False)
    assert trap.mark.exists()
    trap.mark.unlink()
    torch.load(trap.pickle(tmp_path / "a.pt"), weights_only=False)
    assert trap.mark.exists()
    trap.mark.unlink()
    evil = pickle.dumps(Attack(trap.mark), protocol=2)
    with zipfile.ZipFile(archive_of_torchscript(trap, {"data.pkl": evil})) as file:
        pickle.loads(file.read("plain/data.pkl"))
    assert trap.mark.exists()


def test_a_tokenizer_that_is_none_is_a_plain_error(trap):
    folder = trap.copy("image_encoder")
    whole = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="tokenizer of .* cannot be loaded"):
        ClipImageEncoder.load(folder).embed_texts(["a"])
    tokenizer = json.loads(whole)
    tokenizer["model"]["vocab"] = {text: number + 10**6 for text, number in tokenizer["model"]["vocab"].items()}
    tokenizer["added_tokens"], tokenizer["post_processor"] = [], None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match="the tokenizer makes ids up to"):
        ClipImageEncoder.load(folder).embed_texts(["a red circle"])


# Sizes

HUGE = 10**9


def refused(call: Callable[[], object]) -> None:
    """Refused by what we count, not by an allocation that failed."""
    with pytest.raises(ValueError) as caught:
        call()
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, RefusedError):
        error = error.__cause__ or error.__context__
    assert error is not None, caught.value


@pytest.mark.parametrize(
    "changes",
    [
        dict(num_hidden_layers=HUGE), dict(hidden_size=6 * HUGE), dict(intermediate_size=HUGE), dict(vocab_size=HUGE),
        dict(head_dim=HUGE), dict(num_hidden_layers=9_999), dict(model_type="qwen2", num_hidden_layers=HUGE),
        dict(model_type="qwen2_moe", num_experts=HUGE), dict(model_type="gpt2", n_layer=HUGE),
        dict(model_type="opt", max_position_embeddings=HUGE), dict(num_hidden_layers=10**4000),
    ],
    ids=lambda changes: str(changes)[:50],
)  # fmt: skip
def test_a_language_model_is_no_larger_than_its_weights(trap, changes):
    folder = trap.copy("language_model", **changes)
    refused(lambda: causal_model(folder, families.tokenizer(), torch.float32))


@pytest.mark.parametrize(
    "changes",
    [
        dict(vision_cfg__layers=HUGE), dict(vision_cfg__width=32 * HUGE), dict(text_cfg__layers=HUGE),
        dict(text_cfg__vocab_size=HUGE), dict(text_cfg__context_length=HUGE), dict(embed_dim=HUGE),
        dict(vision_cfg__image_size=8 * 10**6), dict(vision_cfg__mlp_ratio=1e9), dict(vision_cfg__layers=9_999),
    ],
    ids=str,
)  # fmt: skip
def test_a_clip_is_no_larger_than_its_weights(trap, changes):
    folder = trap.copy("image_encoder")
    change(folder / "open_clip_config.json", **{f"model_cfg__{name}": value for name, value in changes.items()})
    refused(lambda: ClipImageEncoder.load(folder))


@pytest.mark.parametrize(
    "changes",
    [
        dict(vision_config__num_hidden_layers=HUGE), dict(vision_config__num_hidden_layers=9_999),
        dict(vision_config__hidden_size=64 * HUGE), dict(vision_config__image_size=8 * 10**6),
        dict(text_config__vocab_size=HUGE), dict(text_config__max_position_embeddings=HUGE), dict(projection_dim=HUGE),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("form", ["clip", "siglip"])
def test_a_clip_of_transformers_is_no_larger_than_its_weights(trap, changes, form):
    if form == "siglip" and "projection_dim" in changes:
        changes = {"text_config__projection_size": HUGE}
    folder = trap.folder / "clip"
    (clips.save_clip if form == "clip" else clips.save_siglip)(folder)
    # Otherwise a preprocessing for smaller pictures would be the first fault
    size = changes.get("vision_config__image_size")
    if size:
        change(folder / "preprocessor_config.json", size={"height": size, "width": size}, crop_size=size)
    change(folder / "config.json", **changes)
    refused(lambda: ClipImageEncoder.load(folder))


@pytest.mark.parametrize("size", [(10**6, 10**6), (10**18,), (-1, 2), (2, 3), (2**62, 2**62)], ids=str)
def test_a_tensor_of_torchscript_has_its_bytes(trap, size):
    """As a reference would say it: an offset of 0, strides of a tensor without gaps."""
    strides = [1] * len(size)
    for at in range(len(size) - 1, 0, -1):
        strides[at - 1] = strides[at] * size[at]

    class Stored:
        pass

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Stored(), 0, size, tuple(strides), False, OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if isinstance(item, Stored) else None

    written = io.BytesIO()
    Pickler(written, protocol=2).dump(Tensor())
    refused(lambda: ClipImageEncoder.load(archive_of_torchscript(trap, {"data.pkl": written.getvalue()})))


@pytest.mark.parametrize("name", ["n_audio_layer", "n_audio_state", "n_audio_ctx", "n_vocab", "n_text_layer",
                                  "n_text_ctx", "n_text_state", "n_mels"])  # fmt: skip
def test_a_whisper_is_no_larger_than_its_weights(trap, name):
    content = torch.load(NANO / "audio_encoder.pt", weights_only=True)
    content["dims"][name] = 384 * HUGE
    torch.save(content, trap.folder / "ears.pt")
    refused(lambda: WhisperAudioEncoder.load(trap.folder / "ears.pt"))


@pytest.mark.parametrize(
    ("shape", "size"), [([HUGE], 4), ([2**31, 2**31], 4), ([1], 4 * 10**9), ([65535] * 255, 4), ([2], 4)], ids=str
)
def test_a_tensor_of_ctranslate2_has_its_bytes(tmp_path, shape, size):
    (tmp_path / "config.json").write_text("{}")
    head = ctranslate2_file({}, {})[:-8]  # up to the number of tensors
    text = struct.pack("<H", 2) + b"a\0"
    tensor = text + struct.pack(f"<B{len(shape)}I", len(shape), *shape) + struct.pack("<BI", 0, size) + bytes(4)
    for data in (struct.pack("<I", 1) + tensor, struct.pack("<I", 2**32 - 1) + tensor):
        (tmp_path / "model.bin").write_bytes(head + data + bytes(4))
        with pytest.raises(ValueError, match="cannot load a Whisper"):
            WhisperAudioEncoder.load(tmp_path)


@pytest.mark.parametrize("layers", [1, 9_999])
def test_a_whisper_of_ctranslate2_is_no_larger_than_its_weights(tmp_path, layers):
    """Sizes come from the tensors: one that is wide and flat, or many small ones, ask for far more than they hold."""
    width = 2**14 if layers == 1 else 2**10
    tensors = {
        "encoder/conv1/weight": torch.zeros(width, 80, 1, dtype=torch.int8),
        "encoder/position_encodings/encodings": torch.zeros(1, 1),
        "decoder/position_encodings/encodings": torch.zeros(1, 1),
        "decoder/embeddings/weight": torch.zeros(51864, 1, dtype=torch.int8),
        **{f"encoder/layer_{index}/ffn/linear_0/bias": torch.zeros(1) for index in range(layers)},
        **{f"{side}/num_heads": np.int16(1) for side in ("encoder", "decoder")},
    }
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.bin").write_bytes(ctranslate2_file(tensors, {}))
    refused(lambda: WhisperAudioEncoder.load(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        dict(width=HUGE), dict(blocks=HUGE), dict(blocks=9_999), dict(quantizer__codebook_size=HUGE),
        dict(quantizer__num_codebooks=HUGE), dict(quantizer__dim=HUGE),
    ],
    ids=str,
)  # fmt: skip
def test_a_codec_is_no_larger_than_its_weights(trap, changes):
    refused(lambda: load_codec(trap.copy("audio_codec", **changes)))


@pytest.mark.parametrize(
    "changes",
    [dict(codebook_size=HUGE), dict(mask_size=10**5), dict(refinements=HUGE), dict(mask_size=10**4, components=10**8)],
    ids=str,
)
def test_a_codec_of_blocks_is_no_larger_than_its_weights(trap, changes):
    refused(lambda: load_codec(trap.copy("image_codec", **changes)))


@pytest.mark.parametrize("changes", [dict(layers=HUGE), dict(layers=9_999), dict(channels=[16 * HUGE])], ids=str)
def test_a_decoder_is_no_larger_than_its_weights(trap, changes):
    codec = ImageVQVAE(ImageVQVAEConfig(size=16, width=8, blocks=1, quantizer=QuantizerConfig(codebook_size=8)))
    save_decoder(DiffusionDecoder(codec, DiffusionDecoderConfig(channels=(16,))), trap.folder / "decoder")
    change(trap.folder / "decoder/config.json", **changes)
    refused(lambda: load_decoder(trap.folder / "decoder", codec))


@pytest.mark.parametrize("kind", ["encodec", "VQModel"])
def test_a_published_codec_is_no_larger_than_its_weights(trap, kind):
    folder = trap.folder / "codec"
    folder.mkdir()
    values = {"_class_name": kind, "block_out_channels": [32 * HUGE], "layers_per_block": 1}
    if kind == "encodec":
        values = {"model_type": kind, "hidden_size": HUGE, "num_filters": HUGE}
    (folder / "config.json").write_text(json.dumps(values))
    for name in ("model.safetensors", "diffusion_pytorch_model.safetensors"):
        save_file({"a": torch.zeros(1)}, folder / name)
    refused(lambda: load_one_codec(folder))


@pytest.mark.parametrize(
    "changes",
    [
        dict(resampler__depth=HUGE), dict(audio_resampler__depth=9_999), dict(audio_resampler__stack=HUGE),
        dict(fusion__heads=HUGE), dict(fusion__dim_head=HUGE), dict(fusion__ff_mult=HUGE), dict(lora__rank=HUGE),
    ],
    ids=str,
)  # fmt: skip
def test_a_saved_model_is_no_larger_than_its_weights(trap, changes):
    from mmlm.assembly.config import digest

    folder = trap.folder / "saved"
    folder.mkdir()
    shutil.copyfile(NANO / "config.json", folder / "config.json")
    change(folder / "config.json", **changes)
    config = json.loads((folder / "config.json").read_text())
    save_file(load_file(NANO / "model.safetensors"), folder / "model.safetensors", metadata={"config": digest(config)})
    if "lora__rank" in changes:
        with pytest.raises(ValueError, match=r"LoRA of rank 1000000000, and the weights of rank \d+$"):
            mmlm.load(folder)
    else:
        refused(lambda: mmlm.load(folder))


@pytest.mark.parametrize("shape", [[10**9, 10**9], [10**18], [2**63], [2**32, 2**32], [-1], [10**30]], ids=str)
def test_a_safetensors_header_is_no_more_than_its_file(tmp_path, shape):
    folder = tmp_path / "codec"
    shutil.copytree(NANO / "image_codec", folder, copy_function=shutil.copyfile)
    for end in (4, 4 * 10**18):
        header = json.dumps({"codebook": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        with pytest.raises(ValueError, match="is damaged"):
            load_codec(folder)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + header)
    with pytest.raises(ValueError, match="is damaged"):
        load_codec(folder)


def test_a_tensor_of_a_checkpoint_has_its_bytes(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "a.pt")
    with pytest.raises(RefusedError, match="without the bytes for it"):
        torch_file(tmp_path / "a.pt")
    shared = torch.zeros(8)
    torch.save({"a": shared, "b": shared[2:4], "c": shared.view(2, 4).T, "n": 3}, tmp_path / "b.pt")
    assert torch_file(tmp_path / "b.pt")["c"].shape == (4, 2)


def test_a_zip_that_unpacks_to_far_more_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", bytes(10**8))
    for load in (torch_file, WhisperAudioEncoder.load, load_pretrained, read_checkpoint):
        with pytest.raises(ValueError, match="would unpack to 0.1 GB"):
            load(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "script.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", bytes(10**8))
        file.writestr("a/constants.pkl", b"")
    for name in (f"ViT-S-32-alt/{tmp_path / 'a.pt'}", tmp_path / "a.pt", tmp_path / "script.pt"):
        with pytest.raises(ValueError, match="would unpack to 0.1 GB"):
            ClipImageEncoder.load(name)


def test_the_allowance_is_of_this_thread_and_of_the_innermost(tmp_path):
    import threading

    save_file({"a": torch.zeros(1)}, tmp_path / "small.safetensors")
    half = SPARE_BYTES // 4 // 2 + 2000  # float32: two of these are too many
    with pytest.raises(RefusedError), believed(tmp_path):
        torch.empty(half)
        torch.empty(half)
    with believed(tmp_path):
        torch.empty(half)
        with believed(tmp_path):
            torch.empty(half)
        other = threading.Thread(target=lambda: made.append(torch.empty(half)))
        made: list[torch.Tensor] = []
        other.start()
        other.join()
        assert len(made) == 1
        drawn = torch.rand(3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(1)))
    torch.empty(2 * half)


@pytest.mark.parametrize("limits", [(7,), (2, 9), (2, 9, 3), (9, 2), (9, 2, -2), (0.5, 3), (0, 3, 0.7), (0,)])
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_range_is_counted_as_large_as_torch_makes_it(limits, dtype):
    names = ("end",) if len(limits) == 1 else ("start", "end", "step")[: len(limits)]
    try:
        made = torch.arange(*limits, dtype=dtype)
    except RuntimeError:  # an end before the start
        return
    for counted in (_arange(*limits, dtype=dtype), _arange(**dict(zip(names, limits, strict=True)), dtype=dtype)):
        assert (counted.shape, counted.dtype, counted.device.type) == (made.shape, made.dtype, "meta")


def test_what_is_counted_changes_no_weights(tmp_path):
    """The same network, drawn from the same seed, and its global generator after it."""
    save_codec(ImageVQVAE(ImageVQVAEConfig(size=16, width=8)), tmp_path)

    def drawn() -> list[torch.Tensor]:
        torch.manual_seed(3)
        return [*ImageVQVAE(ImageVQVAEConfig(size=16, width=8)).state_dict().values(), torch.rand(2)]

    with torch.random.fork_rng(devices=[]):
        plain = drawn()
        with believed(tmp_path):
            counted = drawn()
    assert all(map(torch.equal, plain, counted))


# Chat templates

ENDLESS = {
    "loops": "{% for a in range(9**5) %}{% for b in range(9**5) %}{% for c in range(9**5) %}{% endfor %}{% endfor %}"
    "{% endfor %}",
    "memory": "{{ 'x' * 10**11 }}",
    "doubling": "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
}


@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and computing are Linux's")
def test_a_template_without_an_end_is_stopped(name):
    tokenizer = families.tokenizer()
    tokenizer.chat_template = ENDLESS[name]
    with pytest.raises(ValueError, match="chat template was stopped"):
        turn_end(tokenizer)


def test_a_template_says_what_it_says_in_transformers():
    """Special tokens, control of white space, filters, dates: as `apply_chat_template` renders them here."""
    tokenizer = families.tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": ["<|im_end|>"]})
    tokenizer.chat_template = (
        "{{ bos_token }}{{ strftime_now('%Y') }}\n{%- for m in messages %}\n  {{ m.role|upper }} {{ m.content|trim }}"
        "<|im_end|>\n{%- endfor %}{% if add_generation_prompt %} ANSWER {{ {'a': 1}|tojson }}{% endif %}"
    )
    before, middle, after = chat_prompt(tokenizer, [{"role": "user", "content": "hello"}])
    theirs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], tokenize=False, add_generation_prompt=True
    )
    assert before.text + middle + after.text == theirs


def test_a_tokenizer_that_panics_is_a_plain_error(trap, capfd):
    """The error of a panic in the tokenizers library is no `Exception`."""
    folder = trap.copy("image_encoder")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    pieces = [{"SpecialToken": {"id": "nowhere", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {"elsewhere": {"id": "elsewhere", "ids": [0], "tokens": ["a"]}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": special,
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match="tokenizer"):
        ClipImageEncoder.load(folder).embed_texts(["a red circle"])
    assert "panicked" in capfd.readouterr().err
    with pytest.raises(KeyboardInterrupt), tokenizing():
        raise KeyboardInterrupt


@pytest.mark.parametrize("name, values", [("mean", ["", 0.5, 0.5]), ("mean", [0.5] * 4), ("std", [0.5, 0, 0.5])])
def test_preprocessing_that_no_picture_could_pass_is_refused(trap, name, values):
    folder = trap.copy("image_encoder")
    change(folder / "open_clip_config.json", **{f"preprocess_cfg__{name}": values})
    with pytest.raises(ValueError, match=f"has {name} .* not three numbers"):
        ClipImageEncoder.load(folder)


def test_preprocessing_that_is_not_known_is_named(trap):
    folder = trap.copy("image_encoder")
    file = folder / "open_clip_config.json"
    whole = file.read_text()
    unknown = [
        ("mode", "L"), ("mode", ["RGB"]), ("interpolation", "lanczos"), ("interpolation", 3), ("resize_mode", "x"),
        ("fill_color", "x"), ("fill_color", 10**9), ("fill_color", True),
    ]  # fmt: skip
    for name, value in unknown:
        file.write_text(whole)
        change(file, **{f"preprocess_cfg__{name}": value})
        with pytest.raises(ValueError, match=rf"preprocess_cfg in open_clip_config.json\) has {name} .*, which is no"):
            ClipImageEncoder.load(folder)


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_ends_of_a_text_are_ids(trap, file):
    folder = trap.copy("language_model")
    for value in ("x", -1, [[1]], [1, "2"], {"a": 1}, True, 1.5, 10**12):
        change(folder / file, eos_token_id=value)
        with pytest.raises(ValueError, match=rf"{file} of .* has eos_token_id .*, not ids of tokens"):
            causal_model(folder, None, torch.float32)


# Parts and ways to compute that settings name


@pytest.mark.parametrize(
    "named",
    [
        dict(model_args={"checkpoint_path": "EVIL"}), dict(model_args={"pretrained_cfg": {"file": "EVIL"}}),
        dict(architecture="local-dir:EVIL"), dict(architecture="hf-hub:someone/model"),
        dict(model_args={"pretrained_cfg_overlay": {"url": "http://localhost/a.pth"}}),
    ],
    ids=str,
)  # fmt: skip
def test_parts_of_timm_bring_no_weights_of_their_own(trap, named):
    """Gemma 3n builds its image tower by timm, which would load what its settings name."""
    text = dict(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
        head_dim=16, vocab_size=64, vocab_size_per_layer_input=64, hidden_size_per_layer_input=4, laurel_rank=2,
        num_kv_shared_layers=0, altup_num_inputs=2, layer_types=["full_attention"], activation_sparsity_pattern=[0.0],
    )  # fmt: skip
    evil = trap.pickle(trap.folder / "evil.pt")
    vision = json.loads(json.dumps(named).replace("EVIL", str(evil)))
    folder = trap.copy("language_model")
    vision = {"model_type": "gemma3n_vision", "architecture": "test_vit", "hidden_size": 64, **vision}
    config = {"model_type": "gemma3n", "text_config": text, "vision_config": vision}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RefusedError, match="take a part from elsewhere") as caught:
        causal_model(folder, None, torch.float32)
    assert not trap.mark.exists() and "weights_only" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attn_implementation", "someone/kernel"), ("_attn_implementation", "someone/kernel"),
        ("_attn_implementation", "flash_attention_2"), ("attn_implementation", "flex_attention"),
        ("_attn_implementation", {"": "paged|eager"}), ("experts_implementation", "someone/kernel"),
        ("attn_implementation", 5),
    ],
    ids=str,
)  # fmt: skip
def test_ways_to_compute_are_those_of_torch_alone(trap, name, value):
    """Kernels of the hub are code: they are neither fetched nor run, and the logits are those without them."""
    folder = trap.copy("language_model", **{name: value})
    ids = torch.arange(3, 9).unsqueeze(0)
    with torch.no_grad():
        found = causal_model(folder, families.tokenizer(), torch.float32)[0](ids).logits
        plain = causal_model(NANO / "language_model", families.tokenizer(), torch.float32)[0](ids).logits
    torch.testing.assert_close(found, plain)


@pytest.mark.parametrize("layers", [1, 100])
@pytest.mark.parametrize("model_type", ["gptj", "codegen"])
def test_tables_of_positions_are_no_larger_than_the_weights(trap, model_type, layers):
    """They are computed of two rows of numbers, and no weights of the file are shaped like them."""
    sizes = dict(n_embd=16, n_layer=layers, n_head=4, vocab_size=64, n_ctx=64)
    long = dict(n_positions=10**5, rotary_dim=2 * 10**4) if layers == 1 else dict(n_positions=10**4, rotary_dim=1000)
    folder = trap.copy("language_model")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, **sizes, **long}))
    refused(lambda: causal_model(folder, families.tokenizer(), torch.float32))


def test_what_is_computed_is_counted_before_memory_is_taken(tmp_path):
    """On the CPU, where it would be taken; and what only looks larger is not counted."""
    save_file({"a": torch.zeros(1)}, tmp_path / "small.safetensors")
    row = torch.zeros(10**6)
    with believed(tmp_path):
        for _ in range(50):
            row.expand(10**6, -1)
            row + 1
        with pytest.raises(RefusedError, match="ask for 4e\\+03 GB"):
            row[:, None] * row
    with believed(tmp_path), pytest.raises(RefusedError):
        for _ in range(100):
            row[:1000, None] * row[:1000]


def test_settings_nested_without_end_are_plain_errors(trap):
    folder = trap.copy("language_model")
    for depth in (900, 100_000):
        (folder / "config.json").write_text('{"model_type": "llama", "a": ' + "[" * depth + "]" * depth + "}")
        with pytest.raises(DOCUMENTED):
            causal_model(folder, None, torch.float32)


# Tars, recipes, links


def test_a_tar_of_long_headers_is_refused(tmp_path):
    """Of 100 kB of digits in an extended header, Python's own reader looks at every pair."""
    import tarfile

    info = tarfile.TarInfo("a.txt")
    info.pax_headers = {"comment": "1" * 100_000}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    with pytest.raises(ValueError, match="an extended header of 100,0.. bytes"):
        read_records(str(tmp_path / "a.tar"))


def test_a_recipe_that_unfolds_is_refused(tmp_path):
    lines = [f"k{at}: ${{k{at + 1}}}${{k{at + 1}}}" for at in range(60)]
    (tmp_path / "a.yaml").write_text("\n".join(["model: nano", *lines, "k60: x"]))
    with pytest.raises(ValueError, match="more than 20 references"):
        load_recipe(tmp_path / "a.yaml")


def test_a_template_that_writes_without_end_is_refused():
    tokenizer = families.tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}{{ 'x' * 1000000 }}"
    with pytest.raises(ValueError, match="it writes 1,000,003 characters"):
        chat_prompt(tokenizer, [{"role": "user", "content": "a"}])
    assert turn_end(tokenizer) is None


def test_a_bundle_takes_no_file_from_elsewhere(trap):
    from support import parts

    folder = trap.copy("image_encoder")
    (trap.folder / "secret.txt").write_text("secret")
    (folder / "merges.txt").symlink_to(trap.folder / "secret.txt")
    (folder / "own.txt").symlink_to(folder / "tokenizer_config.json")
    model = parts.build("llama")
    eyes = ClipImageEncoder.load(folder)
    bundled = mmlm.assemble(model.language_model.model, eyes, tokenizer=model.language_model.tokenizer)
    bundled.save(trap.folder / "out", bundle=True)
    names = {path.name for path in (trap.folder / "out/image_encoder").iterdir()}
    assert "merges.txt" not in names and {"own.txt", "tokenizer.json"} <= names


# What breaks no rule of a pickle or a setting, and is no model all the same


def pickled(trap: Trap, content: object, name: str = "a.pt", zipped: bool = True) -> Path:
    torch.save(content, trap.folder / name, _use_new_zipfile_serialization=zipped)
    return trap.folder / name


class Buffer:
    """Unpickled, it is a buffer of 10^12 bytes, which torch's reader of plain data would make."""

    def __reduce__(self):
        return bytearray, (10**12,)


def laughing() -> dict:
    """A tuple of two of a tuple of two …, 60 times: a few hundred bytes, and its hash takes 2^60 steps."""
    inner: tuple = ("a", "b")
    for _ in range(60):
        inner = (inner, inner)
    return {"a": inner}


LOADS = {
    "Whisper": WhisperAudioEncoder.load,
    "VQGAN": load_pretrained,
    "OpenFlamingo": read_checkpoint,
    "CLIP": lambda path: ClipImageEncoder.load(f"ViT-S-32-alt/{path}"),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old form"])
@pytest.mark.parametrize("load", LOADS)
def test_a_pickle_is_no_larger_than_its_file(trap, load, zipped):
    for content, why in ((Buffer(), r"asks for a \w+\.bytearray"), (laughing(), "holds a tuple of more than")):
        with pytest.raises(ValueError, match=why):
            LOADS[load](pickled(trap, {"state_dict": content, "dims": {}}, zipped=zipped))


def test_weights_of_a_language_model_are_looked_at_before_they_are_read(trap):
    folder = trap.copy("language_model")
    (folder / "model.safetensors").unlink()
    pickled(trap, {"a": Buffer()}, "language_model/pytorch_model.bin")
    with pytest.raises(ValueError, match=r"asks for a \w+\.bytearray"):
        causal_model(folder, None, torch.float32)


def test_mappings_that_hold_each_other_are_read_once(tmp_path):
    inner: dict = {"a": torch.zeros(2)}
    for _ in range(60):
        inner = {"a": inner, "b": inner}
    torch.save(inner, tmp_path / "a.pt")
    assert torch_file(tmp_path / "a.pt").keys() == {"a", "b"}


def test_ordinary_checkpoints_pass(tmp_path):
    """Of optimizers, tuples, shared tensors and names, in both forms of file."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    optimizer = torch.optim.AdamW(network.parameters(), foreach=True)
    network(torch.zeros(1, 3)).sum().backward()
    optimizer.step()
    content = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "args": ("a", (1, 2.5), [None])}
    for zipped in (True, False):
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        found = torch_file(tmp_path / "a.pt")
        assert torch.equal(found["model"]["0.weight"], network[0].weight) and found["args"] == content["args"]


@pytest.mark.parametrize("missing", ["model.norm.weight", "model.layers.0.mlp.up_proj.weight"])
def test_weights_that_are_not_all_there_are_refused(trap, missing):
    """They would be drawn at random, and a text written all the same."""
    folder = trap.copy("language_model")
    tensors = load_file(folder / "model.safetensors")
    assert tensors.pop(missing) is not None
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"lack 1 tensors, such as {missing}"):
        causal_model(folder, None, torch.float32)


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("config.json", dict(configuration_files=["../config.4.0.0.json"])),
        ("tokenizer_config.json", dict(fast_tokenizer_files=["../tokenizer.4.0.0.json"])),
        ("config.json", dict(configuration_files=["/etc/config.4.0.0.json"])),
        ("tokenizer_config.json", dict(tokenizer_class="AutoImageProcessor")),
        ("tokenizer_config.json", dict(tokenizer_class="LlamaForCausalLM")),
        ("tokenizer_config.json", dict(tokenizer_class=["PreTrainedTokenizerFast"])),
        ("config.json", dict(tokenizer_class="AutoVideoProcessor")),
        ("config.json", dict(num_labels=10**8)),
    ],
    ids=str,
)
def test_settings_lead_nowhere_else(trap, file, settings):
    folder = trap.copy("language_model")
    change(folder / file, **settings)
    refused(lambda: causal_model(folder, None, torch.float32))


def test_files_that_take_the_place_of_settings_are_checked_as_well(trap):
    folder = trap.copy("language_model")
    shutil.copyfile(folder / "config.json", folder / "config.4.0.0.json")
    change(folder / "config.json", configuration_files=["config.4.0.0.json"])
    causal_model(folder, None, torch.float32)
    change(folder / "config.4.0.0.json", num_hidden_layers=10**9)
    refused(lambda: causal_model(folder, None, torch.float32))


def test_paths_of_the_machine_that_saved_a_tokenizer_do_no_harm(trap):
    """As many tokenizers of the hub hold them."""
    folder = trap.copy("language_model")
    paths = dict(special_tokens_map_file="/home/somebody/.cache/a.json", tokenizer_file="/content/tokenizer.json")
    change(folder / "tokenizer_config.json", **paths, name_or_path="/content/model")
    _, tokenizer, _ = causal_model(folder, None, torch.float32)
    _, whole, _ = causal_model(NANO / "language_model", None, torch.float32)
    assert tokenizer("a red circle")["input_ids"] == whole("a red circle")["input_ids"]


@pytest.mark.parametrize("shard", ["../weights.safetensors", "/etc/passwd", "a/../../b.safetensors", "pipe"])
def test_shards_lie_in_their_folder(trap, shard):
    folder = trap.copy("language_model")
    os.mkfifo(folder / "pipe")
    (folder / "model.safetensors").rename(trap.folder / "weights.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(lambda: causal_model(folder, None, torch.float32))


@pytest.mark.parametrize(("name", "value"), [("n_audio_head", 0), ("n_text_head", "a"), ("n_audio_ctx", 3 * 10**6)])
def test_the_dims_of_a_whisper_are_those_of_its_weights(trap, name, value):
    content = torch.load(NANO / "audio_encoder.pt", weights_only=True)
    content["dims"][name] = value
    torch.save(content, trap.folder / "ears.pt")
    with pytest.raises(ValueError, match="heads do not divide its width|not those of its weights"):
        WhisperAudioEncoder.load(trap.folder / "ears.pt")


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"_class_name": ["VQModel"]}', "[" * 100_000, '{"a": "\ud800"'])
def test_settings_of_a_codec_that_are_none_are_plain_errors(trap, text):
    folder = trap.folder / "codec"
    folder.mkdir()
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match="config.json"):
        load_one_codec(folder)


@pytest.mark.parametrize(
    ("weights", "why"), [({3: torch.zeros(1)}, "is no name"), ({"a": torch.zeros(3 * 10**7, 0)}, "without values")]
)
def test_a_state_dict_has_names_and_values(trap, weights, why):
    """The number of rows of an empty tensor would be the width of a network."""
    with pytest.raises(ValueError, match=why):
        load_pretrained(pickled(trap, {"state_dict": weights}))


def test_entries_of_a_cache_do_not_overlap(tmp_path):
    values = bytes(4000)
    entries = {f"k{at}": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]} for at in range(50)}
    entries["__metadata__"] = {"checksums": json.dumps({name: "00000000" for name in entries})}
    header = json.dumps(entries).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + values)
    cache = TensorCache(tmp_path)
    assert len(cache) == 0 and not list(tmp_path.glob("*.safetensors"))
