"""LoRA and DoRA for reading: beside weights merged by hand, and beside peft itself."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

import mmlm
from mmlm.assembly import Codecs, extended
from mmlm.assembly.config import ModelConfig
from mmlm.assembly.interop import peft_adapter
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.model.config import FusionConfig, LoraConfig
from mmlm.prompting.processor import Batch
from mmlm.training import WritingTrainConfig, train_writing
from mmlm.training.recipe import load_recipe
from support import families, parts
from support.codec_parts import image_codec
from support.training_objectives import tiny_records

FORMS = {
    "lora": LoraConfig(3, 5.0, reads=True),
    "dora": LoraConfig(3, 5.0, reads=True, dora=True),
    "lora of some": LoraConfig(2, 4.0, reads=True, layers="q_proj, down_proj"),
}
EVERY_FORM = pytest.mark.parametrize("form", ["lora", "dora"])
FEW_FAMILIES = pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "opt"])


def adapted(family: str, form: str, trained: bool = True, **options: Any) -> MultimodalLM:
    """A model with LoRA; trained: with adapters that matter."""
    model = extended(parts.build(family, **options), lora=FORMS[form])
    parts.open_gates(model)
    if trained:
        draw = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, own in model.language_model.lora.named_parameters():
                if name.endswith("up"):
                    own.normal_(std=0.3, generator=draw)
                if name.endswith("magnitude"):
                    own.uniform_(0.7, 1.3, generator=draw)
    return model


def inputs(model: MultimodalLM) -> tuple[Batch, list]:
    return parts.encoded(model, parts.prompts(), side="right")


@torch.no_grad()
def merged(model: MultimodalLM, family: str) -> MultimodalLM:
    """A model without LoRA whose weights are W + s·BA, with DoRA its rows brought to their lengths."""
    twin = parts.build(family)
    own = dict(model.added_parameters())
    for name, parameter in twin.added_parameters():
        parameter.copy_(own[name])
    config = model.language_model.lora_config
    for name, adapter in model.language_model.lora.items():
        layer = twin.language_model.blocks.get_submodule(name.replace("/", "."))
        weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
        changed = weight.double() + config.alpha / config.rank * adapter.up.double() @ adapter.down.double()
        if config.dora:
            lengths = weight.double().square().sum(1).sqrt() / changed.square().sum(1).sqrt()
            changed = changed * (lengths * adapter.magnitude.double())[:, None]
        weight.copy_(changed.float())
    return twin


@FEW_FAMILIES
@EVERY_FORM
@torch.no_grad()
def test_new_adapters_leave_every_logit_as_it_was(family, form):
    plain, model = parts.build(family), adapted(family, form, trained=False)
    for name, parameter in plain.added_parameters():
        parameter.copy_(dict(model.added_parameters())[name])
    batch, media = inputs(model)
    assert torch.equal(model(batch, media).logits, plain(batch, media).logits)
    text = torch.arange(20).unsqueeze(0)
    bare = families.language_model(family)(input_ids=text).logits
    assert torch.equal(model.language_model.model(input_ids=text).logits, bare), "outside a request"


@FEW_FAMILIES
@EVERY_FORM
@torch.no_grad()
def test_adapted_is_merged_by_hand(family, form):
    model = adapted(family, form)
    twin = merged(model, family)
    batch, media = inputs(model)
    found, expected = model(batch, media).logits, twin(batch, media).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert not torch.allclose(found, model(batch, media, lora=False).logits, atol=1e-2)
    options = dict(max_new_tokens=12)
    assert parts.texts(model, parts.prompts(), **options) == parts.texts(twin, parts.prompts(), **options)
    text = torch.arange(20).unsqueeze(0)
    bare = families.language_model(family)(input_ids=text).logits
    assert torch.equal(model.language_model.model(input_ids=text).logits, bare), "outside a request"


@EVERY_FORM
@pytest.mark.parametrize("way", parts.WAYS)
def test_cached_packed_and_batched_texts_are_those_of_single_uncached_passes(form, way):
    model = adapted("llama", form, visibility=way)
    rows = parts.prompts()
    results = model.generate(rows, max_new_tokens=24)
    for row, result in zip(rows, results, strict=True):
        (values,) = model.log_probs([row], [result])
        torch.testing.assert_close(torch.tensor(result.log_probs), values.detach(), atol=1e-3, rtol=0.0)
    model.pack()
    assert [own.token_ids for own in model.generate(rows, max_new_tokens=24)] == [own.token_ids for own in results]
    for parameter in model.language_model.lora.parameters():  # what is kept of the weights follows their changes
        with torch.no_grad():
            parameter.mul_(1.5)
    changed = model.generate(rows[0], max_new_tokens=6)
    (values,) = model.log_probs([rows[0]], [changed])
    torch.testing.assert_close(torch.tensor(changed.log_probs), values.detach(), atol=1e-3, rtol=0.0)


@EVERY_FORM
def test_training_moves_the_adapters_and_nothing_that_is_frozen(form, tmp_path):
    model = mmlm.assemble(
        families.language_model("llama"), parts.image_encoder(), tokenizer=families.tokenizer(), lora=FORMS[form]
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = dict(steps=4, batch_size=4, learning_rate=1e-2, precision="float32", progress=False)
    mmlm.train(model, tiny_records(8), output=tmp_path, **settings)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    own = {f"language_model.lora.{name}" for name, _ in model.language_model.lora.named_parameters()}
    assert own <= moved <= {name for name, _ in model.added_parameters()}
    given = dict(language_model=families.language_model("llama"), tokenizer=families.tokenizer())
    again = mmlm.load(tmp_path / "model", image_encoder=parts.image_encoder(), **given)
    assert again.language_model.lora_config == FORMS[form]
    batch, media = inputs(model)
    with torch.no_grad():
        assert torch.equal(again(batch, media).logits, model(batch, media).logits)
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["lora"] == {"rank": 3, "alpha": 5.0, "reads": True, "dora": form == "dora", "layers": ""}


def test_a_whole_number_is_saved_as_the_float_that_it_stands_for(tmp_path):
    """Written as 5, it was refused when the model was loaded again; such files are read as well."""
    given = dict(language_model=families.language_model("llama"), tokenizer=families.tokenizer())
    for folder, alpha in (("whole", 5), ("float", 5.0)):
        lora = LoraConfig(rank=3, alpha=alpha, reads=True)
        mmlm.assemble(image_encoder=parts.image_encoder(), lora=lora, **given).save(tmp_path / folder)
    written = [(tmp_path / folder / "config.json").read_bytes() for folder in ("whole", "float")]
    assert written[0] == written[1]
    again = mmlm.load(tmp_path / "whole", image_encoder=parts.image_encoder(), **given)
    assert again.language_model.lora_config == LoraConfig(rank=3, alpha=5.0, reads=True)
    earlier = json.loads(written[0])
    earlier["lora"]["alpha"] = 5
    assert ModelConfig.from_dict(earlier).lora == LoraConfig(rank=3, alpha=5.0, reads=True)


# peft


@pytest.mark.parametrize("family, form", [("llama", form) for form in FORMS] + [("gpt2", "lora"), ("gpt2", "dora")])
@torch.no_grad()
def test_peft_loads_ours_and_computes_the_same(family, form, tmp_path):
    peft = pytest.importorskip("peft")
    model = adapted(family, form, visibility="prefix")  # which leaves text to the language model
    folder = peft_adapter.save(model, tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(families.language_model(family), folder)
    ids = torch.arange(30).view(2, 15)
    ours = model(Batch(ids, torch.ones_like(ids)), [[], []])
    expected = theirs(input_ids=ids).logits
    found = ours.logits[..., : families.VOCAB]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert not torch.allclose(expected, families.language_model(family)(input_ids=ids).logits, atol=1e-2)


@pytest.mark.parametrize(
    "family, options",
    [
        ("llama", dict(target_modules=["q_proj", "down_proj"])),
        ("llama", dict(target_modules="all-linear", use_dora=True)),
        ("llama", dict(target_modules=["v_proj"], use_rslora=True, layers_to_transform=[0, 2])),
        ("gpt2", dict(target_modules=["c_attn"], fan_in_fan_out=True, use_dora=True)),
    ],
)
@torch.no_grad()
def test_we_load_pefts_and_compute_the_same(family, options, tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(4)
    config = peft.LoraConfig(r=3, lora_alpha=7, init_lora_weights=False, **options)
    theirs = peft.get_peft_model(families.language_model(family), config)
    for name, own in theirs.named_parameters():
        if "magnitude" in name:
            own.mul_(torch.empty_like(own).uniform_(0.7, 1.3))
    theirs.save_pretrained(tmp_path)
    plain = parts.build(family, opened=False)
    model = peft_adapter.load(plain, tmp_path)
    ids = torch.arange(30).view(2, 15)
    found = model(Batch(ids, torch.ones_like(ids)), [[], []]).logits[..., : families.VOCAB]
    expected = theirs(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    bare = families.language_model(family)(input_ids=ids).logits
    assert torch.equal(plain(Batch(ids, torch.ones_like(ids)), [[], []]).logits[..., : families.VOCAB], bare)
    peft_adapter.save(model, tmp_path / "again")
    again = peft_adapter.load(plain, tmp_path / "again")
    torch.testing.assert_close(again(Batch(ids, torch.ones_like(ids)), [[], []]).logits[..., : families.VOCAB], found)


def test_the_gradient_of_dora_is_that_of_peft(tmp_path):
    peft = pytest.importorskip("peft")
    model = adapted("llama", "dora", visibility="prefix")
    folder = peft_adapter.save(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(families.language_model("llama"), folder, is_trainable=True)
    ids = torch.arange(30).view(2, 15)
    weights = torch.randn(2, 15, families.VOCAB, generator=torch.Generator().manual_seed(1))
    (theirs(input_ids=ids).logits * weights).sum().backward()
    (model(Batch(ids, torch.ones_like(ids)), [[], []]).logits[..., : families.VOCAB] * weights).sum().backward()
    theirs_by_name = {name: own.grad for name, own in theirs.named_parameters() if own.grad is not None}
    for name, own in model.language_model.lora.named_parameters():
        if name.endswith(("up", "down")):
            place, _, which = name.rpartition(".")
            kind = {"up": "lora_B", "down": "lora_A"}[which]
            expected = theirs_by_name[f"base_model.model.model.layers.{place.replace('/', '.')}.{kind}.default.weight"]
            torch.testing.assert_close(own.grad, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"peft_type": "LOHA"}, "only LORA"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"r": 9}, "rank 9"),
        ({"r": 10**12}, "rank 1000000000000"),
        ({"r": "9"}, "no rank"),
    ],
)
def test_adapters_of_another_kind_are_refused(changes, message, tmp_path):
    model = adapted("llama", "lora")
    folder = peft_adapter.save(model, tmp_path)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | changes))
    with pytest.raises(ValueError, match=message):
        peft_adapter.load(model, folder)


def test_adapters_of_other_layers_and_damaged_ones_are_refused(tmp_path):
    model = adapted("llama", "lora")
    folder = peft_adapter.save(model, tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    one = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
    save_file({name: own for name, own in tensors.items() if name != one}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="up_proj.lora_B.weight is missing"):
        peft_adapter.load(model, folder)
    save_file({one.replace(".0.", ".7."): tensors[one]}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="another language model.*layers.7.mlp.up_proj"):
        peft_adapter.load(model, folder)
    (folder / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="damaged"):
        peft_adapter.load(model, folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="adapter_model.safetensors"):
        peft_adapter.load(model, folder)
    with pytest.raises(ValueError, match="no LoRA"):
        peft_adapter.save(parts.build(), folder)


# Settings


def test_layers_that_are_not_there_are_named_with_those_that_are():
    with pytest.raises(ValueError, match="no linear layers c_attn .*q_proj, k_proj"):
        extended(parts.build("llama"), lora=LoraConfig(reads=True, layers="c_attn"))


def test_recipes_train_lora_for_reading(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "model: {language_model: a, image_encoder: b, lora: {rank: 4, dora: true}}\ndata: d\noutput: o\nsteps: 1\n"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert recipe.model.new_adapters() == {"lora": LoraConfig(4, reads=True, dora=True)}


def test_writing_does_not_change_what_reads(tmp_path):
    model = extended(parts.build(), Codecs(image=image_codec()), lora=LoraConfig(2, reads=True))
    with pytest.raises(ValueError, match="acts in reading too"):
        train_writing(model, tiny_records(4), tmp_path, None, WritingTrainConfig(steps=1, tune="lora"))
    silent = extended(model, lora=replace(model.language_model.lora_config, reads=False))
    assert silent.language_model.lora is not None and not silent.language_model.lora_config.reads


@EVERY_FORM
def test_beside_weights_of_four_bits_it_is_that_beside_their_values(form):
    """And it learns, while the 4 bits stay as they are."""
    bits = pytest.importorskip("bitsandbytes")
    sizes = dict(vocab_size=families.VOCAB, hidden_size=64, intermediate_size=128, num_hidden_layers=2)
    config = LlamaConfig(**sizes, num_attention_heads=4, max_position_embeddings=256)
    made, values = (LlamaForCausalLM(config).eval() for _ in range(2))
    values.load_state_dict(made.state_dict())
    for name, layer in list(made.model.layers.named_modules()):
        if isinstance(layer, torch.nn.Linear):
            packed = bits.nn.Linear4bit(layer.in_features, layer.out_features, False, torch.float32, quant_type="nf4")
            packed.load_state_dict(layer.state_dict())
            packed.to("cpu")
            with torch.no_grad():
                own = bits.functional.dequantize_4bit(packed.weight.data, packed.weight.quant_state)
                values.model.layers.get_submodule(name).weight.copy_(own)
            made.model.layers.set_submodule(name, packed)
    models = []
    for language_model in (made, values):
        host = dict(tokenizer=families.tokenizer(), fusion=FusionConfig(kind="prefix"), lora=FORMS[form])
        model = mmlm.assemble(language_model, parts.image_encoder(), **host)
        draw = torch.Generator().manual_seed(3)
        for own in model.language_model.lora.parameters():
            torch.nn.init.normal_(own, mean=float(own.ndim == 1), std=0.1, generator=draw)
        models.append(model)
    losses, before = [], {name: tensor.clone() for name, tensor in made.state_dict().items()}
    for model in models:
        example = model.processor.encode([parts.picture(1), "Output:"], target="a red square")
        loss = model(model.processor.collate([example]), [example.media]).loss
        loss.backward()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    for one, other in zip(*(model.language_model.lora.parameters() for model in models), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0.02, atol=0.02 * float(other.grad.abs().max()))
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert models[0].generate([parts.picture(1), "Output:"], max_new_tokens=3).token_ids
