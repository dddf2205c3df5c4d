"""OpenFlamingo's checkpoints: the same numbers as a float64 reference, for every family it was trained with."""

import json
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from encoders.clip import ClipImageEncoder
from mmlm.assembly.interop import download, open_flamingo, open_flamingo_eval
from mmlm.assembly.load import load
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.cli import main
from support import families, parts
from support import flamingo_reference as upstream
from support.flamingo_reference import LAYOUTS, Reference

BASE = 257  # tokens of the tokenizer; the language models have 272 rows, as MPT has more than its tokenizer
END, IMAGE = BASE + upstream.END, BASE + upstream.IMAGE
EVERY_FAMILY = pytest.mark.parametrize("family", list(LAYOUTS))


def tokenizer() -> Any:
    made = families.tokenizer()
    made.eos_token = None  # so that texts grow long
    return made


def language_model(family: str) -> torch.nn.Module:
    model = families.language_model(family)
    model.generation_config.eos_token_id = None
    return model


def image_encoder(final_norm: bool = False) -> ClipImageEncoder:
    """A tiny CLIP whose last norm is drawn, so that it matters whether tokens pass it: the released ones did not."""
    made = parts.image_encoder(final_norm=final_norm)
    draw = torch.Generator().manual_seed(4)
    for tensor in made.model.visual.ln_post.parameters():
        tensor.data = tensor.data + torch.randn(tensor.shape, generator=draw)
    return made


def state_dict(family: str, rows: int = BASE + 3) -> dict[str, Tensor]:
    return upstream.checkpoint(language_model(family), LAYOUTS[family], 24, rows)


def reference(family: str, encoder: ClipImageEncoder | None = None) -> Reference:
    return Reference(state_dict(family), language_model(family), LAYOUTS[family], encoder or image_encoder())


def loaded(path: Path, family: str) -> MultimodalLM:
    return open_flamingo.load(path, language_model(family), image_encoder(), tokenizer=tokenizer())


@pytest.fixture
def family() -> str:
    return "llama"


@pytest.fixture
def file(tmp_path, family) -> Path:
    """A checkpoint as released, of the test's family."""
    path = tmp_path / "checkpoint.pt"
    torch.save(OrderedDict(state_dict(family)), path)
    return path


def rows() -> list[tuple[list[int], list[Any], list[Any]]]:
    """Ids, pictures and parts of three rows of unequal length: several pictures, none, and one after text."""
    found = []
    for prompt in parts.prompts():
        ids: list[int] = []
        for part in prompt:
            ids += tokenizer()(part)["input_ids"] if isinstance(part, str) else [IMAGE]
        found.append((ids, [part for part in prompt if not isinstance(part, str)], prompt))
    return found


def known(family: str) -> int:
    """How many logits a file tells: those of added tokens need a head that upstream saves, or ties."""
    return BASE if family in ("llama", "gptj") else BASE + 3


# The same numbers


@EVERY_FAMILY
@torch.no_grad()
def test_logits_are_those_of_the_reference(family, file):
    model, expected = loaded(file, family), reference(family)
    batch, media = parts.encoded(model, [prompt for _, _, prompt in rows()])
    assert not bool(batch.attention_mask.all()), "rows are padded on the left"
    logits = model(batch, media).logits
    for row, (ids, images, _) in enumerate(rows()):
        assert batch.input_ids[row, -len(ids) :].tolist() == ids, "ids are upstream's"
        ours, theirs = logits[row, -len(ids) :, : known(family)], expected.logits(ids, images)[:, : known(family)]
        assert theirs.std() > 0.1
        assert (ours - theirs).abs().max() < 1e-4


@EVERY_FAMILY
@torch.no_grad()
def test_cached_steps_are_those_of_the_reference(family, file):
    model, expected = loaded(file, family), reference(family)
    run = parts.decoder(model, [prompt for _, _, prompt in rows()], 3)
    written = torch.tensor([[10, 20, END], [30, END, 40], [50, 60, 70]])
    logits = [run.prefill(), *(run.step(tokens) for tokens in written[:, :2].T)]
    count = min(known(family), END + 1)
    for row, (ids, images, _) in enumerate(rows()):
        theirs = expected.logits([*ids, *written[row, :2].tolist()], images)
        for step, ours in enumerate(logits):
            assert (ours[row, :count] - theirs[len(ids) - 1 + step, :count]).abs().max() < 1e-4


@EVERY_FAMILY
@torch.no_grad()
def test_beams_are_those_of_the_reference(family, file):
    model, expected = loaded(file, family), reference(family)
    if known(family) == BASE:  # rows of the head that upstream does not save, and draws anew
        expected.lm.get_output_embeddings().weight[BASE:] = model.language_model.added.head.double()
    options = dict(num_beams=3, max_new_tokens=4, length_penalty=0.0)
    stops = model.language_model.stop_ids
    assert stops == [END]
    found = parts.token_ids(model, [prompt for _, _, prompt in rows()], **options)
    theirs = [expected.generate(ids, images, stops, **options) for ids, images, _ in rows()]
    assert found == [parts.until_stop(ids, stops) for ids in theirs]


@torch.no_grad()
def test_greedy_text_differs_by_picture(file):
    model = loaded(file, "llama")
    assert model.caption(parts.picture(1), max_new_tokens=8) != model.caption(parts.picture(2), max_new_tokens=8)


# What a file may look like


def same(model: MultimodalLM, other: MultimodalLM) -> bool:
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def wrapped(state: dict[str, Tensor]) -> dict[str, Any]:
    return {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {"state": {}}, "lr_scheduler_state_dict": {}}


def with_other_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names twice over, frozen parts and buffers of older versions: all that unfiltered files hold."""
    frozen = {
        f"lang_encoder.model.layers.{name.removeprefix('model.layers.').replace('.', '.decoder_layer.', 1)}": tensor
        for name, tensor in language_model("llama").state_dict().items()
        if name.startswith("model.layers.")
    }
    aliases = {
        f"lang_encoder.gated_cross_attn_layers.{name.removeprefix('lang_encoder.model.layers.')}": tensor
        for name, tensor in state.items()
        if "gated" in name
    }
    old = {
        "lang_encoder.model.layers.0.decoder_layer.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "lang_encoder.model.layers.0.decoder_layer.attention.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
        "vision_encoder.class_embedding": torch.ones(24),
    }
    return {**state, **frozen, **aliases, **old}


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        wrapped,
        lambda state: wrapped({f"module.{name}": tensor for name, tensor in state.items()}),
        lambda state: {"model": state},
        lambda state: {
            name.replace("gated_cross_attn_layer.", "gated_cross_attn_layer._checkpoint_wrapped_module."): tensor
            for name, tensor in state.items()
        },
        with_other_keys,
    ],
)
def test_wrappers_prefixes_and_what_else_files_hold(change, file, tmp_path):
    torch.save(change(state_dict("llama")), tmp_path / "other.pt")
    assert same(loaded(tmp_path / "other.pt", "llama"), loaded(file, "llama"))


def test_embedding_rows_are_replaced_as_a_whole_and_cut(file):
    model, state = loaded(file, "llama"), state_dict("llama")
    rows = state["lang_encoder.model.embed_tokens.weight"]
    host = model.language_model
    assert torch.equal(host.model.get_input_embeddings().weight, rows[:BASE])
    assert torch.equal(host.added.embedding, rows[BASE:])
    assert torch.equal(host.model.get_output_embeddings().weight, language_model("llama").lm_head.weight[:BASE])
    assert (host.vocabulary.end_of_chunk_id, host.vocabulary.image_id) == (END, IMAGE)


def test_a_tokenizer_that_can_pad_needs_no_third_row(tmp_path):
    state = state_dict("opt", BASE + 2)
    torch.save(state, tmp_path / "checkpoint.pt")
    model = loaded(tmp_path / "checkpoint.pt", "opt")
    rows = state["lang_encoder.model.decoder.embed_tokens.weight"]
    assert torch.equal(model.language_model.added.embedding[:2], rows[BASE:])
    assert model.language_model.vocabulary.image_id == IMAGE


def test_an_image_encoder_that_norms_its_tokens_is_a_warning(file):
    with pytest.warns(UserWarning, match="before the last norm"):
        open_flamingo.load(file, language_model("llama"), image_encoder(final_norm=True), tokenizer=tokenizer())


# What is refused


def without(name: str):
    return lambda state: {key: tensor for key, tensor in state.items() if not key.endswith(name)}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: {"weights": torch.zeros(2)}, "not an OpenFlamingo checkpoint"),
        (lambda state: [1, 2], "not contain a state dict"),
        (lambda state: {**state, "perceiver.frame_embs": torch.zeros(2, 24)}, "video frames"),
        (without("perceiver.latents"), "lacks latents"),
        (without("embed_tokens.weight"), "lacks the embedding of the language model, model.embed_tokens.weight"),
        (without("layers.1.0.to_out.weight"), "missing resamplers.image.layers.1.0.to_out.weight$"),
        (lambda state: {k: v for k, v in state.items() if ".1.gated" not in k}, r"before blocks \[0, 2\]"),
        (lambda state: state_dict("llama", BASE + 9), "266 rows, but the tokenizer has 257 tokens"),
        (lambda state: upstream.checkpoint(language_model("llama"), LAYOUTS["llama"], 16, BASE + 3), "of size 16"),
        (
            lambda state: {**state, "lang_encoder.model.layers.0.decoder_layer.mlp.up_proj.weight": torch.ones(48, 32)},
            "another language model: its model.layers.0.mlp.up_proj.weight differs",
        ),
    ],
)
def test_a_file_of_something_else_is_a_clear_error(change, message, tmp_path):
    torch.save(change(state_dict("llama")), tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=message):
        loaded(tmp_path / "checkpoint.pt", "llama")


def test_another_language_model_is_found_before_its_weights_are_read(file, folders, monkeypatch):
    path = Path(folders["language_model"], "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 5}))
    monkeypatch.setattr(open_flamingo, "causal_model", None)
    with pytest.raises(ValueError, match="with 5 blocks"):
        open_flamingo.load(file, **folders)


class _Attack:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def test_pickled_code_does_not_run(tmp_path):
    torch.save({"perceiver.latents": _Attack(tmp_path / "made")}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="pickled code is not loaded"):
        open_flamingo.read_checkpoint(tmp_path / "checkpoint.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match="read as a file of tensors"):
        open_flamingo.read_checkpoint(tmp_path / "text.pt")
    with pytest.raises(FileNotFoundError):
        open_flamingo.read_checkpoint(tmp_path / "absent.pt")
    assert not (tmp_path / "made").exists()


# There and back


@EVERY_FAMILY
def test_a_model_written_back_is_the_file_that_was_read(family, file, tmp_path):
    written = open_flamingo.save(loaded(file, family), tmp_path / "again" / "checkpoint.pt")
    ours, theirs = (torch.load(path, weights_only=True) for path in (written, file))
    if family in ("llama", "gptj"):  # a head that upstream's filter leaves out; here its added rows may be trained
        assert ours.pop("lang_encoder.lm_head.weight").shape == (BASE + 3, families.WIDTH)
    if family == "opt":  # what the language model has, or ties, itself
        del theirs["lang_encoder.lm_head.weight"], theirs["lang_encoder.model.decoder.embed_positions.weight"]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [path.name for path in written.parent.iterdir()] == ["checkpoint.pt"]
    assert same(loaded(written, family), loaded(file, family))


@pytest.fixture
def folders(tmp_path) -> dict[str, str]:
    """A language model and a CLIP as folders: what hub ids stand for."""
    language_model("llama").save_pretrained(tmp_path / "lm")
    tokenizer().save_pretrained(tmp_path / "lm")
    return {"language_model": str(tmp_path / "lm"), "image_encoder": image_encoder_folder(tmp_path / "clip")}


def image_encoder_folder(folder: Path) -> str:
    folder.mkdir()
    config = {"embed_dim": 16, "vision_cfg": parts.VISION, "text_cfg": parts.TEXT}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}})
    )
    tensors = {name: tensor.contiguous() for name, tensor in image_encoder().model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    return str(folder)


@pytest.fixture
def photo(tmp_path) -> str:
    parts.picture(1).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def test_convert_writes_a_folder_and_back(file, folders, photo, tmp_path, capsys, recwarn):
    frozen = ["--language-model", folders["language_model"], "--image-encoder", folders["image_encoder"]]
    folder, again = str(tmp_path / "folder"), str(tmp_path / "again.pt")
    assert main(["convert", str(file), folder, *frozen]) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    direct = open_flamingo.load(file, **folders)
    model = load(folder)
    assert same(model, direct)
    batch, media = parts.encoded(model, [rows()[0][2]])
    theirs = reference("llama", model.encoders["image"]).logits(*rows()[0][:2])
    with torch.no_grad():
        assert (model(batch, media).logits[0, :, :BASE] - theirs[:, :BASE]).abs().max() < 1e-4
    assert not [warning for warning in recwarn if "fingerprint" in str(warning.message)]
    assert main(["caption", photo, "--model", folder, "--max-new-tokens", "9"]) == 0
    assert capsys.readouterr().out.split() == direct.caption(Path(photo), max_new_tokens=9).split()
    assert main(["convert", folder, again]) == 0
    assert same(open_flamingo.load(again, **folders), direct)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{file}", "out"], "give it with --language-model"),
        (["nano", "out", "--language-model", "x"], "are for checkpoint files"),
        (["nano", "{folder}.pt"], "is in the way"),
        (["nano", "{file}-not", "--dtype", "bfloat16", "--language-model", "x"], "are for checkpoint files"),
        (["{file}", "out", "--language-model", "/no/such/model", "--image-encoder", "{clip}"], "does not exist"),
    ],
)
def test_convert_says_what_it_lacks(arguments, message, file, tmp_path, capsys):
    (tmp_path / "folder.pt").mkdir()
    clip = image_encoder_folder(tmp_path / "clip")
    places = {"file": file, "folder": tmp_path / "folder", "clip": clip}
    assert main(["convert", *(argument.format(**places) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(), "its attentions need 8 heads"),
        (dict(visibility="all"), "the latest image only"),
        (dict(ears="latents"), "no audio encoder"),
    ],
)
def test_a_model_that_upstream_cannot_hold_is_not_written(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        open_flamingo.save(parts.build("llama", **options), tmp_path / "checkpoint.pt")
    assert not list(tmp_path.iterdir())


def test_trained_rows_of_a_tied_head_cannot_be_written(tmp_path):
    torch.save(state_dict("opt"), tmp_path / "checkpoint.pt")
    model = loaded(tmp_path / "checkpoint.pt", "opt")
    with torch.no_grad():
        model.language_model.added.head += 1
    with pytest.raises(ValueError, match="different rows in the two"):
        open_flamingo.save(model, tmp_path / "other.pt")
    assert model.save(tmp_path / "folder")
    again = load(
        tmp_path / "folder", language_model=language_model("opt"), tokenizer=tokenizer(),
        image_encoder=image_encoder(),
    )  # fmt: skip
    assert same(again, model)


# By name


class Hub:
    """Stands in for the hub: repositories are folders, and a dry run tells what is not cached yet."""

    def __init__(self, folders: dict[str, Path], sizes: dict[str, int]):
        self.folders, self.sizes, self.fetched, self.cached = folders, sizes, [], {"tokenizer.json"}

    def snapshot_download(self, repo: str, allow_patterns: list[str], dry_run: bool = False) -> Any:
        if repo not in self.folders:
            raise OSError("404")
        if not dry_run:
            self.fetched.append((repo, sorted(allow_patterns)))
            return str(self.folders[repo])
        names = [path.name for path in self.folders[repo].iterdir()]
        return [
            SimpleNamespace(filename=name, file_size=self.sizes.get(name), will_download=name not in self.cached)
            for name in names
            if any(Path(name).match(pattern) for pattern in allow_patterns)
        ]


@pytest.fixture
def hub(file, folders, tmp_path, monkeypatch) -> Hub:
    """The parts of openflamingo-3b, tiny, where they would be downloaded from."""
    (tmp_path / "released").mkdir()
    file.rename(tmp_path / "released" / "checkpoint.pt")
    Path(folders["language_model"], "pytorch_model.bin").write_bytes(b"")
    made = Hub(
        {
            "openflamingo/OpenFlamingo-3B-vitl-mpt1b": tmp_path / "released",
            "anas-awadalla/mpt-1b-redpajama-200b": Path(folders["language_model"]),
            "timm/vit_large_patch14_clip_224.openai": Path(folders["image_encoder"]),
        },
        {
            "checkpoint.pt": 4_190_000_000,
            "model.safetensors": 2_600_000,
            "tokenizer.json": 7_000_000_000,
            "open_clip_model.safetensors": 1_710_000_000,
        },
    )
    monkeypatch.setattr("huggingface_hub.snapshot_download", made.snapshot_download)
    return made


def test_a_released_model_by_name_tells_its_size_and_fetches_its_parts(hub, folders, photo, monkeypatch, capsys):
    # Names of the hub are read by transformers and open_clip from the hub's cache: here, from their folders.
    asked = []

    def causal_model(name, tokenizer, dtype):
        asked.append((name, dtype))
        return real_model(folders["language_model"], tokenizer, dtype)

    def image_encoder_of(name, final_norm, dtype):
        if isinstance(name, str):
            asked.append((name, final_norm))
            name = folders["image_encoder"]
        return real_encoder(name, final_norm, dtype)

    real_model, real_encoder = open_flamingo.causal_model, open_flamingo.image_encoder_of
    config = open_flamingo.language_model_config(folders["language_model"])
    monkeypatch.setattr(open_flamingo, "causal_model", causal_model)
    monkeypatch.setattr(open_flamingo, "image_encoder_of", image_encoder_of)
    monkeypatch.setattr(open_flamingo, "language_model_config", lambda name: config)
    assert main(["caption", photo, "--model", "openflamingo-3b", "--dtype", "bfloat16", "--max-new-tokens", "3"]) == 0
    assert asked == [("ViT-L-14/openai", False), ("anas-awadalla/mpt-1b-redpajama-200b", torch.bfloat16)]
    told = capsys.readouterr().err
    assert told.startswith(
        "downloading 5.90 GB: 4.19 GB of openflamingo/OpenFlamingo-3B-vitl-mpt1b, "
        "2.60 MB of anas-awadalla/mpt-1b-redpajama-200b, 1.71 GB of timm/vit_large_patch14_clip_224.openai\n"
    )
    fetched = dict(hub.fetched)
    assert fetched["openflamingo/OpenFlamingo-3B-vitl-mpt1b"] == ["checkpoint.pt"]
    language_model_files = fetched["anas-awadalla/mpt-1b-redpajama-200b"]
    assert "model.safetensors" in language_model_files and "tokenizer.json" in language_model_files
    assert "pytorch_model.bin" not in language_model_files, "weights come in one format"
    assert fetched["timm/vit_large_patch14_clip_224.openai"] == ["open_clip_model.safetensors"]


def test_parts_that_are_given_are_not_downloaded(hub, capsys):
    hub.cached.add("checkpoint.pt")
    model = load(
        "openflamingo-3b", language_model=language_model("llama"), tokenizer=tokenizer(),
        image_encoder=image_encoder(),
    )  # fmt: skip
    assert [repo for repo, _ in hub.fetched] == ["openflamingo/OpenFlamingo-3B-vitl-mpt1b"]
    assert capsys.readouterr().err == "", "nothing is missing, so nothing is told"
    assert model.fusion_config.heads == 8


def test_what_cannot_be_fetched_is_a_clear_error(hub, capsys, photo):
    assert main(["caption", photo, "--model", "openflamingo-9b"]) == 2
    assert "openflamingo/OpenFlamingo-9B-vitl-mpt7b could not be fetched from the hub: 404" in capsys.readouterr().err


def test_without_a_network_the_cache_is_asked(monkeypatch, tmp_path):
    from huggingface_hub.errors import DryRunError

    def offline(repo: str, allow_patterns: list[str], dry_run: bool = False) -> str:
        if dry_run:
            raise DryRunError("offline")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    assert download.fetch({"a/b": ["checkpoint.pt"]}) == {"a/b": tmp_path}


def test_without_a_network_and_without_a_cache_it_says_so():
    """By huggingface_hub itself, which is offline in all tests."""
    with pytest.raises(FileNotFoundError, match="nobody/nothing is not in the cache .* while HF_HUB_OFFLINE is set"):
        download.fetch({"nobody/nothing": ["checkpoint.pt"]})


# MPT-1B


def mosaic_gpt(x: Tensor, state: dict[str, Tensor], heads: int, layers: int) -> Tensor:
    """MosaicGPT in float64 by its own names, ids `[T]` → logits `[T, V]`: ALiBi, whole queries and keys normed."""
    state = {name: tensor.double() for name, tensor in state.items()}

    def norm(name: str, x: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], None, 1e-5)

    x = state["transformer.wte.weight"][x]
    place = torch.arange(len(x))
    distance = place[None, :] - place[:, None]
    for layer in range(layers):
        name = f"transformer.blocks.{layer}"
        q, k, v = (norm(f"{name}.ln_1", x) @ state[f"{name}.attn.Wqkv.weight"].T).chunk(3, -1)
        q, k = norm(f"{name}.attn.q_ln", q), norm(f"{name}.attn.k_ln", k)
        mixed = []
        for head in range(heads):
            qh, kh, vh = (part.chunk(heads, -1)[head] for part in (q, k, v))
            scores = qh @ kh.T / qh.shape[-1] ** 0.5 + distance * 2.0 ** (-8 * (head + 1) / heads)
            mixed.append(scores.masked_fill(distance > 0, -torch.inf).softmax(-1) @ vh)
        x = x + torch.cat(mixed, -1) @ state[f"{name}.attn.out_proj.weight"].T
        up = norm(f"{name}.ln_2", x) @ state[f"{name}.mlp.mlp_up.weight"].T
        x = x + 0.5 * up * (1 + torch.erf(up / 2**0.5)) @ state[f"{name}.mlp.mlp_down.weight"].T
    return norm("transformer.ln_f", x) @ state["transformer.wte.weight"].T


MOSAIC_GPT = {  # the config that comes with mosaicml/mpt-1b-redpajama-200b, made small
    "model_type": "mosaic_gpt", "architectures": ["MosaicGPT"], "alibi": True, "alibi_bias_max": 8, "attn_qk_ln": True,
    "attn_clip_qkv": None, "attn_impl": "torch", "attn_pdrop": 0, "attn_uses_sequence_id": False, "d_model": 32,
    "emb_pdrop": 0, "logit_scale": None, "low_precision_layernorm": True, "max_seq_len": 256, "mlp_ratio": 4,
    "n_heads": 4, "n_layers": 3, "no_bias": True, "prefix_lm": False, "softmax_scale": None, "vocab_size": 272,
    "auto_map": {
        "AutoConfig": "configuration_mosaic_gpt.MosaicGPTConfig", "AutoModelForCausalLM": "mosaic_gpt.MosaicGPT",
    },
    "torch_dtype": "float32", "use_cache": False,
}  # fmt: skip


@pytest.fixture
def mosaic(tmp_path) -> tuple[str, dict[str, Tensor]]:
    """A folder as the hub has it, with the pickled weights that upstream has, and these."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"transformer.wte.weight": (272, 32), "transformer.ln_f.weight": (32,)}
    for layer in range(3):
        own = {
            "ln_1": (32,), "ln_2": (32,), "attn.q_ln": (32,), "attn.k_ln": (32,), "attn.Wqkv": (96, 32),
            "attn.out_proj": (32, 32), "mlp.mlp_up": (128, 32), "mlp.mlp_down": (32, 128),
        }  # fmt: skip
        shapes |= {f"transformer.blocks.{layer}.{name}.weight": shape for name, shape in own.items()}
    state = {
        name: torch.randn(shape, generator=draw) * 0.2 + (1.0 if len(shape) == 1 else 0.0)
        for name, shape in shapes.items()
    }
    folder = tmp_path / "mosaic"
    tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(MOSAIC_GPT))
    torch.save(state, folder / "pytorch_model.bin")
    return str(folder), state


@torch.no_grad()
def test_mpt_1b_gives_the_logits_of_its_own_code(mosaic, capfd):
    folder, state = mosaic
    model, _, _ = open_flamingo.causal_model(folder, None, torch.float32)
    assert "custom code" not in "".join(capfd.readouterr()), "nobody is asked whether to run code of the hub"
    ids = torch.randint(0, 257, (12,), generator=torch.Generator().manual_seed(1))
    expected = mosaic_gpt(ids, state, heads=4, layers=3)
    assert (model(input_ids=ids[None], use_cache=False).logits[0] - expected).abs().max() < 1e-4


@torch.no_grad()
def test_a_checkpoint_on_mpt_1b_loads_by_name(mosaic, tmp_path):
    folder, state = mosaic
    upstream_state = state_dict("mpt")
    torch.save(upstream_state, tmp_path / "checkpoint.pt")
    model = open_flamingo.load(tmp_path / "checkpoint.pt", folder, image_encoder())
    text = "only text, which no gated block may change but by its feed-forward"
    for layer in model.fusion.layers:
        layer.ff_gate.zero_()
    batch, media = parts.encoded(model, [[text]])
    rows = upstream_state["lang_encoder.transformer.wte.weight"]
    ids = torch.tensor(tokenizer()(text)["input_ids"])
    expected = mosaic_gpt(ids, {**state, "transformer.wte.weight": rows}, heads=4, layers=3)
    assert (model(batch, media).logits[0] - expected).abs().max() < 1e-4
    assert open_flamingo.save(model, tmp_path / "again.pt")
    again = torch.load(tmp_path / "again.pt", weights_only=True)
    assert torch.equal(again["lang_encoder.transformer.wte.weight"], rows)


@pytest.mark.parametrize("change", [{"alibi": False}, {"attn_clip_qkv": 6.0}, {"mlp_ratio": 2}, {"no_bias": False}])
def test_a_mosaic_gpt_of_another_make_is_refused(change, mosaic):
    (Path(mosaic[0]) / "config.json").write_text(json.dumps(MOSAIC_GPT | change))
    with pytest.raises(ValueError, match=f"has {next(iter(change))}="):
        open_flamingo.causal_model(mosaic[0], None, torch.float32)


# The evaluation


def upstream_ids(text: str) -> list[int]:
    """Ids of a prompt of upstream's, whose control tokens are written in it."""
    own = families.tokenizer()
    own.add_special_tokens({"additional_special_tokens": ["<|endofchunk|>", "<image>"]})
    return own(text)["input_ids"]


def test_evaluation_prompts_are_upstreams(file):
    processor = loaded(file, "llama").processor
    a, b, c = (parts.picture(seed) for seed in (1, 2, 3))
    captions, questions = [(a, " a cat. "), (b, "two dogs")], [(a, "what is it?", "cat"), (b, "how many?", "2")]
    prompts = {
        "<image>Output:a cat.<|endofchunk|>\n<image>Output:two dogs<|endofchunk|>\n<image>Output:": (
            open_flamingo_eval.caption_prompt(c, captions, 2),
            [a, b, c],
        ),
        "Output:a cat.<|endofchunk|>\nOutput:two dogs<|endofchunk|>\n<image>Output:": (
            open_flamingo_eval.caption_prompt(c, captions, 0),
            [c],
        ),
        "<image>Question:what is it? Short answer:cat<|endofchunk|>\n<image>Question:which? Short answer:": (
            open_flamingo_eval.question_prompt(c, "which?", questions, 1),
            [a, c],
        ),
        "Question:what is it? Short answer:cat<|endofchunk|>\nQuestion:how many? Short answer:2<|endofchunk|>\n"
        "<image>Question:which? Short answer:": (
            open_flamingo_eval.question_prompt(c, "which?", questions, 0),
            [c],
        ),
    }
    for text, (prompt, pictures) in prompts.items():
        example = processor.encode(prompt)
        assert example.input_ids == upstream_ids(text)
        assert [image.source for image in example.media] == pictures
    with pytest.raises(ValueError, match="0 shots need 2 examples, not 1"):
        open_flamingo_eval.caption_prompt(c, captions[:1], 0)


@pytest.mark.parametrize(
    "cut, text, expected",
    [
        (open_flamingo_eval.caption_of, ' a "red" circleOutput: b', " a red circle"),
        (open_flamingo_eval.answer_of, "red Question: what?", "red "),
        (open_flamingo_eval.answer_of, "red, or blue", "red"),
        (open_flamingo_eval.answer_of, "2 Short answer", "2 "),
    ],
)
def test_answers_are_cut_as_upstream_cuts_them(cut, text, expected):
    assert cut(text) == expected
