"""CLIPs in every form that people have: the same features as each form's own library, or one line that says why not."""

import importlib.util
import io
import json
import re
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.errors
import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

import mmlm
from encoders.clip import ClipImageEncoder
from encoders.clip_forms.pictures import CLIP_DEFAULTS, SIGLIP_DEFAULTS, transform_of
from encoders.clip_forms.renaming import clip_weights, siglip_weights
from mmlm.data import Record
from mmlm.retrieval.rices import Rices
from support import clips, families, parts

EXACT = dict(rtol=1e-5, atol=1e-5)


def pictures(size: int = clips.SIZE) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def equals_upstream(folder: Path, upstream, size: int) -> None:
    """Patch tokens with and without the last norm, embeddings of pictures and texts."""
    batch = pictures(size)
    with torch.no_grad():
        vision = upstream.vision_model(pixel_values=batch, output_hidden_states=True)
        raw = vision.hidden_states[-1][:, isinstance(upstream, CLIPModel) :]  # past the class token
        tokenizer = AutoTokenizer.from_pretrained(folder)
        texts = clips.TEXTS if isinstance(upstream, CLIPModel) else [text.lower() for text in clips.TEXTS]
        ids = tokenizer(
            texts, padding="max_length", max_length=clips.CONTEXT, truncation=True, return_tensors="pt"
        ).input_ids
        both = upstream(input_ids=ids, pixel_values=batch)
        normed = upstream.vision_model.post_layernorm(raw)
    encoder = ClipImageEncoder.load(folder)
    torch.testing.assert_close(encoder.encode(batch).tokens, normed, **EXACT)
    torch.testing.assert_close(ClipImageEncoder.load(folder, final_norm=False).encode(batch).tokens, raw, **EXACT)
    torch.testing.assert_close(encoder.embed_images(batch), both.image_embeds, **EXACT)
    with pytest.warns(UserWarning, match="texts are longer than"):
        torch.testing.assert_close(encoder.embed_texts(clips.TEXTS), both.text_embeds, **EXACT)


@pytest.mark.parametrize("act", ["quick_gelu", "gelu", "gelu_pytorch_tanh"])
def test_clip_of_transformers(tmp_path, act):
    equals_upstream(tmp_path, clips.save_clip(tmp_path, act=act), clips.SIZE)


@pytest.mark.parametrize("eos", ["old", "not the largest"])
def test_the_end_mark_of_clip_is_where_its_config_says(tmp_path, eos):
    """Old configs say 2 and mean the largest id. With added tokens the end mark is not the largest."""
    size = len(clips.clip_tokenizer())
    changes = dict(eos_token_id=2) if eos == "old" else dict(vocab_size=size + 5)
    upstream = clips.save_clip(tmp_path, **changes)
    if eos != "old":
        tokenizer = clips.clip_tokenizer()
        tokenizer.add_tokens(["circle", "dog"])  # with ids above the end mark's
        tokenizer.save_pretrained(tmp_path)
    equals_upstream(tmp_path, upstream, clips.SIZE)


@pytest.mark.parametrize("act", ["gelu_pytorch_tanh", "gelu"])
def test_siglip_of_transformers(tmp_path, act):
    equals_upstream(tmp_path, clips.save_siglip(tmp_path, act=act), 30)


def with_sentencepiece(folder: Path) -> None:
    """The tokenizer of the first SigLIPs, by its name."""
    for file in folder.glob("*token*"):
        file.unlink()
    settings = {"tokenizer_class": "SiglipTokenizer", "model_max_length": 64, "model_input_names": ["input_ids"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.skipif(importlib.util.find_spec("sentencepiece") is not None, reason="sentencepiece is here")
def test_a_siglip_without_sentencepiece_sees_and_says_what_its_texts_need(tmp_path):
    upstream = clips.save_siglip(tmp_path)
    with_sentencepiece(tmp_path)
    (tmp_path / "spiece.model").write_bytes(b"")
    encoder = ClipImageEncoder.load(tmp_path)
    embedding = upstream.get_image_features(pictures(30)).pooler_output
    torch.testing.assert_close(encoder.embed_images(pictures(30)), F.normalize(embedding, dim=-1), **EXACT)
    with pytest.raises(ImportError, match="pip install sentencepiece protobuf$"):
        encoder.embed_texts(["a red circle"])


def test_a_siglip_with_sentencepiece(tmp_path):
    pieces = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    upstream = clips.save_siglip(tmp_path)
    with_sentencepiece(tmp_path)
    (tmp_path / "texts").write_text("\n".join(clips.TEXTS * 9).lower())
    options = dict(vocab_size=40, hard_vocab_limit=False, pad_id=-1, bos_id=-1, eos_id=1, unk_id=0)
    place = dict(input=str(tmp_path / "texts"), model_prefix=str(tmp_path / "spiece"))
    pieces.SentencePieceTrainer.train(**place, **options)
    equals_upstream(tmp_path, upstream, 30)


def test_a_siglip_has_the_tower_that_open_clip_builds(tmp_path):
    """The names and shapes of its weights, and the kinds of its layers, are those of timm's model for SigLIP."""
    clips.save_siglip(tmp_path, act="gelu")
    tower = ClipImageEncoder.load(tmp_path).model.visual.trunk
    named = timm.create_model(
        "vit_base_patch16_siglip_224", num_classes=0, img_size=30, patch_size=8, embed_dim=32, depth=2, num_heads=4,
        mlp_ratio=83.5 / 32,
    )  # fmt: skip
    shapes = {name: value.shape for name, value in named.state_dict().items()}
    assert {name: value.shape for name, value in tower.state_dict().items()} == shapes
    assert [type(part).__name__ for part in tower.modules()] == [type(part).__name__ for part in named.modules()]


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-L-14-336", "ViT-B-16-SigLIP", "ViT-B-16-SigLIP2"])
def test_published_sizes_have_the_names_and_shapes_of_open_clips(name):
    """Without memory: on the meta device."""
    config = open_clip.get_model_config(name)
    custom = config.pop("custom_text", False)
    with torch.device("meta"):
        own = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config).state_dict()
        if custom:
            text = dict(vocab_size=config["text_cfg"]["vocab_size"], bos_token_id=None, eos_token_id=1)
            found = siglip_weights(SiglipModel(SiglipConfig(text_config=text)).state_dict())
        elif name == "ViT-B-32":
            found = clip_weights(CLIPModel(CLIPConfig()).state_dict())
        else:
            vision = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16)
            text = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
            vision |= dict(image_size=336, patch_size=14)
            sizes = CLIPConfig(projection_dim=768, vision_config=vision, text_config=text)
            found = clip_weights(CLIPModel(sizes).state_dict())
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in own.items()}


@pytest.mark.parametrize("form", ["sharded", "float16", "pickled", "whole processor"])
def test_the_ways_in_which_transformers_saves(tmp_path, form):
    upstream = clips.save_clip(tmp_path)
    if form == "sharded":
        upstream.save_pretrained(tmp_path, max_shard_size="100KB")
        (tmp_path / "model.safetensors").unlink()
    elif form == "float16":
        upstream.half().save_pretrained(tmp_path)
        upstream.float()
    elif form == "pickled":
        torch.save(upstream.state_dict(), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    else:
        processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
        (tmp_path / "preprocessor_config.json").unlink()
        (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": processor}))
    equals_upstream(tmp_path, upstream, clips.SIZE)


# Pictures


def sizes() -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(20, 150), st.integers(20, 150))


@settings(max_examples=60, deadline=None)
@given(
    size=sizes(), resample=st.sampled_from([0, 1, 2, 3, 4, 5]), edge=st.sampled_from([32, 40]), seed=st.integers(0, 9)
)
def test_clips_pictures_are_those_of_its_processor(size, resample, edge, seed):
    """The same pixels. Where an odd number is cut off, torchvision and open_clip round its half, and transformers cuts
    it off: then the cut may lie one pixel further."""
    given = dict(size={"shortest_edge": edge}, crop_size={"height": 32, "width": 32}, resample=resample)
    transform, _ = transform_of(given, CLIP_DEFAULTS, (32, 32))
    image = clips.picture(*size, seed=seed)
    whole = CLIPImageProcessorPil(**given, do_center_crop=False)(image, return_tensors="pt").pixel_values[0]
    top, left = (round((length - 32) / 2) for length in whole.shape[1:])
    ours = transform(image)
    torch.testing.assert_close(ours, whole[:, top : top + 32, left : left + 32], **EXACT)
    if not any((length - 32) % 4 == 3 for length in whole.shape[1:]):
        upstream = CLIPImageProcessorPil(**given)(image, return_tensors="pt").pixel_values[0]
        torch.testing.assert_close(ours, upstream, **EXACT)


@settings(max_examples=40, deadline=None)
@given(size=sizes(), resample=st.sampled_from([2, 3]), seed=st.integers(0, 9))
def test_siglips_pictures_are_those_of_its_processor(size, resample, seed):
    given = dict(size={"height": 30, "width": 30}, resample=resample)
    transform, _ = transform_of(given, SIGLIP_DEFAULTS, (30, 30))
    image = clips.picture(*size, seed=seed)
    upstream = SiglipImageProcessorPil(**given)(image, return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(transform(image), upstream, **EXACT)


def test_photographs_are_prepared_as_upstream_does(tmp_path, data_folder):
    """Through folders of both kinds."""
    if not (tars := sorted((data_folder / "flickr8k").glob("dev-*.tar"))):
        pytest.skip(f"no photographs in {data_folder}/flickr8k: set MMLM_DATA to the folder of the paired sets")
    with tarfile.open(tars[0]) as tar:
        members = [member for member in tar.getmembers() if member.name.endswith(".jpg")][:12]
        photographs = [tar.extractfile(member).read() for member in members]
    assert len(photographs) == 12
    clips.save_clip(tmp_path / "clip")
    clips.save_siglip(tmp_path / "siglip", size=224)
    for folder, kind in (("clip", CLIPImageProcessorPil), ("siglip", SiglipImageProcessorPil)):
        encoder, processor = ClipImageEncoder.load(tmp_path / folder), kind.from_pretrained(tmp_path / folder)
        for data in photographs:
            upstream = processor(Image.open(io.BytesIO(data)), return_tensors="pt").pixel_values[0]
            ours = encoder.preprocess(data)
            # CLIP's cut may lie one pixel further, as above
            shifted = [torch.roll(upstream, by, (1, 2)) for by in ((0, 0), (-1, 0), (0, -1))]
            inner = [(ours - other)[:, 1:-1, 1:-1].abs().max() for other in shifted]
            assert min(inner if folder == "clip" else inner[:1]) < 1e-5


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (dict(do_resize=False), "resizes nothing"),
        (dict(do_rescale=False), "0..1"),
        (dict(rescale_factor=1 / 127.5), "0..1"),
        (dict(crop_size=48), "makes pictures of .48, 48., and the model takes .32, 32."),
        (dict(do_center_crop=False), "makes pictures of 32"),
        (dict(size={"shortest_edge": 10**9}), "resizes to 1000000000 first"),
        (dict(size={"longest_edge": 32}), "KeyError"),
        (dict(size="large"), "TypeError"),
        (dict(resample=77), "interpolation"),
        (dict(image_std=[0.5, 0.5, 0]), "deviation"),
        (dict(image_mean=[0.5]), "deviation"),
        (dict(image_mean=[float("nan")] * 3), "deviation"),
    ],
    ids=str,
)
def test_preprocessing_that_leads_elsewhere_is_refused(tmp_path, changes, why):
    clips.save_clip(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ValueError, match=why) as caught:
        ClipImageEncoder.load(tmp_path)
    assert "\n" not in str(caught.value)


# OpenAI's files


@pytest.fixture(scope="module")
def openai_clip() -> clips.OpenAIClip:
    torch.manual_seed(3)
    return clips.shaken(clips.OpenAIClip())


@pytest.mark.parametrize("form", ["archive", "half archive", "state dict", "wrapped"])
def test_openais_files_give_what_their_module_gives(openai_clip, tmp_path, form):
    path = tmp_path / "ViT-B-32.pt"
    if form == "archive":
        torch.jit.script(openai_clip).save(str(path))
    elif form == "half archive":
        module = clips.OpenAIClip()
        module.load_state_dict(openai_clip.state_dict())
        torch.jit.script(module.half()).save(str(path))
    else:
        state = openai_clip.state_dict()
        torch.save(state if form == "state dict" else {"epoch": 1, "state_dict": state}, path)
    encoder, raw = (ClipImageEncoder.load(path, final_norm=norm) for norm in (True, False))
    assert encoder.name == str(path)
    exact = EXACT if "half" not in form else dict(rtol=0.02, atol=0.02)
    with torch.no_grad():
        tokens = openai_clip.visual.tokens(pictures())[:, 1:]
        image = openai_clip.visual(pictures())
        ids = open_clip.SimpleTokenizer()(clips.TEXTS[:2])
        text = openai_clip.encode_text(ids)
    torch.testing.assert_close(raw.encode(pictures()).tokens, tokens, **exact)
    torch.testing.assert_close(encoder.encode(pictures()).tokens, openai_clip.visual.ln_post(tokens).detach(), **exact)
    torch.testing.assert_close(encoder.embed_images(pictures()), F.normalize(image, dim=-1), **exact)
    torch.testing.assert_close(encoder.embed_texts(clips.TEXTS[:2]), F.normalize(text, dim=-1), **exact)
    image = clips.picture(50, 40)
    assert torch.equal(encoder.preprocess(image), image_transform_v2(PreprocessCfg(size=clips.SIZE), False)(image))


def test_a_file_that_does_not_say_whose_it_is_is_refused(openai_clip, tmp_path):
    """OpenAI's library and open_clip write the same names, with another activation."""
    state = {name: value for name, value in openai_clip.state_dict().items() if value.ndim or name == "logit_scale"}
    torch.save(state, tmp_path / "a.pt")
    save_file(state, tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        with pytest.raises(ValueError, match="'ViT-B-32-quickgelu/FILE' if OpenAI's library wrote it"):
            ClipImageEncoder.load(tmp_path / name)
    state = {"visual.layer1.0.conv1.weight": torch.zeros(1), "input_resolution": torch.tensor(224)}
    torch.save(state, tmp_path / "RN50.pt")
    with pytest.raises(ValueError, match="ResNet, which has no patch tokens"):
        ClipImageEncoder.load(tmp_path / "RN50.pt")


# One encoder, whatever the form


def as_transformers(state: dict[str, Tensor]) -> CLIPModel:
    """OpenAI's weights in transformers' model, part by part, as its conversion script does."""
    model = CLIPModel(
        clips.clip_config(vocab_size=len(state["token_embedding.weight"]), eos_token_id=2, max_position_embeddings=77)
    ).eval()

    def copy(part: torch.nn.Module, name: str) -> None:
        part.load_state_dict({kind: state[f"{name}.{kind}"] for kind in part.state_dict()})

    def copy_blocks(blocks: torch.nn.ModuleList, name: str) -> None:
        for at, block in enumerate(blocks):
            own = f"{name}.resblocks.{at}"
            for index, part in enumerate((block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj)):
                part.weight.data = state[f"{own}.attn.in_proj_weight"].chunk(3)[index].clone()
                part.bias.data = state[f"{own}.attn.in_proj_bias"].chunk(3)[index].clone()
            copy(block.self_attn.out_proj, f"{own}.attn.out_proj")
            copy(block.layer_norm1, f"{own}.ln_1")
            copy(block.layer_norm2, f"{own}.ln_2")
            copy(block.mlp.fc1, f"{own}.mlp.c_fc")
            copy(block.mlp.fc2, f"{own}.mlp.c_proj")

    vision, text = model.vision_model, model.text_model
    vision.embeddings.class_embedding.data = state["visual.class_embedding"]
    copy(vision.embeddings.patch_embedding, "visual.conv1")
    vision.embeddings.position_embedding.weight.data = state["visual.positional_embedding"]
    copy(vision.pre_layrnorm, "visual.ln_pre")
    copy(vision.post_layernorm, "visual.ln_post")
    copy_blocks(vision.encoder.layers, "visual.transformer")
    copy(text.embeddings.token_embedding, "token_embedding")
    text.embeddings.position_embedding.weight.data = state["positional_embedding"]
    copy(text.final_layer_norm, "ln_final")
    copy_blocks(text.encoder.layers, "transformer")
    model.visual_projection.weight.data = state["visual.proj"].T.contiguous()
    model.text_projection.weight.data = state["text_projection"].T.contiguous()
    model.logit_scale.data = state["logit_scale"]
    return model


def test_the_same_weights_in_three_forms_are_the_same_encoder(openai_clip, tmp_path):
    torch.jit.script(openai_clip).save(str(tmp_path / "ViT-B-32.pt"))
    state = {name: value.detach().clone() for name, value in openai_clip.state_dict().items()}
    clips.save_clip(tmp_path / "transformers", as_transformers(state))
    weights = {name: value for name, value in state.items() if value.ndim or name == "logit_scale"}
    config = {
        "embed_dim": clips.EMBEDDING, "quick_gelu": True,
        "vision_cfg": {"image_size": clips.SIZE, "layers": 2, "width": clips.WIDTH, "patch_size": clips.PATCH},
        "text_cfg": {
            "context_length": 77, "vocab_size": len(state["token_embedding.weight"]),
            "width": clips.TEXT_WIDTH, "heads": 1, "layers": 2,
        },
    }  # fmt: skip
    (tmp_path / "open_clip").mkdir()
    (tmp_path / "open_clip/open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(weights, tmp_path / "open_clip/open_clip_model.safetensors")
    places = ["ViT-B-32.pt", "transformers", "open_clip"]
    found = [ClipImageEncoder.load(tmp_path / place) for place in places]
    assert len({encoder.fingerprint() for encoder in found}) == 1
    tokens = [encoder.encode(pictures()).tokens for encoder in found]
    assert torch.equal(tokens[0], tokens[1]) and torch.equal(tokens[1], tokens[2])
    assert ClipImageEncoder.load(tmp_path / "transformers", final_norm=False).fingerprint() != found[0].fingerprint()


# Names: folders, hub ids, saved models


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A cache of the hub without a network, to be filled by `cached`."""
    folder = tmp_path / "hub"
    for place in ("huggingface_hub.constants.HF_HUB_CACHE", "transformers.utils.hub.constants.HF_HUB_CACHE"):
        monkeypatch.setattr(place, str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


def cached(hub: Path, name: str) -> Path:
    """The folder of a hub id in the cache."""
    repository = hub / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("1" * 40)
    snapshot = repository / "snapshots" / ("1" * 40)
    snapshot.mkdir(parents=True)
    return snapshot


@pytest.mark.parametrize("form", ["clip", "siglip"])
def test_a_hub_id_of_transformers_is_its_folder(hub, tmp_path, form):
    snapshot = cached(hub, f"somebody/{form}-tiny")
    save = clips.save_clip if form == "clip" else clips.save_siglip
    save(snapshot)
    shutil.copytree(snapshot, tmp_path / "here")
    there, here = ClipImageEncoder.load(f"somebody/{form}-tiny"), ClipImageEncoder.load(tmp_path / "here")
    assert there.name == f"somebody/{form}-tiny" and there.fingerprint() == here.fingerprint()
    assert torch.equal(there.embed_texts(clips.TEXTS[:1]), here.embed_texts(clips.TEXTS[:1]))


def open_clip_folder(folder: Path) -> None:
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    model = open_clip.CLIP(**config)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )


def test_a_hub_id_with_both_layouts_is_open_clips(hub, tmp_path):
    """As LAION's have; in a folder too. The name may say hf-hub, as open_clip's own do."""
    snapshot = cached(hub, "laion/both")
    clips.save_clip(snapshot)
    open_clip_folder(snapshot)
    shutil.copytree(snapshot, tmp_path / "here")
    found = [ClipImageEncoder.load(name) for name in ("laion/both", "hf-hub:laion/both", tmp_path / "here")]
    assert {encoder.dim for encoder in found} == {64} and len({encoder.fingerprint() for encoder in found}) == 1
    assert found[0].name == "laion/both"


def test_what_is_missing_is_named(hub, tmp_path):
    with pytest.raises(
        FileNotFoundError, match="neither open_clip_config.json nor config.json.*connect to the network"
    ):
        ClipImageEncoder.load("somebody/nothing")
    cached(hub, "apple/MobileCLIP-S1")
    with pytest.raises(FileNotFoundError, match="neither open_clip_config.json nor config.json"):
        ClipImageEncoder.load("apple/MobileCLIP-S1")
    snapshot = cached(hub, "somebody/half")  # a download that stopped
    clips.save_clip(snapshot)
    for name in ("model.safetensors", "preprocessor_config.json"):
        (snapshot / name).unlink()
        with pytest.raises(FileNotFoundError, match="somebody/half.*(safetensors|preprocessor_config.json)"):
            ClipImageEncoder.load("somebody/half")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="neither open_clip_config.json nor transformers' config.json"):
        ClipImageEncoder.load(tmp_path / "empty")


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (
            "GatedRepoError",
            "some/one is gated: accept its terms on its page of the hub, then log in",
        ),
        (
            "RepositoryNotFoundError",
            "'some/one' is no folder here, and no model of the hub",
        ),
        ("HfHubHTTPError", "the hub did not give some/one"),
    ],
)
def test_what_the_hub_answers_is_one_line_that_says_what_to_do(monkeypatch, kind, why):
    def answer(*args: object, **kwargs: object) -> str:
        response = SimpleNamespace(headers={}, request=None)  # what an error reads of it
        raise getattr(huggingface_hub.errors, kind)("broken\nfor reasons", response=response)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", answer)
    with pytest.raises(FileNotFoundError, match=re.escape(why)) as caught:
        ClipImageEncoder.load("some/one")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (dict(model_type="siglip2"), "NaFlex.*such as google/siglip2-base-patch16-224"),
        (dict(model_type="chinese_clip"), "model_type is 'chinese_clip'; .*clip and siglip"),
        (dict(model_type="clip_vision_model"), "model_type is 'clip_vision_model'"),
        (dict(model_type=None), "model_type is None"),
        (dict(vision_config__hidden_act="relu"), "activation is 'relu'"),
        (dict(text_config__hidden_act="gelu"), "QuickGELU in one tower alone"),
        (
            dict(vision_config__num_hidden_layers=3),
            "weights lack 16 tensors of its config, first vision_model.encoder.layers.2",
        ),
        (dict(vision_config__hidden_size=64), "weights lack .* tensors of its config, first v"),
        (dict(projection_dim="wide"), "projection_dim"),
    ],
    ids=str,
)
def test_other_models_of_transformers_are_refused_in_one_line(tmp_path, changes, why):
    clips.save_clip(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name, value in changes.items():
        section, _, key = name.rpartition("__")
        (config[section] if section else config)[key] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=why) as caught:
        ClipImageEncoder.load(tmp_path)
    assert "cannot be loaded" in str(caught.value)


def test_siglips_without_a_head_or_with_other_files_are_refused(tmp_path):
    clips.save_siglip(tmp_path)
    file = tmp_path / "config.json"
    whole = json.loads(file.read_text())
    file.write_text(json.dumps(whole | {"vision_config": whole["vision_config"] | {"vision_use_head": False}}))
    with pytest.raises(ValueError, match="no head"):
        ClipImageEncoder.load(tmp_path)
    file.write_text("{")
    with pytest.raises(ValueError, match="cannot be loaded"):
        ClipImageEncoder.load(tmp_path)


@pytest.mark.parametrize("form", ["clip", "siglip", "openai", "hub", "hub of open_clip"])
def test_a_saved_model_finds_its_clip_again_and_takes_it_along(tmp_path, hub, openai_clip, form):
    """By its name, and from a bundle when nothing else is left."""
    if form == "openai":
        place = tmp_path / "ViT-B-32.pt"
        torch.jit.script(openai_clip).save(str(place))
    else:
        place = cached(hub, "somebody/eyes") if "hub" in form else tmp_path / "eyes"
        place.mkdir(exist_ok=True)
        save = {"siglip": clips.save_siglip, "hub of open_clip": open_clip_folder}.get(form, clips.save_clip)
        save(place)
    name = "somebody/eyes" if "hub" in form else str(place)
    model = mmlm.assemble(
        families.language_model("llama"), name, tokenizer=families.tokenizer(), resampler=parts.RESAMPLER,
        fusion=parts.fusion(),
    )  # fmt: skip
    picture = clips.picture(50, 40)
    caption, texts = model.caption(picture, max_new_tokens=4), model.encoders["image"].embed_texts(clips.TEXTS[:1])
    host = dict(language_model=families.language_model("llama"), tokenizer=families.tokenizer())
    assert model.encoders["image"].name == name
    again = mmlm.load(model.save(tmp_path / "named"), **host)
    assert again.encoders["image"].name == name and again.caption(picture, max_new_tokens=4) == caption
    model.save(tmp_path / "bundle", bundle=True)
    shutil.rmtree(hub, ignore_errors=True)
    place.unlink() if place.is_file() else shutil.rmtree(place, ignore_errors=True)
    shutil.move(tmp_path / "bundle", tmp_path / "elsewhere")
    bundled = mmlm.load(tmp_path / "elsewhere")
    assert bundled.encoders["image"].name.startswith(str(tmp_path / "elsewhere"))
    assert bundled.encoders["image"].fingerprint() == model.encoders["image"].fingerprint()
    assert bundled.caption(picture, max_new_tokens=4) == caption
    assert torch.equal(bundled.encoders["image"].embed_texts(clips.TEXTS[:1]), texts)


def test_demonstrations_are_chosen_with_a_siglip(tmp_path):
    clips.save_siglip(tmp_path / "eyes")
    encoder = ClipImageEncoder.load(tmp_path / "eyes")
    files = [tmp_path / f"{at}.png" for at in range(3)]
    for at, file in enumerate(files):
        clips.picture(40 + 20 * at, 40, seed=at).save(file)
    records = [Record(file.name, file.read_bytes(), captions=(file.name,)) for file in files]
    assert Rices(encoder, records).nearest(files[1], 1)[0].key == "1.png"
