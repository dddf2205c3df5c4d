"""The host: blocks found, added rows that a family's own scales hold for, a language model that is never changed."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

from encoders.base import fingerprint
from mmlm.model.blocks import find_blocks
from mmlm.model.language_model import LanguageModel
from support import families, parts


def host(family: str = "llama") -> LanguageModel:
    return LanguageModel(families.language_model(family), families.tokenizer())


# Blocks


@pytest.mark.parametrize(
    "family, path",
    [
        ("gpt2", "transformer.h"),
        ("opt", "model.decoder.layers"),
        ("gpt_neox", "gpt_neox.layers"),
        ("mpt", "transformer.blocks"),
        ("llama", "model.layers"),
        ("mixtral", "model.layers"),  # as many experts as blocks
        ("qwen2_moe", "model.layers"),
        ("lfm2", "model.layers"),
    ],
)
def test_the_blocks_are_found(family, path):
    made = host(family)
    assert made.blocks is made.model.get_submodule(path)


def test_of_nested_lists_the_outermost_is_taken():
    experts = nn.Module()
    experts.experts = nn.ModuleList(nn.Linear(1, 1) for _ in range(2))
    model = nn.Module()
    model.heads = nn.ModuleList(nn.Linear(1, 1) for _ in range(5))
    model.inner = nn.Module()
    model.inner.layers = nn.ModuleList([experts, nn.Linear(1, 1)])
    assert find_blocks(model, 2) is model.inner.layers
    assert find_blocks(model, 5) is model.heads


def test_blocks_that_cannot_be_told_are_a_clear_error():
    model = nn.Module()
    model.encoder = nn.ModuleList(nn.Linear(1, 1) for _ in range(3))
    model.decoder = nn.ModuleList(nn.Linear(1, 1) for _ in range(3))
    with pytest.raises(ValueError, match="3 decoder blocks of Module: candidates encoder, decoder"):
        find_blocks(model, 3)
    with pytest.raises(ValueError, match="candidates none"):
        find_blocks(model, 4)


# What cannot be a host


def test_a_model_without_a_head_is_a_clear_error():
    language_model = families.language_model("llama")
    with pytest.raises(ValueError, match="LlamaModel has no output head.*AutoModelForCausalLM"):
        LanguageModel(language_model.model, families.tokenizer())


def test_an_embedding_and_a_head_of_different_sizes_are_a_clear_error():
    language_model = families.language_model("llama")
    language_model.lm_head = nn.Linear(families.WIDTH, families.VOCAB + 8, bias=False)
    with pytest.raises(ValueError, match="272 rows and the head 280"):
        LanguageModel(language_model, families.tokenizer())


# Added rows


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "cohere"])
@torch.no_grad()
def test_added_tokens_start_as_the_mean_of_all_others(family):
    made = host(family)
    ids = torch.arange(20).unsqueeze(0)
    with made.request():
        logits = made(ids).logits
        rows = made.model.get_input_embeddings()(torch.arange(families.VOCAB + 3))
    expected = logits[..., : families.VOCAB].mean(-1, keepdim=True).expand(-1, -1, 3)
    torch.testing.assert_close(logits[..., families.VOCAB :], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        rows[families.VOCAB :], rows[: families.VOCAB].mean(0).expand(3, -1), rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_a_familys_own_scale_and_cap_hold_for_added_logits():
    ids = torch.arange(20).unsqueeze(0)
    for family, scale in (("cohere", 0.5), ("granite", 1 / 2.0), ("llama", 1.0)):
        made = host(family)
        made.added.head.normal_(generator=torch.Generator().manual_seed(0))
        last = []
        made.model.get_output_embeddings().register_forward_pre_hook(lambda m, args, last=last: last.append(args[0]))
        with made.request():
            logits = made(ids).logits[..., families.VOCAB :]
        torch.testing.assert_close(logits, scale * last[0] @ made.added.head.T, rtol=1e-4, atol=1e-4)
    made = host("gemma2")
    made.added.head.fill_(1e4)
    with made.request():
        assert made(ids).logits[..., families.VOCAB :].abs().max() <= 30.0


@torch.no_grad()
def test_added_ids_are_known_within_a_request_alone():
    made = host()
    ids = torch.tensor([[1, families.VOCAB, 2]])
    with made.request():
        assert made(ids).logits.shape == (1, 3, families.VOCAB + 3)
        with pytest.raises(IndexError):  # past the last added row
            made(torch.tensor([[families.VOCAB + 3]]))
    with pytest.raises(IndexError):
        made(ids)
    assert made(ids.clamp(max=9)).logits.shape == (1, 3, families.VOCAB)


@torch.no_grad()
def test_an_embedding_narrower_than_the_model_takes_rows_of_its_own_width():
    config = transformers.OPTConfig(
        vocab_size=families.VOCAB, hidden_size=32, word_embed_proj_dim=16, num_hidden_layers=2, num_attention_heads=4,
        ffn_dim=48, max_position_embeddings=64, pad_token_id=1,
    )  # fmt: skip
    made = LanguageModel(transformers.OPTForCausalLM(config), families.tokenizer())
    assert made.added.embedding.shape == made.added.head.shape == (3, 16)
    assert made.hidden_size == 32
    with made.request():
        assert made(torch.tensor([[1, families.VOCAB + 1, 2]])).logits.shape == (1, 3, families.VOCAB + 3)


# Frozen for good


def test_train_does_not_wake_the_language_model():
    language_model = families.language_model("gpt2")  # with dropout of 0.1
    assert language_model.config.resid_pdrop > 0
    made = LanguageModel(language_model.train(), families.tokenizer())
    ids = torch.arange(20).unsqueeze(0)
    plain = families.language_model("gpt2")(input_ids=ids).logits
    for mode in (True, False, True):
        made.train(mode)
        assert torch.equal(made(ids).logits, plain)
        assert not any(module.training for module in made.model.modules())
    model = parts.build("gpt2")
    model.train()
    assert model.training and model.fusion.training
    assert not any(
        module.training for module in [*model.language_model.model.modules(), *model.encoders["image"].modules()]
    )
    assert [name for name, tensor in made.named_parameters() if tensor.requires_grad] == [
        "added.embedding",
        "added.head",
    ]


def test_the_language_models_names_and_weights_stay_as_they_were():
    untouched = families.language_model("gpt_neox").state_dict()
    made = host("gpt_neox")
    state = made.model.state_dict()
    assert list(state) == list(untouched)
    assert all(torch.equal(state[name], untouched[name]) for name in untouched)
    assert type(made.model) is transformers.GPTNeoXForCausalLM
    assert made.model.config.vocab_size == families.VOCAB
    assert made.fingerprint() == fingerprint(untouched)


# Requests


def test_a_request_within_a_request_gives_way_to_it_again():
    made = host()
    ids = torch.arange(5).unsqueeze(0)
    heard = []
    outer = SimpleNamespace(
        on_ids=lambda ids: heard.append("outer"),
        before_block=lambda index, hidden: hidden,
        embedded=lambda ids, own: own,
    )
    inner = SimpleNamespace(
        on_ids=lambda ids: heard.append("inner"),
        before_block=lambda index, hidden: hidden,
        embedded=lambda ids, own: own,
    )
    with made.request(outer):
        made(ids)
        with pytest.raises(RuntimeError), made.request(inner):
            made(ids)
            raise RuntimeError
        made(ids)
    made(ids)
    assert heard == ["outer", "inner", "outer"]


def test_a_listener_hears_every_block_in_order():
    for family in ("gpt2", "llama", "bloom", "phi3"):
        made = host(family)
        heard = []

        def before_block(index, hidden, heard=heard):
            heard.append((index, tuple(hidden.shape)))
            return hidden

        def on_ids(ids, heard=heard):
            heard.append(tuple(ids.shape))

        with made.request(SimpleNamespace(on_ids=on_ids, before_block=before_block, embedded=lambda ids, own: own)):
            made(torch.arange(5).unsqueeze(0))
        assert heard == [(1, 5), (0, (1, 5, 32)), (1, (1, 5, 32)), (2, (1, 5, 32))]


def test_stop_ids_and_lengths_are_read_from_the_model():
    made = host()
    made.model.generation_config.eos_token_id = [256, 12]
    assert made.stop_ids == [families.VOCAB, 12, 256]
    made.model.generation_config.eos_token_id = 7
    assert made.stop_ids == [families.VOCAB, 7, 256]  # and the tokenizer's own
    made.check_length(256)
    with pytest.raises(ValueError, match="257 tokens.*256 positions"):
        made.check_length(257)
    endless = transformers.BloomConfig(vocab_size=families.VOCAB, hidden_size=8, n_layer=1, n_head=2)
    assert LanguageModel(transformers.BloomForCausalLM(endless), families.tokenizer()).max_length is None
    for family in ("gpt2", "opt", "mpt", "gpt_bigcode"):  # each config has its own name for it
        assert host(family).max_length == 256
