"""Whispers in the forms that people have: each is what its own library computes, or is refused by its name."""

import json
import os
import shutil
from pathlib import Path

import pytest
import soundfile
import torch
import whisper
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
)

from encoders.media import SAMPLE_RATE
from encoders.model_files import ModelFiles
from encoders.transcription import transcriber
from encoders.transcription.transcriber import Transcriber
from encoders.whisper import WhisperAudioEncoder, load_whisper
from encoders.whisper_forms.vocabulary import check_vocabulary
from mmlm.assembly.assemble import assemble
from mmlm.assembly.load import load
from mmlm.cli import main
from support import families, parts
from support.hearing import noise, save_whisper
from support.whisper_forms import ctranslate2_file, letters, save_ctranslate2, save_upstream, upstream, write_json

ROOT = Path(__file__).parents[1]
SHAPES = {
    "multilingual": {},
    "English": dict(vocab_size=51864),
    "large-v3": dict(vocab_size=51866, num_mel_bins=128),
    "distil-whisper": dict(encoder_layers=3, decoder_layers=1),
}


@torch.no_grad()
def check_equal(model: whisper.Whisper, expected: WhisperForConditionalGeneration) -> None:
    """The same tokens of a sound and the same logits of a text, within 1e-5 of what is at most about 10."""
    sizes = expected.config
    mel = torch.randn(1, sizes.num_mel_bins, 2 * sizes.max_source_positions)
    ids = torch.randint(0, sizes.vocab_size, (1, 7))
    theirs = expected(input_features=mel, decoder_input_ids=ids)
    heard = model.encoder(mel)
    torch.testing.assert_close(heard, theirs.encoder_last_hidden_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.decoder(ids, heard), theirs.logits, atol=1e-5, rtol=1e-5)
    assert theirs.logits.std() > 0.1 and heard.std() > 0.1  # there is something to compare


def fingerprint(name: object) -> str:
    return WhisperAudioEncoder(load_whisper(str(name))).fingerprint()


# ---- transformers


@pytest.mark.parametrize(
    ("shape", "form"),
    [
        *((shape, "safetensors") for shape in SHAPES),
        *(("multilingual", form) for form in ("safetensors shards", "bin", "bin shards", "bin old")),
    ],
)
def test_a_folder_of_transformers_computes_what_transformers_computes(tmp_path, shape, form):
    model = upstream(**SHAPES[shape])
    save_upstream(model, tmp_path, form)
    assert (tmp_path / "model.safetensors").exists() == (form == "safetensors")
    loaded = load_whisper(tmp_path)
    check_equal(loaded, model)
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_become_float32(tmp_path, dtype):
    save_upstream(upstream().to(dtype), tmp_path)
    loaded = load_whisper(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    check_equal(loaded, WhisperForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32))


def test_a_model_without_its_output_layer_is_whole(tmp_path):
    """WhisperModel, of which the output is the token embedding; its names have no "model." before them."""
    model = upstream()
    model.model.save_pretrained(tmp_path)
    check_equal(load_whisper(tmp_path), model)


# ---- CTranslate2


@pytest.mark.parametrize(
    "form", ["float32", "float16", "bfloat16", "int8_float32", "int8_float16", "int8_bfloat16", "int16"]
)
def test_a_folder_of_ctranslate2_computes_what_its_weights_stand_for(tmp_path, form):
    model, exact = upstream(), upstream()
    save_ctranslate2(model, tmp_path, form)
    loaded = load_whisper(tmp_path)
    check_equal(loaded, model)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    for name, parameter in exact.named_parameters():  # what the support code rounds to is near what it was given
        torch.testing.assert_close(model.get_parameter(name), parameter, atol=0.03, rtol=0.01)


@pytest.mark.parametrize("shape", SHAPES)
def test_ctranslate2_has_every_shape(tmp_path, shape):
    model = upstream(**SHAPES[shape])
    check_equal(load_whisper(save_ctranslate2(model, tmp_path, "float32")), model)


@settings(deadline=None, max_examples=25)
@given(st.floats(0, 1, exclude_max=True))
@example(0.0)
@example(1 - 2**-53)  # all but the last byte
def test_a_part_of_a_file_is_a_plain_error(tmp_path_factory, part):
    whole = WHOLE or WHOLE.append(save_ctranslate2(upstream(), tmp_path_factory.mktemp("whole"))) or WHOLE
    folder = tmp_path_factory.mktemp("part")
    shutil.copy(whole[0] / "config.json", folder)
    data = (whole[0] / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(data[: int(part * len(data))])
    with pytest.raises(ValueError, match="damaged, or half a download|lack"):
        load_whisper(folder)


WHOLE: list[Path] = []


# ---- one model


def test_a_model_has_one_fingerprint_in_all_forms(tmp_path):
    model = upstream().half().float()  # values that each form can hold
    save_upstream(model, tmp_path / "a")
    save_upstream(model.half(), tmp_path / "b", "bin shards")
    save_ctranslate2(model.float(), tmp_path / "c", "float16")
    save_whisper(load_whisper(tmp_path / "a"), tmp_path / "d.pt")
    assert len({fingerprint(tmp_path / name) for name in ("a", "b", "c", "d.pt")}) == 1
    save_ctranslate2(model, tmp_path / "e", "int8")
    assert fingerprint(tmp_path / "e") != fingerprint(tmp_path / "a")  # other weights


def test_a_saved_model_loads_its_whisper_from_the_folder_or_takes_it_along(tmp_path, monkeypatch, recwarn):
    monkeypatch.chdir(tmp_path)
    save_upstream(upstream(), tmp_path / "ears")
    write_json(
        tmp_path / "ears/generation_config.json", {"suppress_tokens": [5, 7], "alignment_heads": [[1, 2], [0, 3]]}
    )
    families.language_model("llama").save_pretrained("lm")
    families.tokenizer().save_pretrained("lm")
    model = assemble("lm", audio_encoder="ears", audio_resampler=parts.EARS["latents"], fusion=parts.fusion())
    assert model.encoders["audio"].name == str(tmp_path / "ears")
    model.save("model")
    model.save("bundle", bundle=True)
    assert json.loads((tmp_path / "model/config.json").read_text())["audio_encoder"]["name"] == "../ears"
    named = load("model").encoders["audio"].model
    shutil.rmtree(tmp_path / "ears")
    bundled = load("bundle").encoders["audio"].model
    for found in (named, bundled):
        assert found.suppress_tokens.tolist() == [5, 7]
        assert found.alignment_heads.coalesce().indices().T.tolist() == [[0, 3], [1, 2]]
    assert not [one for one in recwarn if "fingerprint" in str(one.message)]
    # openai-whisper itself reads the bundled file, too.
    check_equal(whisper.load_model(str(tmp_path / "bundle/audio_encoder.pt")).float(), upstream())


# ---- what the makers of a model say beside its weights


@pytest.fixture
def content_with_anything(monkeypatch) -> None:
    """What random weights write is taken as it is, where it would be tried again or left out."""
    for name, value in (("NO_SPEECH", 2.0), ("LOG_PROBABILITY", -1e9), ("COMPRESSION_RATIO", 1e9)):
        monkeypatch.setattr(transcriber, name, value)


def test_what_is_suppressed_is_never_written(tmp_path, content_with_anything):
    """Every second word, by the form's own settings; a model without any writes those, too."""
    ids = list(range(0, 50257, 2))
    model = upstream(max_source_positions=1500)
    with torch.no_grad():
        model.model.decoder.embed_tokens.weight.mul_(4)  # surer of its words than of a timestamp
    save_upstream(model, tmp_path / "hf")
    write_json(tmp_path / "hf/generation_config.json", {"suppress_tokens": ids})
    save_ctranslate2(model, tmp_path / "ct2", "float32", suppress_ids=ids)
    save_upstream(model, tmp_path / "old")  # of 2022
    (tmp_path / "old/generation_config.json").unlink()
    config = json.loads((tmp_path / "old/config.json").read_text())
    write_json(tmp_path / "old/config.json", {**config, "suppress_tokens": ids})
    save_upstream(model, tmp_path / "plain")

    def written(name: str) -> list[int]:
        own = Transcriber(load_whisper(tmp_path / name))
        options = dict(language="en", temperatures=(1.0,))
        said = [own.transcribe((noise(0.2), SAMPLE_RATE), seed=seed, **options) for seed in range(3)]
        tokens = [token for one in said for segment in one.segments for token in segment.tokens]
        return [token for token in tokens if token < 50257]

    found = written("hf")
    assert found and not {*found} & {*ids}
    assert written("ct2") == written("old") == found
    assert {*written("plain")} & {*ids}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([[0, 1], [1, 3]], [[0, 1], [1, 3]]),
        (None, [[1, head] for head in range(4)]),  # openai-whisper's default: the last half of the layers
        ([[0, 1], [9, 3]], [[1, head] for head in range(4)]),  # of the model that this one was distilled from
    ],
)
def test_heads_that_time_words_are_the_makers(tmp_path, given, expected):
    model = upstream()
    save_upstream(model, tmp_path / "hf")
    write_json(tmp_path / "hf/generation_config.json", {"alignment_heads": given})
    save_ctranslate2(model, tmp_path / "ct2", alignment_heads=given)
    for name in ("hf", "ct2"):
        heads = load_whisper(tmp_path / name).alignment_heads
        assert heads.coalesce().indices().T.tolist() == expected


@pytest.mark.parametrize("said", [{"suppress_tokens": "all"}, {"suppress_tokens": [60000]}, {"alignment_heads": [3]},
                                  {"alignment_heads": [[0, "x"]]}, {"suppress_tokens": [-1]}], ids=str)  # fmt: skip
def test_what_makes_no_sense_is_told(tmp_path, said):
    save_upstream(upstream(), tmp_path)
    write_json(tmp_path / "generation_config.json", said)
    with pytest.raises(ValueError, match="cannot load a Whisper.*(suppress|alignment_heads)"):
        load_whisper(tmp_path)


# ---- tokens


def write_tokens(path: Path, tokens: list[str]) -> None:
    words = {text: number for number, text in enumerate(tokens[:50257])}
    added = {text: number for number, text in enumerate(tokens) if number >= 50257}
    if path.name == "tokenizer.json":
        listed = [{"content": text, "id": number} for text, number in added.items()]
        write_json(path, {"model": {"vocab": words}, "added_tokens": listed})
    elif path.name == "vocab.json":
        write_json(path, words)
        write_json(path.parent / "added_tokens.json", added)
    elif path.name == "vocabulary.json":
        write_json(path, tokens)
    else:
        path.write_text("\n".join(tokens) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("size", "file"),
    [(51865, "tokenizer.json"), (51864, "vocab.json"), (51866, "vocabulary.json"), (51864, "vocabulary.txt")],
)
def test_other_tokens_are_told(tmp_path, size, file):
    spelled, files = letters(size), ModelFiles(str(tmp_path))
    write_tokens(tmp_path / file, spelled)
    check_vocabulary(files, size)
    older = {"<|nospeech|>": "<|nocaptions|>", "<|he|>": "<|iw|>"}  # names in transformers
    write_tokens(tmp_path / file, [older.get(text, text) for text in spelled])
    check_vocabulary(files, size)
    for place, other in ((1000, "Ġmmlm"), (size - 1501, "<|mine|>")):
        write_tokens(tmp_path / file, [*spelled[:place], other, *spelled[place + 1 :]])
        with pytest.raises(ValueError, match=f"tokenizer .{file}. is not openai-whisper's: token {place} is '"):
            check_vocabulary(files, size)
    write_tokens(tmp_path / file, [*spelled, "<|mine|>"])
    with pytest.raises(ValueError, match=f"token {size} is '<.mine.>', where there is none"):
        check_vocabulary(files, size)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:1000])
    with pytest.raises(ValueError, match="tokenizer .* is (damaged|not openai-whisper's)"):
        check_vocabulary(files, size)


@pytest.mark.parametrize(("save", "file"), [(save_upstream, "vocab.json"), (save_ctranslate2, "vocabulary.json")])
def test_a_model_with_other_tokens_is_refused(tmp_path, save, file):
    save(upstream(), tmp_path)
    tokens = letters(51865)
    write_tokens(tmp_path / file, tokens)
    load_whisper(tmp_path)
    tokens[7], tokens[8] = tokens[8], tokens[7]
    write_tokens(tmp_path / file, tokens)
    with pytest.raises(ValueError, match="is not openai-whisper's: token 7 is.*Use it with the library that made it"):
        load_whisper(tmp_path)


def test_rows_for_more_tokens_are_refused(tmp_path):
    save_upstream(upstream(vocab_size=51870), tmp_path)
    with pytest.raises(ValueError, match="has 51,870 tokens, and openai-whisper's have 51,864"):
        load_whisper(tmp_path)


# ---- forms that are not read


def other_network(folder: Path) -> None:
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7)
    Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=32, num_conv_pos_embedding_groups=2, **sizes)).save_pretrained(folder)


def classifier(folder: Path) -> None:
    config = WhisperConfig(d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=64, num_labels=3)
    WhisperForAudioClassification(config).save_pretrained(folder)


def change_config(folder: Path, **values: object) -> None:
    save_upstream(upstream(), folder)
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, **values})


def without(folder: Path, *files: str, form: str = "safetensors") -> None:
    save_upstream(upstream(), folder, form)
    for file in files:
        (folder / file).unlink()


def instead(folder: Path, name: str, data: bytes = b"") -> None:
    without(folder, "model.safetensors")
    (folder / name).write_bytes(data)


def untied(folder: Path) -> None:
    save_upstream(upstream(), folder)
    state = load_file(folder / "model.safetensors")
    save_file({**state, "proj_out.weight": torch.ones(51865, 32)}, folder / "model.safetensors", {"format": "pt"})


def quantised(folder: Path) -> None:
    save_upstream(upstream(), folder)
    state = load_file(folder / "model.safetensors")
    name = "model.decoder.layers.0.fc1.weight"
    save_file({**state, name: state[name].to(torch.int8)}, folder / "model.safetensors", {"format": "pt"})


def adapter(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    write_json(folder / "adapter_config.json", {"peft_type": "LORA"})
    (folder / "adapter_model.safetensors").touch()


def ctranslate2(folder: Path, **options: object) -> None:
    save_ctranslate2(upstream(), folder)
    if options:
        (folder / "model.bin").write_bytes(ctranslate2_file({}, {}, **options))


OTHERS = {
    "wav2vec2": (other_network, ValueError, "it is a Wav2Vec2ForCTC, no Whisper: give one, such as"),
    "classifier": (classifier, ValueError, "it is a WhisperForAudioClassification, without"),
    "Flax": (lambda f: instead(f, "flax_model.msgpack"), ValueError, "it is Flax, which is not read: take the same"),
    "TensorFlow": (lambda f: instead(f, "tf_model.h5"), ValueError, "it is TensorFlow, which"),
    "ONNX": (lambda f: instead(f, "encoder_model.onnx"), ValueError, "it is ONNX, which"),
    "OpenVINO": (lambda f: instead(f, "openvino_encoder_model.xml"), ValueError, "it is OpenVINO, which"),
    "MLX": (lambda f: instead(f, "weights.npz"), ValueError, "it is MLX, which"),
    "peft": (adapter, ValueError, "an adapter of peft, which is not read: merge it.*merge_and_unload"),
    "quantised": (lambda f: change_config(f, quantization_config={"load_in_8bit": True}), ValueError, "are quantised"),
    "integers": (quantised, ValueError, "quantised in a way that is not read .torch.int8"),
    "another activation": (lambda f: change_config(f, activation_function="relu"), ValueError, "is 'relu', and"),
    "two models": (lambda f: change_config(f, encoder_layers=4), ValueError, "says encoder_layers 4, its weights 2"),
    "heads": (lambda f: change_config(f, decoder_attention_heads=5), ValueError, "5 heads do not divide its"),
    "no heads": (lambda f: change_config(f, decoder_attention_heads=None), ValueError, "None heads do not divide"),
    "output": (untied, ValueError, "its output layer is another one than its token embedding"),
    "no config": (lambda f: without(f, "config.json"), FileNotFoundError, "lacks config.json"),
    "no weights": (lambda f: without(f, "model.safetensors"), FileNotFoundError, r"lacks model.safetensors \(or"),
    "no shard": (
        lambda f: without(f, "pytorch_model-00002-of-00002.bin", form="bin shards"),
        FileNotFoundError, "lacks pytorch_model-00002-of-00002.bin",
    ),
    "shard elsewhere": (
        lambda f: (without(f, "model.safetensors"),
                   write_json(f / "model.safetensors.index.json", {"weight_map": {"a": "../a.safetensors"}})),
        ValueError, "names no files beside it",
    ),
    "damaged config": (lambda f: (without(f), (f / "config.json").write_text("{")), ValueError, "config.json is dam"),
    "damaged weights": (
        lambda f: (without(f), (f / "model.safetensors").write_bytes(b"\0" * 100)), ValueError, "cannot load a Whisper"
    ),
    "a saved model": (
        lambda f: (f.mkdir(exist_ok=True), write_json(f / "config.json", {"language_model": {}})),
        ValueError, "names no model_type, and it has no model.bin",
    ),
    "CTranslate2's other kinds": (lambda f: ctranslate2(f, kind="Wav2Vec2Spec"), ValueError, "is a Wav2Vec2Spec of"),
    "CTranslate2's old versions": (lambda f: ctranslate2(f, version=3), ValueError, "version 3: convert.* again"),
    "CTranslate2 of nothing": (lambda f: ctranslate2(f, version=6), ValueError, "weights lack encoder.conv1.weight"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_forms_are_refused_by_their_names_in_one_line(tmp_path, name):
    make, kind, reason = OTHERS[name]
    make(tmp_path)
    with pytest.raises(kind, match=reason) as caught:
        load_whisper(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("ggml-base.bin", b"lmgg", "it is whisper.cpp .GGML., which is not read"),
        ("my.model", b"lmgg", "it is whisper.cpp .GGML., which"),
        ("base.gguf", b"GGUF", "it is GGUF, which"),
        ("encoder.onnx", b"\x08\x07", "it is ONNX, which"),
        ("flax_model.msgpack", b"\x80", "it is Flax, which"),
        ("other.pt", b"\x80\x02", "It must be a file as openai-whisper writes them"),
    ],
)
def test_other_files_are_refused_by_their_names(tmp_path, name, data, reason):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=reason):
        load_whisper(tmp_path / name)


def test_a_part_of_a_folder_points_at_the_folder(tmp_path):
    save_upstream(upstream(), tmp_path / "a")
    save_upstream(upstream(), tmp_path / "b", "bin")
    save_ctranslate2(upstream(), tmp_path / "c")
    for file in ("a/model.safetensors", "b/pytorch_model.bin", "c/model.bin"):
        with pytest.raises(ValueError, match=f"give the folder '{tmp_path / file[0]}'"):
            load_whisper(tmp_path / file)


# ---- the hub


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The hub's cache with one model in it, as huggingface_hub lays it out, and nothing else to be had."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--someone--ears"
    (home / "refs").mkdir(parents=True)
    (home / "refs/main").write_text("abc")
    return home / "snapshots/abc"


@pytest.mark.parametrize("form", ["transformers", "CTranslate2"])
def test_a_hub_id_is_loaded_and_remembered(cache, form):
    model = upstream()
    if form == "transformers":
        save_upstream(model, cache, "safetensors shards")
    else:
        save_ctranslate2(model, cache)
    encoder = WhisperAudioEncoder.load("someone/ears")
    check_equal(encoder.model, model)
    assert encoder.name == "someone/ears"


def test_half_a_cache_says_what_is_lacking(cache):
    save_upstream(upstream(), cache)
    (cache / "model.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match="someone/ears lacks model.safetensors .*in the cache, and with HF_HUB_OFF"
    ):
        load_whisper("someone/ears")
    with pytest.raises(FileNotFoundError, match="someone/else lacks config.json in the cache"):
        load_whisper("someone/else")


def test_a_folder_comes_before_the_hub(cache, monkeypatch):
    monkeypatch.chdir(cache.parents[2])
    save_upstream(upstream(1), cache)
    save_upstream(upstream(2), Path("someone/ears"))
    check_equal(load_whisper("someone/ears"), upstream(2))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("GatedRepoError", "someone/ears is gated: accept its terms.*hf auth login.*HF_TOKEN"),
        ("RepositoryNotFoundError", "'someone/ears' is no folder here, and no model of the hub.*if it is private"),
        ("LocalEntryNotFoundError", "someone/ears is not in the cache .*cannot be reached: connect to the network"),
        ("EntryNotFoundError", "someone/ears lacks config.json on the hub"),
    ],
)
def test_what_the_hub_says_is_one_line_that_says_what_to_do(monkeypatch, error, reason):
    import huggingface_hub.errors

    kind = getattr(huggingface_hub.errors, error)

    def fails(*args: object, **kwargs: object) -> str:
        raised = kind.__new__(kind)  # without the answer of a server
        raised.args = ("403 Client Error.\n\nmore lines",)
        raise raised

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fails)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fails)
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    with pytest.raises(FileNotFoundError, match=reason) as caught:
        load_whisper("someone/ears")
    assert "\n" not in str(caught.value)


def test_names_that_are_none_are_told():
    for name in ("enormous", "whisper/enormous", "no/such/folder", "/no/such/folder"):
        with pytest.raises(
            ValueError, match="neither a file nor a folder, a hub id or a Whisper model; the models: .*tiny"
        ):
            load_whisper(name)


# ---- the command line


def test_the_command_line_takes_every_form(tmp_path, capsys, content_with_anything):
    model = upstream(max_source_positions=1500)
    save_upstream(model, tmp_path / "hf")
    save_ctranslate2(model, tmp_path / "ct2", "float32")
    save_whisper(load_whisper(tmp_path / "hf"), tmp_path / "own.pt")
    sound = tmp_path / "a.wav"
    soundfile.write(sound, noise(0.5), SAMPLE_RATE)
    said = []
    for name in ("hf", "ct2", "own.pt"):
        assert main(["transcribe", str(sound), "--model", str(tmp_path / name), "--language", "en", "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out)["text"])
    assert said[0] == said[1] == said[2] and said[0].strip()
    (tmp_path / "hf/config.json").unlink()
    assert main(["transcribe", str(sound), "--model", str(tmp_path / "hf")]) == 2
    assert "lacks config.json" in capsys.readouterr().err


# ---- real weights


@pytest.fixture(scope="module")
def real() -> Path:
    folder = Path(os.environ.get("MMLM_REAL", ROOT.parent / "shared/real"))
    names = (
        "whisper-base.pt",
        "hf-whisper-base",
        "faster-whisper-base",
        "whisper-tiny.en.pt",
        "faster-whisper-tiny.en",
    )
    if not all((folder / name).exists() for name in names):
        pytest.skip(f"no real Whispers in {folder}: set MMLM_REAL to a folder that holds {', '.join(names)}")
    return folder


@pytest.mark.parametrize(
    "names",
    [["whisper-base.pt", "hf-whisper-base", "faster-whisper-base"], ["whisper-tiny.en.pt", "faster-whisper-tiny.en"]],
    ids=["base", "tiny.en"],
)
def test_real_weights_are_one_model_in_all_forms(real, data_folder, names):
    models = [load_whisper(real / name) for name in names]
    assert len({WhisperAudioEncoder(model).fingerprint() for model in models}) == 1
    recordings = sorted((data_folder / "test_inputs").glob("*.flac"))[:2]
    for recording in recordings:
        said = [Transcriber(model).transcribe(recording) for model in models]
        assert said[0].text.strip() and all(one.segments == said[0].segments for one in said)
