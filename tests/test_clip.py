"""ClipImageEncoder against a float64 forward written by hand, through every way of loading it."""

import json
import pickle

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import LocalEntryNotFoundError
from open_clip.pretrained import _PRETRAINED
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from encoders.base import Features, fingerprint
from encoders.clip import ClipImageEncoder, load_tokenizer
from encoders.media import MediaError

CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 100, "width": 16, "heads": 2, "layers": 2},
}
PREPROCESS = {"size": 32, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}


def build(seed: int = 0, **changes) -> nn.Module:
    """A tiny CLIP with noise in every tensor (fresh norms and biases would hide mistakes)."""
    torch.manual_seed(seed)
    model = open_clip.CLIP(**{**CONFIG, **changes})
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return model


def transform(**changes):
    return image_transform_v2(PreprocessCfg(**{**PREPROCESS, **changes}), is_train=False)


def encoder(model: nn.Module | None = None, **options) -> ClipImageEncoder:
    return ClipImageEncoder(model or build(), options.pop("preprocess", transform()), **options)


def pictures(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def vit_by_hand(model, batch, heads, *, normed, quick_gelu=False):
    """The ViT of CLIP in float64 from its state dict alone: [N, 3, H, W] → (patch tokens, class token)."""
    w = {name: value.double() for name, value in model.visual.state_dict().items()}
    x = batch.double()
    width, _, patch, _ = w["conv1.weight"].shape
    n, _, height, wide = x.shape
    cut = x.reshape(n, 3, height // patch, patch, wide // patch, patch).permute(0, 2, 4, 1, 3, 5)
    x = cut.reshape(n, -1, 3 * patch * patch) @ w["conv1.weight"].reshape(width, -1).T
    x = torch.cat([w["class_embedding"].expand(n, 1, width), x], 1) + w["positional_embedding"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * w[name + ".weight"] + w[name + ".bias"]

    x = norm(x, "ln_pre")
    for i in range(sum(name.endswith(".attn.in_proj_weight") for name in w)):
        block = f"transformer.resblocks.{i}."
        qkv = F.linear(norm(x, block + "ln_1"), w[block + "attn.in_proj_weight"], w[block + "attn.in_proj_bias"])
        q, k, v = (t.reshape(n, -1, heads, width // heads).transpose(1, 2) for t in qkv.chunk(3, -1))
        mixed = (q @ k.transpose(-1, -2) / (width // heads) ** 0.5).softmax(-1) @ v
        mixed = mixed.transpose(1, 2).reshape(n, -1, width)
        x = x + F.linear(mixed, w[block + "attn.out_proj.weight"], w[block + "attn.out_proj.bias"])
        hidden = F.linear(norm(x, block + "ln_2"), w[block + "mlp.c_fc.weight"], w[block + "mlp.c_fc.bias"])
        if quick_gelu:
            hidden = hidden / (1 + torch.exp(-1.702 * hidden))
        else:
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        x = x + F.linear(hidden, w[block + "mlp.c_proj.weight"], w[block + "mlp.c_proj.bias"])
    if normed:
        x = norm(x, "ln_post")
    return x[:, 1:], x[:, 0]


@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("final_norm", [True, False])
def test_tokens_equal_the_forward_by_hand(final_norm, quick_gelu):
    model = build(quick_gelu=quick_gelu)
    features = encoder(model, final_norm=final_norm).encode(pictures())
    expected, _ = vit_by_hand(model, pictures(), heads=4, normed=final_norm, quick_gelu=quick_gelu)
    assert features.tokens.shape == (2, 16, 32) and features.mask is None
    torch.testing.assert_close(features.tokens.double(), expected, rtol=1e-4, atol=2e-5)


def test_image_embedding_is_the_projected_class_token():
    model = build()
    _, cls = vit_by_hand(model, pictures(), heads=4, normed=True)
    expected = cls @ model.visual.proj.detach().double()
    expected = expected / expected.pow(2).sum(-1, keepdim=True).sqrt()
    torch.testing.assert_close(encoder(model).embed_images(pictures()).double(), expected, rtol=1e-4, atol=1e-5)


def test_a_tower_that_returns_tokens_gives_the_same():
    plain, with_tokens = build(), build()
    with_tokens.visual.output_tokens = True
    assert torch.equal(encoder(plain).encode(pictures()).tokens, encoder(with_tokens).encode(pictures()).tokens)
    assert torch.equal(encoder(plain).embed_images(pictures()), encoder(with_tokens).embed_images(pictures()))
    _, upstream = with_tokens.visual(pictures())
    assert torch.equal(encoder(with_tokens).encode(pictures()).tokens, upstream)  # open_clip >= 2.23: normed


def test_a_ready_made_model_keeps_its_behaviour():
    model = build().eval()
    with torch.no_grad():
        before = model.encode_image(pictures())
    for final_norm in (True, False):
        encoder(model, final_norm=final_norm).encode(pictures())
    assert torch.equal(model.encode_image(pictures()), before)
    assert model.visual.output_tokens is False and model.visual.final_ln_after_pool is False


def test_a_row_does_not_depend_on_its_neighbours():
    whole = encoder().encode(pictures(5)).tokens
    alone = torch.cat([encoder().encode(row[None]).tokens for row in pictures(5)])
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("patch_dropout", [0.0, 0.5])
def test_train_does_not_wake_it(patch_dropout):
    vision = {**CONFIG["vision_cfg"], "patch_dropout": patch_dropout}
    part = encoder(build(vision_cfg=vision))
    before = part.encode(pictures()).tokens
    parent = nn.ModuleDict({"image": part, "head": nn.Linear(2, 2)})
    parent.train()
    assert parent.head.training and not any(module.training for module in part.modules())
    assert torch.equal(part.encode(pictures()).tokens, before)
    part.train(True)
    assert not part.training


def test_no_gradient_enters():
    part = encoder()
    assert not any(parameter.requires_grad for parameter in part.parameters())
    batch = pictures().requires_grad_()
    tokens = part.encode(batch).tokens
    assert not tokens.requires_grad and not part.embed_images(batch).requires_grad
    # Yet an adapter on top can train: the tokens are plain tensors, not inference-mode ones.
    head = nn.Linear(32, 1)
    head(tokens).sum().backward()
    assert head.weight.grad.abs().sum() > 0


def save_upstream_folder(folder, model, *, half=False, tokenizer=True):
    """A folder as open_clip's push_to_hf_hub lays it out."""
    folder.mkdir()
    model_cfg = json.loads(json.dumps(CONFIG))
    if tokenizer:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "red": 3, "circle": 4}, unk_token="[UNK]"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
        fast.save_pretrained(folder)
        model_cfg["text_cfg"]["hf_tokenizer_name"] = "here"
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": PREPROCESS}))
    tensors = {k: (v.half() if half else v).contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    return str(folder)


@pytest.fixture
def tiny_architecture(tmp_path, monkeypatch):
    """Register CONFIG with open_clip under a name, for the length of a test."""
    from open_clip import factory

    path = tmp_path / "tiny-test-vit.json"
    path.write_text(json.dumps(CONFIG))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", [*factory._MODEL_CONFIG_PATHS, path])
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    open_clip.add_model_config(path)
    return path.stem


@pytest.mark.parametrize("layout", ["state_dict.pt", "training.pt", "ddp.pt", "file.safetensors"])
def test_checkpoint_files_give_the_same_bits(layout, tiny_architecture, tmp_path):
    model = build()
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    path = tmp_path / layout
    if layout == "file.safetensors":
        save_file(state, path)
    elif layout == "state_dict.pt":
        torch.save(state, path)
    elif layout == "training.pt":  # as open_clip's training writes it
        torch.save({"epoch": 3, "name": "run", "state_dict": state, "optimizer": {"state": {}}}, path)
    else:
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    loaded = ClipImageEncoder.load(f"{tiny_architecture}/{path}")
    assert loaded.name == f"{tiny_architecture}/{path}"
    assert (loaded.dim, loaded.image_size) == (32, (32, 32))
    assert torch.equal(loaded.encode(pictures()).tokens, encoder(model).encode(pictures()).tokens)
    assert not any(parameter.requires_grad for parameter in loaded.parameters()) and not loaded.training


def test_folder_gives_the_same_bits_preprocessing_and_texts(tmp_path):
    model = build()
    loaded = ClipImageEncoder.load(save_upstream_folder(tmp_path / "clip", model))
    ready = encoder(model)
    assert torch.equal(loaded.encode(pictures()).tokens, ready.encode(pictures()).tokens)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    assert torch.equal(loaded.preprocess(picture), ready.preprocess(picture))
    assert loaded.fingerprint() == ready.fingerprint()

    ids = torch.tensor([[2, 3, 4] + [0] * 9, [1, 4] + [0] * 10])
    embedding = loaded.embed_texts(["a red circle", "blue circle"])
    expected = model.encode_text(ids)
    torch.testing.assert_close(embedding, expected / expected.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(2))
    ready.tokenizer = lambda texts: ids
    assert torch.equal(ready.embed_texts(["", ""]), embedding)


def test_half_precision_folder_and_bfloat16(tmp_path):
    folder = save_upstream_folder(tmp_path / "clip", build(), half=True)
    full = ClipImageEncoder.load(folder)
    low = ClipImageEncoder.load(folder, dtype=torch.bfloat16)
    assert (full.dtype, low.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(full.model.visual.proj, build().visual.proj.half().float())
    tokens = low.encode(pictures()).tokens
    assert tokens.dtype == torch.bfloat16
    torch.testing.assert_close(tokens.float(), full.encode(pictures()).tokens, rtol=0.1, atol=0.15)
    assert low.embed_images(pictures()).dtype == torch.float32
    torch.testing.assert_close(low.embed_images(pictures()).norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(low.embed_texts(["red"]), full.embed_texts(["red"]), rtol=0, atol=0.05)
    assert low.fingerprint() == full.fingerprint()


def test_a_tag_trained_with_quick_gelu_gets_it(tiny_architecture, tmp_path, monkeypatch):
    model = build(quick_gelu=True)
    path = tmp_path / "w.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    tag = {"file": str(path), "quick_gelu": True, "mean": PREPROCESS["mean"], "std": PREPROCESS["std"]}
    monkeypatch.setitem(_PRETRAINED, tiny_architecture, {"openai": tag})
    loaded = ClipImageEncoder.load(f"{tiny_architecture}/openai", final_norm=False)
    expected, _ = vit_by_hand(model, pictures(), heads=4, normed=False, quick_gelu=True)
    torch.testing.assert_close(loaded.encode(pictures()).tokens.double(), expected, rtol=1e-4, atol=2e-5)
    picture = Image.new("RGB", (40, 40), (10, 200, 90))
    assert torch.equal(loaded.preprocess(picture), transform()(picture))  # the tag's mean and deviation


def test_preprocess_by_hand():
    """Normalisation by the definition, resizing left out by giving the right size."""
    values = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    expected = (values / 255 - np.array(PREPROCESS["mean"])) / np.array(PREPROCESS["std"])
    got = encoder().preprocess(values)
    assert got.shape == (3, 32, 32) and got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)


def test_preprocess_takes_the_model_s_own_by_default_and_refuses_what_is_no_picture():
    model = build()
    with pytest.raises(ValueError, match="preprocess="):
        ClipImageEncoder(model)
    open_clip.model.set_model_preprocess_cfg(model, PREPROCESS)
    picture = Image.new("RGB", (64, 48), (200, 30, 90))
    assert torch.equal(ClipImageEncoder(model).preprocess(picture), transform()(picture))
    with pytest.raises(MediaError):
        encoder().preprocess(b"no picture")


def test_fingerprint_changes_with_every_tensor_and_setting():
    first = encoder().fingerprint()
    assert first == encoder().fingerprint() and len(first) == 16 and int(first, 16) >= 0
    seen = {first}
    changing = encoder()
    for parameter in changing.parameters():
        last = parameter.data.view(-1)[-1]
        kept = last.clone()
        last += 0.5 + last.abs()
        seen.add(changing.fingerprint())
        last.copy_(kept)
    assert changing.fingerprint() == first
    assert len(seen) == 1 + sum(1 for _ in changing.parameters())
    others = [
        encoder(final_norm=False),
        encoder(build(quick_gelu=True)),  # the same weights
        encoder(build(vision_cfg={**CONFIG["vision_cfg"], "head_width": 16})),  # the same weights
        *(
            encoder(preprocess=transform(**change))
            for change in (
                {"mean": (0.5, 0.4, 0.31)},
                {"std": (0.2, 0.31, 0.4)},
                {"interpolation": "bilinear"},
                {"resize_mode": "squash"},
                {"resize_mode": "longest"},
                {"size": 40},
            )
        ),
    ]
    prints = {other.fingerprint() for other in others}
    assert len(prints) == len(others) and not prints & seen


def test_fingerprint_of_weights():
    weights = {"b": torch.randn(7000, 3), "a": torch.arange(5), "c": torch.tensor(True), "d": torch.zeros(0, 4)}
    first = fingerprint(weights)
    assert first == fingerprint(dict(reversed(weights.items())))
    assert first == fingerprint({**weights, "b": weights["b"].bfloat16()})
    assert first == fingerprint({**weights, "b": weights["b"].T.contiguous().T})  # another memory layout
    for change in (
        {"b": weights["b"] + 1},
        {"b": weights["b"].T},
        {"a": weights["a"] + 1},
        {"c": torch.tensor(False)},
        {"d": torch.zeros(4, 0)},
        {"e": torch.zeros(1)},
    ):
        assert fingerprint({**weights, **change}) != first
    with pytest.raises(ValueError, match="meta"):
        fingerprint(nn.Linear(2, 2, device="meta"))


def test_fingerprint_sample_does_not_walk_down_one_column():
    """Every 64th value of a 512-wide matrix would see 8 columns of it; a change of any one column should show."""
    matrix = torch.randn(512, 512)
    first = fingerprint({"w": matrix})
    noticed = 0
    for column in range(512):
        changed = matrix.clone()
        changed[:, column] += 1
        noticed += fingerprint({"w": changed}) != first
    assert noticed > 0.95 * 512


def timm_clip(name: str) -> open_clip.CLIP:
    """The first two blocks of a tower of timm's."""
    torch.manual_seed(0)
    vision = dict(timm_model_name=name, timm_pool="", timm_proj="none", image_size=224)
    model = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=CONFIG["text_cfg"])
    del model.visual.trunk.blocks[2:]
    return model


# The last is MobileCLIP-B's
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_base_patch16_siglip_224", "vit_base_mci_224"])
def test_timm_towers_give_the_patch_tokens_of_timm_itself(name):
    model = timm_clip(name)
    pixels = torch.randn(2, 3, 224, 224)
    normed, raw = (ClipImageEncoder(model, transform(size=224), final_norm=norm) for norm in (True, False))
    trunk = model.visual.trunk
    with torch.no_grad():
        expected = trunk.forward_features(pixels)[:, trunk.num_prefix_tokens :]  # past the class token
    assert expected.shape == (2, 196, normed.dim) and normed.frame == 196
    torch.testing.assert_close(normed.encode(pixels).tokens, expected)
    torch.testing.assert_close(trunk.norm(raw.encode(pixels).tokens), expected)
    assert normed.fingerprint() != raw.fingerprint()
    other = timm_clip(name)
    other.visual.trunk.blocks[1].attn.num_heads = 1  # the same weights
    assert ClipImageEncoder(other, transform(size=224)).fingerprint() != normed.fingerprint()


def test_towers_without_patch_tokens_are_refused():
    vision = dict(timm_model_name="resnet18", timm_pool="avg", timm_proj="linear", image_size=32)
    with pytest.raises(ValueError, match="ResNet.*no patch tokens"):
        encoder(open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=CONFIG["text_cfg"]))
    mobile = dict(timm_model_name="fastvit_mci0", timm_pool="avg", timm_proj=None, image_size=256)  # MobileCLIP2-S0
    with pytest.raises(ValueError, match="FastVit.*no patch tokens.*MobileCLIP-B"):
        encoder(open_clip.CLIP(embed_dim=16, vision_cfg=mobile, text_cfg=CONFIG["text_cfg"]))
    resnet = open_clip.CLIP(
        **{**CONFIG, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}}
    )
    with pytest.raises(ValueError, match="ModifiedResNet.*no patch tokens"):
        encoder(resnet)
    with pytest.raises(ValueError, match="no patch tokens"):
        encoder(nn.Linear(2, 2))


def test_a_tower_with_attention_pooling_gives_raw_tokens_only():
    vision = {**CONFIG["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 4}
    model = build(vision_cfg=vision)
    with pytest.raises(ValueError, match="final_norm=False"):
        encoder(model)
    expected, _ = vit_by_hand(model, pictures(), heads=4, normed=False)
    got = encoder(model, final_norm=False).encode(pictures()).tokens
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 3, 32, 31), (1, 1, 32, 32), (1, 32, 32, 3)])
def test_wrong_batches_are_refused(shape):
    for method in (encoder().encode, encoder().embed_images):
        with pytest.raises(ValueError, match=r"\[N, 3, 32, 32\]"):
            method(torch.zeros(shape))


def test_names_that_cannot_be_loaded_say_why(tiny_architecture, tmp_path):
    with pytest.raises(ValueError, match="neither a file, a folder, a hub id nor ARCHITECTURE/TAG"):
        ClipImageEncoder.load("no-such-thing/at/all")
    with pytest.raises(FileNotFoundError, match="its tags: .*laion2b_s34b_b79k"):
        ClipImageEncoder.load("ViT-B-32")
    with pytest.raises(FileNotFoundError, match="missing.pt"):
        ClipImageEncoder.load("ViT-B-32/missing.pt")
    with pytest.raises(FileNotFoundError, match="open_clip_config.json"):
        ClipImageEncoder.load(tmp_path)
    empty = tmp_path / "no-weights"  # open_clip itself only warns here, and goes on with random weights
    empty.mkdir()
    (empty / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    with pytest.raises(ValueError, match="no-weights"):
        ClipImageEncoder.load(empty)
    other = tmp_path / "other.safetensors"
    save_file({"visual.proj": torch.zeros(3, 3)}, other)
    with pytest.raises(ValueError, match="fit the architecture"):
        ClipImageEncoder.load(f"{tiny_architecture}/{other}")
    with pytest.raises(ValueError, match="tokenizer="):
        encoder().embed_texts(["a"])


class _Attack:
    ran = False

    def __reduce__(self):
        return (_attack, ())


def _attack():
    _Attack.ran = True


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::UserWarning")  # of such files, by torch
def test_pickled_code_is_never_run(tiny_architecture, tmp_path):
    path = tmp_path / "evil.pt"
    torch.save({"state_dict": build().state_dict(), "extra": _Attack()}, path)
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(_Attack()))
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pt")
    for name in ("evil.pt", "raw.pt", "script.pt"):
        with pytest.raises(ValueError, match="pickled code is not loaded"):
            ClipImageEncoder.load(f"{tiny_architecture}/{tmp_path / name}")
    with pytest.raises(ValueError, match="OpenAI's TorchScript archives are given by their path alone"):
        ClipImageEncoder.load(f"{tiny_architecture}/{tmp_path}/script.pt")
    assert not _Attack.ran


@pytest.mark.parametrize("name", ["ViT-B-32/laion2b_s34b_b79k", "hf-hub:nobody/nothing"])
def test_offline_says_what_to_do(name, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nothing is fetched while HF_HUB_OFFLINE is set: load it") as told:
        ClipImageEncoder.load(name)
    assert "\n" not in str(told.value) and str(told.value).startswith(f"{name.removeprefix('hf-hub:')} is not in")


def test_a_hub_that_is_not_reached_is_asked_once(monkeypatch):
    asked = []

    def unreachable(*place, **_):
        asked.append(place)
        raise LocalEntryNotFoundError("no network, in many words")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("open_clip.pretrained.hf_hub_download", lambda *_, **__: pytest.fail("open_clip tries again"))
    for name in ("ViT-B-32/laion2b_s34b_b79k", "ViT-B-16-SigLIP-256/webli"):
        with pytest.raises(FileNotFoundError, match=f"{name} is not .*the hub cannot be reached: connect to the net"):
            ClipImageEncoder.load(name)
    assert [file for _, file in asked] == ["open_clip_model.safetensors"] * 2


def test_features_check_themselves():
    tokens = torch.zeros(2, 3, 4)
    Features(tokens, torch.ones(2, 3, dtype=torch.bool))
    for wrong in ((tokens[0], None), (tokens, torch.ones(2, 3)), (tokens, torch.ones(2, 4, dtype=torch.bool))):
        with pytest.raises(ValueError):
            Features(*wrong)


def test_texts_beyond_the_context_are_a_warning(tmp_path, recwarn):
    """By open_clip's own tokenizer, with and without room for the end; one that cannot say is trusted."""
    model = open_clip.create_model("ViT-S-32-alt")
    encoder = ClipImageEncoder(model, tokenizer=open_clip.get_tokenizer("ViT-S-32-alt"))
    context = model.context_length
    fits = " ".join(["dog"] * (context - 2))  # with the marks at both ends
    encoder.embed_texts(["a cat", fits])
    assert not [one for one in recwarn if "context" in str(one.message)]
    with pytest.warns(UserWarning, match=f"1 of 2 texts are longer than CLIP's context of {context} tokens.*'dog dog"):
        encoder.embed_texts(["a cat", f"{fits} dog"])
    encoder.tokenizer = lambda texts: torch.ones(len(texts), context, dtype=torch.long)
    recwarn.clear()
    encoder.embed_texts([f"{fits} dog"])
    assert not recwarn


@pytest.mark.parametrize("asked_for", [{"trust_remote_code": True}, {}])
def test_a_folders_code_is_never_run(tmp_path, asked_for):
    """The settings of a folder may ask for a tokenizer that is Python code."""
    folder = save_upstream_folder(tmp_path / "clip", build())
    config = json.loads((tmp_path / "clip" / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = asked_for
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps(config))
    auto = {"auto_map": {"AutoTokenizer": ["tokenization_own.Own", None]}, "tokenizer_class": "Own"}
    (tmp_path / "clip" / "tokenizer_config.json").write_text(json.dumps(auto))
    code = [f"open({str(tmp_path / 'ran')!r}, 'w')", "from transformers import PreTrainedTokenizer as Own"]
    (tmp_path / "clip" / "tokenization_own.py").write_text("\n".join(code))
    loaded = ClipImageEncoder.load(folder)
    with pytest.raises(ValueError, match="needs Python code of its own, which is not run.*tokenizer="):
        loaded.embed_texts(["a red circle"])
    assert not (tmp_path / "ran").exists()


def test_open_clips_own_tokenizer_needs_no_such_argument(tiny_architecture, tmp_path):
    torch.save(build().state_dict(), tmp_path / "weights.pt")
    ids = load_tokenizer(f"{tiny_architecture}/{tmp_path / 'weights.pt'}")(["a red circle"])
    assert torch.equal(ids, open_clip.SimpleTokenizer(context_length=ids.shape[1])(["a red circle"]))


@pytest.mark.parametrize("wrong", [None, 5, b"ViT-B-32"])
def test_what_is_no_name_is_told(wrong):
    with pytest.raises(TypeError, match="by its name or folder"):
        ClipImageEncoder.load(wrong)
    with pytest.raises(TypeError, match="dtype is one of torch's types"):
        ClipImageEncoder.load("ViT-B-32/openai", dtype="float16")
