"""Language models in any coat: compiled, wrapped, quantised. What they write is what the plain model writes."""

import pytest
import torch
from torch import nn

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.model.config import LoraConfig
from mmlm.model.language_model import LanguageModel
from mmlm.model.lora import LoraAdapters
from support import families, parts


class Coat(nn.Module):
    """As peft wraps: the forward takes anything, attributes are those of the model inside."""

    def __init__(self, model: nn.Module, swallowed: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.inside = nn.ModuleDict({"model": model})
        self.swallowed = swallowed

    def forward(self, *args, **kwargs):
        return self.inside["model"](*args, **{k: v for k, v in kwargs.items() if k not in self.swallowed})

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inside")["model"], name)


class Narrow(Coat):
    """Takes three arguments, and says so only when it is called."""

    def forward(self, input_ids, past_key_values=None, attention_mask=None):
        return self.inside["model"](input_ids, past_key_values=past_key_values, attention_mask=attention_mask)


def quantised(model: nn.Module) -> nn.Module:
    with pytest.warns(DeprecationWarning):
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def dressed(coat, family: str = "llama") -> MultimodalLM:
    language_model, tokenizer = families.language_model(family), families.tokenizer()
    language_model.generation_config.eos_token_id = tokenizer.eos_token = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        host = LanguageModel(coat(language_model), tokenizer)
        model = MultimodalLM(host, parts.image_encoder(), parts.RESAMPLER, parts.fusion())
        parts.open_gates(model)
    return model


def everything(model: MultimodalLM):
    """Greedy, beams, and log-probabilities of a given answer."""
    greedy = parts.token_ids(model, parts.prompts(), max_new_tokens=6)
    beams = parts.token_ids(model, parts.prompts(), max_new_tokens=4, num_beams=2)
    return greedy, beams, model.log_probs([[parts.picture(1), "Output:"]], ["hello"])[0].tolist()


@pytest.mark.parametrize("family", ["llama", "gpt2", "lfm2", "bloom"])
def test_a_wrapped_model_writes_what_the_plain_one_writes(family):
    assert everything(dressed(Coat, family)) == everything(dressed(lambda model: model, family))


def test_a_model_whose_forward_takes_little_writes_too():
    """Unpadded, since it hears of no positions."""
    for rows in [[row] for row in parts.prompts()]:
        expected = parts.token_ids(dressed(lambda model: model), rows, max_new_tokens=6)
        assert parts.token_ids(dressed(Narrow), rows, max_new_tokens=6) == expected


def test_a_compiled_model_writes_what_the_plain_one_writes():
    plain, compiled = dressed(lambda model: model), dressed(lambda model: torch.compile(model, backend="eager"))
    assert compiled.language_model.fingerprint() == plain.language_model.fingerprint()
    with torch._dynamo.config.patch(recompile_limit=1):  # what is compiled again and again only takes time
        rows = [[parts.picture(1), "Output:"]]
        expected = parts.token_ids(plain, rows, max_new_tokens=3)
        assert parts.token_ids(compiled, rows, max_new_tokens=3) == expected


def test_a_quantised_model_is_extended_like_any_other():
    model, plain = dressed(quantised), quantised(families.language_model("llama"))
    ids = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        expected = plain(input_ids=ids).logits
        assert torch.equal(model.language_model(ids).logits, expected)
        with model.language_model.request():
            assert torch.equal(model.language_model(ids).logits[..., : families.VOCAB], expected)
    head = plain.get_output_embeddings().weight().dequantize().mean(0)
    fresh = LanguageModel(quantised(families.language_model("llama")), families.tokenizer())
    torch.testing.assert_close(fresh.added.head[0], head)
    rows = parts.prompts()
    together = parts.token_ids(model, rows[1:2], max_new_tokens=6)
    upstream = parts.upstream_ids(model, rows[1:2], max_new_tokens=6)
    assert together == upstream


def test_fingerprints_of_quantised_models_tell_their_weights():
    prints = [
        LanguageModel(quantised(families.language_model("llama", seed)), families.tokenizer()).fingerprint()
        for seed in (0, 0, 1)
    ]
    assert prints[0] == prints[1] != prints[2]
    other = families.language_model("llama")
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight.mul_(-1)  # a layer that is quantised
    assert LanguageModel(quantised(other), families.tokenizer()).fingerprint() != prints[0]


def test_low_rank_adapters_lie_on_the_same_layers_in_any_coat():
    plain = families.language_model("llama")
    names = set(LoraAdapters(plain.model.layers, LoraConfig(2, 1.0), lambda: False))
    assert len(names) == families.LAYERS * 7
    assert set(LoraAdapters(quantised(plain).model.layers, LoraConfig(2, 1.0), lambda: False)) == names


def test_a_model_that_swallows_its_cache_is_refused_before_it_writes():
    model = dressed(lambda own: Coat(own, swallowed=("past_key_values",)))
    with pytest.raises(ValueError, match="Coat keeps no keys and values.*left past_key_values empty"):
        model.generate(["a"])
    assert len(model.log_probs([["a"]], ["bc"])[0]) == 3  # what needs no cache goes on


def test_tokens_that_a_model_adds_are_told():
    class Prompted(Coat):
        def forward(self, input_ids, **kwargs):
            embedded = self.get_input_embeddings()(input_ids)
            kwargs.pop("attention_mask"), kwargs.pop("position_ids")
            return self.inside["model"](inputs_embeds=torch.cat([embedded[:, :1]] * 3 + [embedded], dim=1), **kwargs)

    with pytest.raises(ValueError, match="reads 5 tokens where it is given 2"):
        dressed(Prompted).generate(["ab"])


def test_nothing_but_the_prompt_and_the_steps_is_run():
    """A model is not run to ask it what it can do: each pass is one of the text's."""
    model, passes = dressed(Narrow), []
    model.language_model.model.inside["model"].register_forward_hook(lambda *call: passes.append(1))
    model.generate([parts.picture(1), "ab"], max_new_tokens=3)
    assert len(passes) == 3


def test_a_typeerror_of_the_models_own_is_not_hidden():
    class Broken(Coat):
        def forward(self, *args, **kwargs):
            raise TypeError("unsupported operand")

    with pytest.raises(TypeError, match="unsupported operand"):
        dressed(Broken).generate(["a"])


def test_pefts_models():
    peft = pytest.importorskip("peft")

    def adapted(model: nn.Module):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
            return peft.get_peft_model(model, config)

    def merged(model: nn.Module):
        return adapted(model).merge_and_unload()

    greedy, beams, values = everything(dressed(adapted))
    expected = everything(dressed(merged))
    assert (greedy, beams) == expected[:2]
    assert values == pytest.approx(expected[2], abs=1e-4)
    layers = LoraAdapters(
        adapted(families.language_model("llama")).base_model.model.model.layers, LoraConfig(2, 1.0), bool
    )
    assert len(layers) == families.LAYERS * 7
    prompted = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match="reads 4 tokens where it is given 1"):
        dressed(lambda model: peft.get_peft_model(model, prompted)).generate(["a"])


def test_a_model_that_lies_on_disk_writes_what_it_writes_in_memory(tmp_path):
    pytest.importorskip("accelerate", reason="device_map needs accelerate")
    plain = dressed(lambda model: model)
    plain.language_model.model.save_pretrained(tmp_path)
    blocks = plain.language_model.config.num_hidden_layers
    places = {name: "cpu" for name in ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")}
    places |= {f"model.layers.{index}": "disk" if index % 2 else "cpu" for index in range(blocks)}
    placed = dressed(
        lambda model: type(model).from_pretrained(
            tmp_path, device_map=places, offload_folder=tmp_path / "off", dtype=torch.float32
        )
    )
    with pytest.raises(ValueError, match="give them a device in device_map"):
        elsewhere = places | {"model.embed_tokens": "disk"}
        dressed(
            lambda model: type(model).from_pretrained(tmp_path, device_map=elsewhere, offload_folder=tmp_path / "a")
        )
    assert any(tensor.is_meta for tensor in placed.language_model.model.parameters())
    expected = everything(plain)
    assert everything(placed) == expected
    assert placed.language_model.fingerprint() == plain.language_model.fingerprint()
    placed.to("cpu", torch.bfloat16)
    assert placed.fusion.layers[0].attn.to_q.weight.dtype == torch.bfloat16
    assert placed.language_model.dtype == torch.float32
    placed.to(torch.float32)
    assert everything(placed.pack())[0] == expected[0]
