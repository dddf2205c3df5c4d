"""Language models in the forms that people have: shards, variants, adapters of peft; by path and by name on the hub."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import mmlm
from encoders.sizes import RefusedError
from mmlm.assembly.forms.named import language_model_config, named_tokenizer
from mmlm.assembly.frozen import causal_model
from support import families, parts
from support.whisper_forms import save_upstream, upstream


def folder_of(place: Path, seed: int = 0, **options) -> Path:
    families.language_model("llama", seed).save_pretrained(place, **options)
    families.tokenizer().save_pretrained(place)
    return place


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(torch.arange(3, 40).unsqueeze(0)).logits


def loaded(place, dtype: torch.dtype = torch.float32):
    return causal_model(place, None, dtype)[0]


EXPECTED = logits(families.language_model("llama"))

# Shards and variants


def to_bin(place: Path) -> None:
    """Shards as torch.save writes them, in place of those of safetensors."""
    index = json.loads((place / "model.safetensors.index.json").read_text())
    index["weight_map"] = {
        name: shard.replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
        for name, shard in index["weight_map"].items()
    }
    for file in place.glob("model-*.safetensors"):
        torch.save(load_file(file), place / f"pytorch_{file.stem}.bin")
        file.unlink()
    (place / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (place / "model.safetensors.index.json").unlink()


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_shards_are_one_model(tmp_path, form):
    place = folder_of(tmp_path, max_shard_size="20KB")
    assert len(list(place.glob("model-*"))) > 2
    if form == "bin":
        to_bin(place)
    assert torch.equal(logits(loaded(place)), EXPECTED)
    assert loaded(place, torch.bfloat16).dtype == torch.bfloat16
    victim = sorted(place.glob("*-00002-*"))[0]
    victim.unlink()
    with pytest.raises((ValueError, OSError), match=victim.name) as caught:
        loaded(place)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("name", ["../elsewhere/{}", "/{}", "a/../../{}", "~/{}"])
def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path, form, name):
    place = folder_of(tmp_path / "lm", max_shard_size="20KB")
    if form == "bin":
        to_bin(place)
    shutil.copytree(place, tmp_path / "elsewhere")
    index = next(place.glob("*.index.json"))
    written = json.loads(index.read_text())
    written["weight_map"] = {key: name.format(shard) for key, shard in written["weight_map"].items()}
    index.write_text(json.dumps(written))
    with pytest.raises(RefusedError, match="names the shard .* no file of its folder"):
        loaded(place)


def test_a_folder_with_one_variant_has_it_loaded(tmp_path):
    for options in ({}, {"max_shard_size": "20KB"}):
        place = folder_of(tmp_path / str(len(options)), variant="fp16", **options)
        assert list(place.glob("*fp16*")) and torch.equal(logits(loaded(place)), EXPECTED)
    folder_of(place, seed=1, variant="other")
    with pytest.raises(ValueError, match="several variants \\(fp16, other\\)"):
        loaded(place)
    folder_of(place)  # plain weights beside them are taken
    assert torch.equal(logits(loaded(place)), EXPECTED)


# Adapters of peft


def adapter(place: Path, base: str, kind: str = "LoraConfig", **options) -> tuple[Path, torch.Tensor]:
    """An adapter in a folder, and the logits that peft's own model has."""
    peft = pytest.importorskip("peft")
    options = {"target_modules": ["q_proj", "down_proj"], "init_weights": False, **options}
    if kind == "LoraConfig":
        options["init_lora_weights"] = options.pop("init_weights")
    if kind == "IA3Config":
        options |= {"feedforward_modules": ["down_proj"], "init_ia3_weights": options.pop("init_weights")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = peft.get_peft_model(families.language_model("llama"), getattr(peft, kind)(**options)).eval()
        if kind == "IA3Config":
            for name, parameter in model.named_parameters():
                if "ia3" in name:
                    parameter.data.uniform_(0.5, 1.5)
    model.save_pretrained(place)
    change(place, base_model_name_or_path=base)
    return place, logits(model)


def change(place: Path, **values) -> None:
    config = json.loads((place / "adapter_config.json").read_text())
    (place / "adapter_config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize("base", ["../lm", "{}/lm"])
def test_an_adapter_is_loaded_with_the_model_that_it_names(tmp_path, base):
    folder_of(tmp_path / "lm")
    place, expected = adapter(tmp_path / "adapter", base.format(tmp_path))
    model, tokenizer, name = causal_model(place, None, torch.float32)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(expected, EXPECTED, atol=1e-2)
    assert name == str(place) and tokenizer("a").input_ids == families.tokenizer()("a").input_ids


@pytest.mark.parametrize(
    ("kind", "options"),
    [("LoHaConfig", {}), ("LoKrConfig", {}), ("IA3Config", {}), ("LoraConfig", {"use_dora": True}),
     ("LoraConfig", {"use_rslora": True, "bias": "all"}), ("LoraConfig", {"modules_to_save": ["lm_head"]})],
)  # fmt: skip
def test_other_kinds_of_adapters_too(tmp_path, kind, options):
    folder_of(tmp_path / "lm")
    place, expected = adapter(tmp_path / "adapter", "../lm", kind, **options)
    torch.testing.assert_close(logits(loaded(place)), expected, atol=1e-5, rtol=0)


def test_a_folder_without_a_tokenizer_says_what_to_put_there(tmp_path):
    families.language_model("llama").save_pretrained(tmp_path / "lm")
    with pytest.raises(FileNotFoundError, match="it has no tokenizer: put tokenizer.json and tokenizer_config.json"):
        loaded(tmp_path / "lm")
    model, _, _ = causal_model(tmp_path / "lm", families.tokenizer(), torch.float32)
    torch.testing.assert_close(logits(model), EXPECTED)


def test_weights_of_torch_save_and_a_tokenizer_of_its_own(tmp_path):
    folder_of(tmp_path / "lm")
    place, expected = adapter(tmp_path / "adapter", "../lm")
    torch.save(load_file(place / "adapter_model.safetensors"), place / "adapter_model.bin")
    (place / "adapter_model.safetensors").unlink()
    own = families.tokenizer()
    own.add_tokens(["<own>"])
    own.save_pretrained(place)
    model, tokenizer, _ = causal_model(place, None, torch.float32)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)
    assert "<own>" in tokenizer.get_vocab()


def test_a_saved_model_remembers_its_adapter_and_a_bundle_holds_the_sum(tmp_path, recwarn):
    folder_of(tmp_path / "lm")
    place, _ = adapter(tmp_path / "adapter", "../lm")
    model = mmlm.assemble(place, parts.image_encoder(), resampler=parts.RESAMPLER, fusion=parts.fusion())
    parts.open_gates(model)
    model.save(tmp_path / "model")
    again = mmlm.load(tmp_path / "model", image_encoder=parts.image_encoder())
    rows = [[parts.picture(1), "Output:"]]
    assert parts.token_ids(again, rows, max_new_tokens=5) == parts.token_ids(model, rows, max_new_tokens=5)
    assert json.loads((tmp_path / "model/config.json").read_text())["language_model"]["name"] == "../adapter"
    from mmlm.assembly.bundle import _language_model

    _language_model(model.language_model)(tmp_path / "bundle")
    shutil.rmtree(tmp_path / "lm"), shutil.rmtree(place)
    assert torch.equal(logits(loaded(tmp_path / "bundle")), logits(model.language_model.model))
    assert not [one for one in recwarn if "fingerprint" in str(one.message)]


def written(place: Path, base: object = "../lm", **values) -> Path:
    """An adapter as a stranger may write it, without peft."""
    place.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 2, "target_modules": ["q_proj"]}
    (place / "adapter_config.json").write_text(json.dumps(config | values))
    save_file({"a": torch.zeros(1)}, place / "adapter_model.safetensors")
    return place


def test_without_the_package_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    folder_of(tmp_path / "lm")
    with pytest.raises(ImportError, match=r"pip install 'mmlm\[peft\]'"):
        loaded(written(tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}, "of the kind 'PROMPT_TUNING'"),
        ({"peft_type": "XLORA"}, "of the kind 'XLORA'"),
        ({"peft_type": ["LORA"]}, "of the kind \\['LORA'\\]"),
        ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "not followed: megatron_config"),
        ({"layer_replication": [[0, 10**9]]}, "not followed: layer_replication"),
        ({"r": 10**9}, "cannot fill"),
        ({"rank_pattern": {"q_proj": 10**9}}, "cannot fill"),
        ({"base_model_name_or_path": None}, "does not say which model it is for"),
        ({"base_model_name_or_path": 7}, "does not say which model it is for"),
        ({"base_model_name_or_path": "/no/such/folder"}, "/no/such/folder, which does not exist"),
        ({"base_model_name_or_path": "."}, "is an adapter itself"),
    ],
    ids=str,
)
def test_an_adapter_that_is_not_followed_is_refused_in_one_line(tmp_path, values, words):
    pytest.importorskip("peft")
    folder_of(tmp_path / "lm")
    with pytest.raises((ValueError, OSError), match=words) as caught:
        loaded(written(tmp_path / "adapter", **values))
    assert "\n" not in str(caught.value)


def test_an_adapter_of_the_hub_names_no_paths_and_says_what_it_loads(tmp_path, monkeypatch, capsys):
    """A folder in the hub's cache is one of the hub, as a bundled language model is."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub/models--someone--adapter/snapshots/1"
    snapshot.parent.mkdir(parents=True)
    folder_of(tmp_path / "lm")
    for name in (str(tmp_path / "lm"), "../../../../lm", "~/lm", "./lm", "a/b/c"):
        shutil.rmtree(snapshot, ignore_errors=True)
        with pytest.raises(ValueError, match="names its model by the path .*, which is not followed"):
            loaded(written(snapshot, name))
    from mmlm.assembly.forms.adapter import base_of

    shutil.rmtree(snapshot)
    assert base_of(written(snapshot, "someone/model", revision="v2")) == "someone/model@v2"
    assert "loads the model that it adapts from someone/model" in capsys.readouterr().err


# Quantised by other libraries


def extended(language_model):
    model = mmlm.assemble(
        language_model, parts.image_encoder(), tokenizer=families.tokenizer(), resampler=parts.RESAMPLER,
        fusion=parts.fusion(),
    )  # fmt: skip
    parts.open_gates(model)
    return model


def works(language_model, folder: Path) -> None:
    """Its logits are upstream's; it writes, is told by its weights, is saved, and gives its adapters gradients."""
    expected = logits(language_model)
    model = extended(language_model)
    assert torch.equal(logits(model.language_model.model), expected)
    rows = [[parts.picture(1), "Output:"]]
    assert parts.token_ids(model, rows, max_new_tokens=4) == parts.upstream_ids(model, rows, max_new_tokens=4)
    saved = json.loads((model.save(folder) / "config.json").read_text())
    assert saved["language_model"]["fingerprint"] == model.language_model.fingerprint()
    batch, media = parts.encoded(model.train(), rows)
    model(batch, media).logits.float().square().sum().backward()
    gradients = [parameter.grad for _, parameter in model.added_parameters() if parameter.grad is not None]
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


class OfBytes(torch.Tensor):
    """A weight of bytes and a scale that knows linear layers alone, as torchao's do."""

    @staticmethod
    def __new__(cls, values, scale):
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=scale.dtype)

    def __init__(self, values, scale):
        self.values, self.scale = values, scale

    def dequantize(self):
        return self.values * self.scale

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.nn.functional.linear:
            weight = args[1].dequantize()
            return function(args[0], weight, *args[2:], **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return OfBytes(args[0].values, args[0].scale)
        raise NotImplementedError(f"{function} of bytes")


def of_bytes(model: torch.nn.Module) -> torch.nn.Module:
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            scale = module.weight.detach().abs().max() / 127
            weight = OfBytes((module.weight.detach() / scale).round().to(torch.int8), scale)
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
    return model


def test_weights_of_a_class_of_their_own(tmp_path):
    model = of_bytes(families.language_model("gemma"))  # its head is tied to its embedding, which stays
    model.lm_head.weight = of_bytes(torch.nn.Sequential(torch.nn.Linear(families.WIDTH, families.VOCAB)))[0].weight
    works(model, tmp_path)
    other = of_bytes(families.language_model("gemma", seed=1))
    assert extended(other).language_model.fingerprint() != extended(model).language_model.fingerprint()


TORCHAO = {  # whose weights have 8 bits, whose activations have them too, and whose weights have 4
    "Int8WeightOnlyConfig": {}, "Int8DynamicActivationInt8WeightConfig": {},
    "IntxWeightOnlyConfig": {"weight_dtype": torch.int4},
}  # fmt: skip


@pytest.mark.parametrize("kind", TORCHAO)
def test_models_of_torchao(tmp_path, kind):
    quantization = pytest.importorskip("torchao.quantization")
    model = families.language_model("llama")
    quantization.quantize_(model, getattr(quantization, kind)(**TORCHAO[kind]))
    works(model, tmp_path)
    from mmlm.assembly.bundle import _language_model

    with pytest.raises(ValueError, match="where transformers quantised it"):
        _language_model(extended(model).language_model)


@pytest.mark.parametrize("kind", ["Int8WeightOnlyConfig", "IntxWeightOnlyConfig"])
def test_models_of_torchao_from_their_folder(tmp_path, recwarn, kind):
    quantization = pytest.importorskip("torchao.quantization")
    from transformers import AutoModelForCausalLM, TorchAoConfig

    config = TorchAoConfig(getattr(quantization, kind)(**TORCHAO[kind]))
    made = AutoModelForCausalLM.from_pretrained(folder_of(tmp_path / "lm"), quantization_config=config)
    made.save_pretrained(tmp_path / "bits")
    families.tokenizer().save_pretrained(tmp_path / "bits")
    model = mmlm.assemble(
        tmp_path / "bits", parts.image_encoder(), resampler=parts.RESAMPLER, fusion=parts.fusion()
    )  # fmt: skip
    assert torch.equal(logits(model.language_model.model), logits(made))
    again = mmlm.load(model.save(tmp_path / "model"), image_encoder=parts.image_encoder())
    from mmlm.assembly.bundle import _language_model

    _language_model(again.language_model)(tmp_path / "bundle")
    assert torch.equal(logits(loaded(tmp_path / "bundle")), logits(made))
    assert not [one for one in recwarn if "fingerprint" in str(one.message)]


def four_bits(place: Path, kind: str = "nf4", **options):
    """What bitsandbytes makes of a Llama whose layers are wide enough for it, in a folder, and that Llama."""
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("accelerate")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    sizes = dict(vocab_size=families.VOCAB, hidden_size=64, intermediate_size=128, num_hidden_layers=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, eos_token_id=256)).eval()
    plain.save_pretrained(place / "lm")
    asked = {"load_in_8bit": True} if kind == "int8" else {"load_in_4bit": True, "bnb_4bit_quant_type": kind}
    config = BitsAndBytesConfig(**asked, **options)
    model = AutoModelForCausalLM.from_pretrained(place / "lm", quantization_config=config)
    model.save_pretrained(place / "bits")
    families.tokenizer().save_pretrained(place / "bits")
    return model, plain


def with_values_of(plain, model):
    """The plain Llama with the values that 4 bits stand for."""
    from bitsandbytes.functional import dequantize_4bit

    for name, layer in model.named_modules():
        if type(layer).__name__ == "Linear4bit":
            with torch.no_grad():
                values = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
                plain.get_submodule(name).weight.copy_(values)
    return plain


KINDS_OF_BITS = [("int8", {}), ("nf4", {}), ("fp4", {}), ("nf4", {"bnb_4bit_use_double_quant": True})]
"""Of bitsandbytes: the last has scales that are quantised too."""


@pytest.mark.parametrize("ready_made", [False, True], ids=["folder", "ready-made"])
@pytest.mark.parametrize(("kind", "options"), KINDS_OF_BITS, ids=["int8", "nf4", "fp4", "double"])
def test_models_of_bitsandbytes(tmp_path, recwarn, kind, options, ready_made):
    """Their logits, texts and gradients are those of the values that the bits stand for, or of 8 bits their own."""
    made, plain = four_bits(tmp_path, kind, **options)
    values = made if kind == "int8" else with_values_of(plain, made)
    expected = logits(values)
    given_ = {"language_model": made, "tokenizer": families.tokenizer()} if ready_made else {}
    joined = given_ or {"language_model": tmp_path / "bits"}
    sizes = {"resampler": parts.RESAMPLER, "fusion": parts.fusion()}
    model = mmlm.assemble(image_encoder=parts.image_encoder(), **joined, **sizes)
    host = model.language_model
    assert "bitsandbytes" in type(host.model.model.layers[0].mlp.up_proj).__module__
    torch.testing.assert_close(logits(host.model), expected, atol=1e-5, rtol=0)
    parts.open_gates(model)
    rows = [[parts.picture(1), "Output:"]]
    written = parts.token_ids(model, rows, max_new_tokens=6)
    if kind != "int8":
        other = mmlm.assemble(values, parts.image_encoder(), tokenizer=families.tokenizer(), **sizes)
        for (_, own), (_, theirs) in zip(model.added_parameters(), other.added_parameters(), strict=True):
            theirs.data.copy_(own.data)
        assert parts.token_ids(other, rows, max_new_tokens=6) == written
        for one in (model, other):
            batch, media = parts.encoded(one.train(), rows)
            one(batch, media).logits.square().mean().backward()
            one.eval()
        for (name, own), (_, theirs) in zip(model.added_parameters(), other.added_parameters(), strict=True):
            if theirs.grad is not None:
                torch.testing.assert_close(own.grad, theirs.grad, rtol=1e-3, atol=1e-5, msg=name)
    model.save(tmp_path / "model")  # after it was used
    again = mmlm.load(tmp_path / "model", image_encoder=parts.image_encoder(), **given_)
    assert again.language_model.fingerprint() == host.fingerprint()
    assert parts.token_ids(again, rows, max_new_tokens=6) == written
    name = json.loads((tmp_path / "model/config.json").read_text())["language_model"]["name"]
    assert name == (None if ready_made else "../bits")
    from mmlm.assembly.bundle import _language_model

    _language_model(host)(tmp_path / "bundle")
    bundled = mmlm.load(tmp_path / "model", image_encoder=parts.image_encoder(), language_model=tmp_path / "bundle")
    torch.testing.assert_close(logits(bundled.language_model.model), expected, atol=1e-5, rtol=0)
    assert not [one for one in recwarn if "fingerprint" in str(one.message)]


def test_what_bitsandbytes_has_packed_for_a_cpu_learns(tmp_path):
    """Where a CPU computes with bfloat16, the first pass packs 4 bits in place, and packed ones have no gradients."""
    made, plain = four_bits(tmp_path)
    logits(made)
    extended(made)
    gradients = []
    for language_model in (made, with_values_of(plain, made)):
        embedded = language_model.get_input_embeddings()(torch.arange(3, 40).unsqueeze(0)).detach().requires_grad_()
        language_model(inputs_embeds=embedded).logits.square().mean().backward()
        gradients.append(embedded.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("method", "package"), [("gptq", "optimum|gptqmodel"), ("awq", "gptqmodel"), ("hqq", "HQQ")])
def test_what_needs_a_package_names_it(tmp_path, monkeypatch, method, package):
    for module in ("optimum", "gptqmodel", "hqq"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    place = folder_of(tmp_path)
    written = json.loads((place / "config.json").read_text())
    written["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": 32}
    (place / "config.json").write_text(json.dumps(written))
    with pytest.raises(ImportError, match=package) as caught:
        loaded(place)
    assert "\n" not in str(caught.value)


# What is none


def test_an_encoder_and_decoder_in_one_is_refused_before_its_weights_are_read(tmp_path):
    ears = save_upstream(upstream(), tmp_path / "ears")
    (ears / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(ValueError, match="an encoder and decoder in one, .*give it as audio_encoder=$"):
        loaded(ears)
    transformers.T5Config(d_model=8, num_layers=1).save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match="name a model that is a decoder alone$"):
        language_model_config(tmp_path / "t5")


@pytest.mark.parametrize(
    "name", ["./none", "../none/x", "~/none", "none/a/b", "none.gguf", "none/x.gguf", "./a/b/x.gguf"]
)
@pytest.mark.parametrize("load", [loaded, language_model_config, named_tokenizer])
def test_a_path_that_is_not_there_is_not_asked_of_the_hub(monkeypatch, name, load):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="does not exist$"):
        load(name)
