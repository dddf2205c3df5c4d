"""Configs, save and load: the same bits, only what was added, clear errors, nothing half-written."""

import dataclasses
import fnmatch
import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mmlm.assembly.assemble import assemble
from mmlm.assembly.config import FORMAT_VERSION, FrozenPart, ImageEncoderPart, ModelConfig
from mmlm.assembly.encoders import load_encoders
from mmlm.assembly.extend import extended
from mmlm.assembly.load import load
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.assembly.save import load_added
from mmlm.model.config import FusionConfig, LoraConfig, ResamplerConfig
from mmlm.model.language_model import LanguageModel
from mmlm.prompting.parts import Image
from mmlm.prompting.templates import PromptTemplate
from support import families, parts
from support.parts import expected_names

ROOT = Path(__file__).parents[1]
SIZES = dict(resampler=parts.RESAMPLER, fusion=parts.fusion())


def ready(family: str = "llama", seed: int = 0) -> dict:
    tokenizer = families.tokenizer()
    tokenizer.eos_token = None
    language_model = families.language_model(family, seed)
    language_model.generation_config.eos_token_id = None
    return dict(language_model=language_model, tokenizer=tokenizer, image_encoder=parts.image_encoder(seed))


def logits(model: MultimodalLM) -> torch.Tensor:
    batch, media = parts.encoded(model, parts.prompts())
    with torch.no_grad():
        return model(batch, media).logits


CONFIG = ModelConfig(
    FrozenPart("some/lm", "0123"),
    ImageEncoderPart(None, "4567", final_norm=False),
    ResamplerConfig(depth=2, num_latents=9),
    FusionConfig(4, "group"),
    PromptTemplate("A photo of", "Q: {question} A:"),
)


# Config


def test_a_config_goes_through_json_and_back():
    assert ModelConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG


def test_what_has_a_default_may_be_left_out():
    config = ModelConfig.from_dict(
        {"language_model": {"name": "a", "fingerprint": "b"}, "image_encoder": {"name": None, "fingerprint": "c"}}
    )
    assert config.resampler == ResamplerConfig() and config.fusion == FusionConfig()
    assert config.image_encoder.final_norm is True


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.update(adapter=1), r"config has unknown keys \['adapter'\]"),
        (lambda c: c["fusion"].update(every=2), r"config.fusion has unknown keys \['every'\]"),
        (lambda c: c.update(format_version=FORMAT_VERSION + 1), "upgrade mmlm"),
        (lambda c: c["resampler"].update(depth="six"), "config.resampler.depth must be"),
        (lambda c: c["resampler"].update(depth=True), "config.resampler.depth must be"),
        (lambda c: c["resampler"].update(depth=2.0), "config.resampler.depth must be"),
        (lambda c: c["image_encoder"].update(final_norm=1), "config.image_encoder.final_norm must be"),
        (lambda c: c["language_model"].update(name=3), "config.language_model.name must be"),
        (lambda c: c.update(fusion=[1, 2]), "config.fusion must be a mapping, not list"),
        (lambda c: c.pop("language_model"), r"config lacks \['language_model'\]"),
        (lambda c: c["language_model"].pop("fingerprint"), r"config.language_model lacks \['fingerprint'\]"),
        (lambda c: c["template"].update(question="no field"), "needs the field"),
        (lambda c: c.update(format_version="2"), "format_version"),
    ],
)
def test_a_wrong_config_is_a_clear_error(change, message):
    values = CONFIG.to_dict()
    change(values)
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize("values", [[], "text", None, 3])
def test_a_config_that_is_no_mapping_is_a_clear_error(values):
    with pytest.raises(ValueError, match="mapping"):
        ModelConfig.from_dict(values)


# Save and load


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2_moe"])
def test_what_is_loaded_has_the_same_bits(family, tmp_path, recwarn):
    model = parts.build(family, visibility="group", every=2)
    model.template = PromptTemplate("It shows", "{question}?")
    model.save(tmp_path / "saved")
    assert sorted(os.listdir(tmp_path / "saved")) == ["config.json", "model.safetensors"]
    state = torch.get_rng_state()
    loaded = load(tmp_path / "saved", **ready(family))
    assert torch.equal(torch.get_rng_state(), state), "the global random state is left alone"
    assert not [w for w in recwarn if "fingerprint" in str(w.message)]
    before, after = dict(model.added_parameters()), dict(loaded.added_parameters())
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.config() == model.config()
    assert loaded.caption(parts.picture(1), max_new_tokens=6) == model.caption(parts.picture(1), max_new_tokens=6)
    assert not loaded.training


def test_only_what_was_added_is_saved(tmp_path):
    model = parts.build("gpt2")
    model.save(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == expected_names()


def test_other_frozen_weights_are_a_warning_with_both_fingerprints(tmp_path):
    model = parts.build("llama")
    model.save(tmp_path)
    given = ready()
    other = ready(seed=1)
    with pytest.warns(UserWarning, match="language model has other weights") as caught:
        load(tmp_path, **{**given, "language_model": other["language_model"]})
    text = str(caught[0].message)
    assert model.config().language_model.fingerprint in text
    assert LanguageModel(other["language_model"], other["tokenizer"]).fingerprint() in text
    with pytest.warns(UserWarning, match="image encoder has other weights") as caught:
        load(tmp_path, **{**ready(), "image_encoder": other["image_encoder"]})
    text = str(caught[0].message)
    assert model.config().image_encoder.fingerprint in text and other["image_encoder"].fingerprint() in text


def test_ready_made_parts_are_asked_for_by_name(tmp_path):
    parts.build("llama").save(tmp_path)
    given = ready()
    with pytest.raises(ValueError, match="pass language_model="):
        load(tmp_path, image_encoder=given["image_encoder"])
    with pytest.raises(ValueError, match="pass image_encoder="):
        load(tmp_path, language_model=given["language_model"], tokenizer=given["tokenizer"])
    with pytest.raises(ValueError, match="pass tokenizer="):
        load(tmp_path, language_model=given["language_model"], image_encoder=given["image_encoder"])


def test_weights_that_do_not_fit_change_nothing(tmp_path):
    model = parts.build("llama")
    before = {name: tensor.clone() for name, tensor in model.added_parameters()}
    good = {name: tensor + 1 for name, tensor in before.items()}
    missing = {name: tensor for name, tensor in good.items() if name != "fusion.layers.1.attn_gate"}
    for bad, message in (
        ({}, r"missing [\w.]+, [\w.]+, [\w.]+ and \d+ more$"),
        (missing, "missing fusion.layers.1.attn_gate$"),
        ({**good, "fusion.layers.9.attn_gate": torch.zeros(1)}, "unknown fusion.layers.9.attn_gate$"),
        ({**good, "resamplers.image.latents": torch.zeros(2, 2)}, "of another shape resamplers.image.latents$"),
    ):
        with pytest.raises(ValueError, match=message):
            load_added(model, bad)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.added_parameters())


def test_names_that_are_no_model_are_clear_errors(tmp_path):
    for name in ("no-such-model", str(tmp_path / "absent"), "./absent", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="neither a preset"):
            load(name)
    with pytest.raises(FileNotFoundError, match="config.json or model.safetensors is missing"):
        load(tmp_path)
    (tmp_path / "a file").write_text("")
    with pytest.raises(NotADirectoryError, match="it is a file"):
        parts.shared("llama").save(tmp_path / "a file")


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("at", ["save_file", "replace", "fsync"])
def test_an_interrupted_save_leaves_the_old_model_loadable(at, tmp_path, monkeypatch):
    model = parts.build("llama")
    model.save(tmp_path)
    expected = logits(model)
    parts.open_gates(model)
    assert not torch.equal(logits(model), expected)

    def interrupted(*args, **kwargs):
        raise Interrupted

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr("decoders.files.save_file" if at == "save_file" else f"os.{at}", interrupted)
        model.save(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"], "and nothing beside it"
    assert torch.equal(logits(load(tmp_path, **ready())), expected)


def test_two_saves_that_met_half_way_are_not_one_model(tmp_path):
    """The weights of one save beside the config of another, as a stop between its two moves leaves them."""
    parts.build("llama", visibility="all").save(tmp_path / "all")
    parts.build("llama", visibility="latest").save(tmp_path / "latest")
    os.replace(tmp_path / "all/model.safetensors", tmp_path / "latest/model.safetensors")
    with pytest.raises(ValueError, match="two different models"):
        load(tmp_path / "latest", **ready())


def test_a_frozen_part_may_move(tmp_path):
    made = ready("llama")
    made["language_model"].save_pretrained(tmp_path / "lm")
    families.tokenizer().save_pretrained(tmp_path / "lm")
    model = assemble(tmp_path / "lm", made["image_encoder"], resampler=parts.RESAMPLER, fusion=parts.fusion())
    model.save(tmp_path / "saved")
    os.rename(tmp_path / "lm", tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="lm does not exist.*language_model="):
        load(tmp_path / "saved", image_encoder=parts.image_encoder())
    moved = load(tmp_path / "saved", language_model=tmp_path / "moved", image_encoder=parts.image_encoder())
    assert torch.equal(logits(moved), logits(model))
    config = tmp_path / "saved/config.json"
    config.write_text(config.read_text().replace("../lm", "../moved"))
    with pytest.raises(ValueError, match="changed by hand.*language_model="):  # names are part of what was saved
        load(tmp_path / "saved", image_encoder=parts.image_encoder())


def test_a_model_of_format_1_loads_wherever_its_parts_are_named(tmp_path):
    """The digest of older models leaves names out."""
    model = parts.build("llama")
    model.save(tmp_path)
    config, weights = json.loads((tmp_path / "config.json").read_text()), load_file(tmp_path / "model.safetensors")
    config["format_version"] = 1
    nameless = json.loads(json.dumps(config))
    for part in nameless.values():
        if isinstance(part, dict):
            part.pop("name", None)
    digest = hashlib.sha256(json.dumps(nameless, sort_keys=True).encode()).hexdigest()[:16]
    save_file(weights, tmp_path / "model.safetensors", metadata={"config": digest})
    config["language_model"]["name"] = "anything"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(logits(load(tmp_path, **ready("llama"))), logits(model))
    config["format_version"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="changed by hand"):
        load(tmp_path, **ready("llama"))


def test_a_model_of_the_hub_says_where_its_parts_lie_and_names_no_paths(tmp_path, monkeypatch, capsys):
    parts.build("llama").save(tmp_path / "hub")
    written, weights = (tmp_path / "hub/config.json").read_text(), load_file(tmp_path / "hub/model.safetensors")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kwargs: str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()

    def named(name: str) -> None:
        config = json.loads(written)
        config["language_model"]["name"] = name
        text = json.dumps(config, sort_keys=True)
        (tmp_path / "hub/config.json").write_text(text)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        save_file(weights, tmp_path / "hub/model.safetensors", metadata={"config": digest})

    for path in ("/etc", "../../somewhere", "mine", str(tmp_path / "mine")):
        named(path)
        with pytest.raises(ValueError, match="someone/seeing of the hub names its language model by the path"):
            load("someone/seeing", image_encoder=parts.image_encoder())
        load("someone/seeing", **ready("llama"))  # another one is given in its place
    fetched = []
    monkeypatch.setattr("mmlm.assembly.load.language_model_of", lambda *args: fetched.append(capsys.readouterr().err))
    named("else/where")
    with pytest.raises(AttributeError):  # nothing was fetched
        load("someone/seeing", image_encoder=parts.image_encoder())
    assert fetched == ["someone/seeing loads its language model from else/where\n"]


# The hub


def test_what_is_pushed_to_the_hub_is_what_is_loaded_from_it(tmp_path, monkeypatch):
    hub = tmp_path / "hub"
    calls = []

    class Api:
        def __init__(self, token=None):
            calls.append(("token", token))

        def create_repo(self, repo_id, private, exist_ok):
            calls.append(("create", repo_id, private, exist_ok))

        def upload_folder(self, repo_id, folder_path):
            os.makedirs(hub / repo_id)
            for name in os.listdir(folder_path):
                (hub / repo_id / name).write_bytes(open(os.path.join(folder_path, name), "rb").read())
            return f"address of {repo_id}"

    def snapshot_download(repo_id, allow_patterns):
        if not (hub / repo_id).is_dir():
            raise OSError("404: no such repository")
        assert set(allow_patterns) == {"config.json", "model.safetensors"}
        return str(hub / repo_id)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    model = parts.build("llama")
    assert model.push_to_hub("someone/seeing", private=True, token="secret") == "address of someone/seeing"
    assert calls == [("token", "secret"), ("create", "someone/seeing", True, True)]
    assert sorted(os.listdir(hub / "someone/seeing")) == ["config.json", "model.safetensors"]
    assert torch.equal(logits(load("someone/seeing", **ready())), logits(model))
    with pytest.raises(FileNotFoundError, match="could not be fetched.*404"):
        load("someone/absent", **ready())


def test_half_a_download_says_what_is_lacking(tmp_path, monkeypatch):
    """Offline, the hub's cache gives the folder of a download that was cut off."""
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kwargs: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="'someone/model' lacks model.safetensors.*connect to the network"):
        load("someone/model")


def test_a_bundle_is_pushed_and_fetched_whole(tmp_path, monkeypatch):
    """First what every model has, then the parts that its config names beside it."""
    hub, fetched = tmp_path / "hub", tmp_path / "fetched"

    class Api:
        def __init__(self, token=None): ...
        def create_repo(self, *args, **kwargs): ...

        def upload_folder(self, repo_id, folder_path):
            shutil.copytree(folder_path, hub)

    def snapshot_download(repo_id, allow_patterns):
        for path in hub.rglob("*"):
            name = str(path.relative_to(hub))
            if path.is_file() and any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                (fetched / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, fetched / name)
        return str(fetched)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    made = ready("llama")
    made["language_model"].save_pretrained(tmp_path / "lm")
    families.tokenizer().save_pretrained(tmp_path / "lm")
    ears = parts.audio_encoder()
    sizes = dict(audio_resampler=parts.EARS["latents"], fusion=parts.fusion())
    model = assemble(tmp_path / "lm", audio_encoder=ears, **sizes)
    with pytest.warns(UserWarning, match="lm: on this machine alone.*bundle=True"):
        model.push_to_hub("someone/alone")
    shutil.rmtree(hub)
    model.push_to_hub("someone/whole", bundle=True)
    shutil.rmtree(tmp_path / "lm")
    ears = load_encoders("someone/whole", encoders=["audio"])
    assert ears["audio"].fingerprint() == model.encoders["audio"].fingerprint()
    assert sorted(os.listdir(fetched)) == ["audio_encoder.pt", "config.json"]  # nothing else is fetched for them
    loaded = load("someone/whole")
    assert loaded.config().language_model.name == str(fetched / "language_model")
    assert loaded.language_model.fingerprint() == model.language_model.fingerprint()


# Assembly


def test_assembly_draws_from_its_seed_and_leaves_the_global_state_alone():
    state = torch.get_rng_state()
    models = [assemble(**ready(), resampler=parts.RESAMPLER, fusion=parts.fusion(), seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    first, same, other = (dict(model.added_parameters()) for model in models)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["resamplers.image.latents"], other["resamplers.image.latents"])
    assert all(
        float(layer.attn_gate.detach()) == float(layer.ff_gate.detach()) == 0 for layer in models[0].fusion.layers
    )


def test_a_model_of_named_parts_needs_nothing_but_its_folder(tmp_path, recwarn, monkeypatch):
    made = ready("llama")
    tokenizer = families.tokenizer()
    made["language_model"].save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    monkeypatch.chdir(tmp_path)
    model = assemble("lm", made["image_encoder"], resampler=parts.RESAMPLER, fusion=parts.fusion("all"), seed=3)
    parts.open_gates(model)
    model.save("saved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    loaded = load(str(tmp_path / "saved"), image_encoder=parts.image_encoder())
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.config() == model.config()
    assert loaded.config().language_model.name == str(tmp_path / "lm")
    assert not [w for w in recwarn if "fingerprint" in str(w.message)]


def test_a_tokenizer_that_was_given_apart_is_saved_with_the_model(tmp_path, recwarn):
    """Ids are those of the tokenizer that the adapters learned with, whatever lies beside the language model."""
    folder, own = tmp_path / "lm", families.tokenizer()
    families.language_model("llama").save_pretrained(folder)
    families.tokenizer().save_pretrained(folder)
    own.add_tokens(["zebra"])
    given = dict(image_encoder=parts.image_encoder())
    model = assemble(folder, tokenizer=own, **given, **SIZES)
    model.save(tmp_path / "saved")
    before = model.config().tokenizer
    own("a zebra", truncation=True, max_length=4)  # which it keeps until the next call
    assert model.config().tokenizer == before is not None
    for _ in range(2):
        loaded = load(tmp_path / "saved", **given)
        assert loaded.processor.tokenizer("a zebra").input_ids == own("a zebra").input_ids
        assert loaded.config() == model.config()
        loaded.save(tmp_path / "saved")
    assert not [one for one in recwarn if "fingerprint" in str(one.message)]
    with pytest.warns(UserWarning, match="tokenizer has other tokens"):
        load(tmp_path / "saved", tokenizer=families.tokenizer(), **given)
    with pytest.raises(TypeError, match="AutoTokenizer.from_pretrained, not 'a/path'"):
        load(tmp_path / "saved", tokenizer="a/path", **given)
    shutil.rmtree(tmp_path / "saved/tokenizer")
    with pytest.raises(FileNotFoundError, match="saved/tokenizer, which was saved with the model.*pass tokenizer=$"):
        load(tmp_path / "saved", **given)
    assert load(tmp_path / "saved", tokenizer=own, **given).config() == model.config()
    plain = assemble(folder, **given, **SIZES)
    plain.save(tmp_path / "plain")
    assert plain.config().tokenizer is None and sorted(os.listdir(tmp_path / "plain")) == [
        "config.json",
        "model.safetensors",
    ]


def test_parts_that_cannot_be_found_are_clear_errors(tmp_path):
    with pytest.raises(ValueError, match="pass tokenizer="):
        assemble(families.language_model("llama"), parts.image_encoder())
    with pytest.raises(FileNotFoundError, match="language model.*absent does not exist"):
        assemble(str(tmp_path / "absent"), parts.image_encoder())


def test_configs_cannot_be_changed_after_the_fact():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.fusion = FusionConfig()


def test_a_language_model_that_is_code_is_refused_in_our_words(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    config = {
        "model_type": "own",
        "auto_map": {"AutoConfig": "modeling_own.C", "AutoModelForCausalLM": "modeling_own.M"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for given in ({}, {"tokenizer": families.tokenizer()}):
        with pytest.raises(ValueError, match="needs Python code of its own, which is not run") as error:
            assemble(folder, parts.image_encoder(), **given)
        assert "trust_remote_code" not in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("needed", ["image", "audio"])
def test_an_encoder_that_is_not_needed_is_not_loaded(needed, tmp_path, monkeypatch):
    """What is left gives what the whole model gives, and is not taken for the whole one."""
    from encoders.clip import ClipImageEncoder
    from encoders.whisper import WhisperAudioEncoder

    whole = load("nano")
    other = WhisperAudioEncoder if needed == "image" else ClipImageEncoder
    monkeypatch.setattr(other, "load", lambda *_, **__: pytest.fail("it is not needed"))
    part = load("nano", encoders=[needed])
    assert list(part.encoders.keys()) == [needed]
    if needed == "image":
        picture = ROOT / "docs/images/scene.png"
        assert part.caption(picture, details=True).log_probs == whole.caption(picture, details=True).log_probs
    else:
        question = ROOT / "demos/questions/shapes.wav"
        for mode in ("transcript", "features"):
            theirs = whole.ask(question, mode=mode, details=True)
            assert part.ask(question, mode=mode, details=True).log_probs == theirs.log_probs
    for save_it in (part.save, extended(part, lora=LoraConfig(rank=2)).save):
        with pytest.raises(ValueError, match="loaded without its .* encoder"):
            save_it(tmp_path / "part")
    assert not list(tmp_path.glob("part/*"))


def test_codecs_that_are_not_needed_are_not_loaded(tmp_path, monkeypatch, capsys):
    from mmlm.cli import main

    picture = ROOT / "docs/images/scene.png"
    whole = load("nano")
    monkeypatch.setattr("decoders.codecs.checkpoint.load_codec", lambda *_: pytest.fail("it is not needed"))
    part = load("nano", codecs=None)
    assert not part.codecs and not [name for name, _ in part.added_parameters() if "codes" in name or "lora" in name]
    question = "is there a circle in the picture?"
    for ask in (lambda model: model.caption(picture, details=True), lambda model: model.answer(picture, question)):
        assert str(ask(part)) == str(ask(whole))
    assert part.caption(picture, details=True).log_probs == whole.caption(picture, details=True).log_probs
    for make in (part.draw, part.speak):
        with pytest.raises(ValueError, match="load it with its codecs"):
            make("a red circle")
    with pytest.raises(ValueError, match="without its image codec"):
        part.save(tmp_path / "part")
    assert main(["caption", str(picture)]) == 0 and capsys.readouterr().out.strip() == str(whole.caption(picture))


def test_encoders_are_asked_for_by_their_names():
    with pytest.raises(ValueError, match="'image' and 'audio', not 'video'"):
        load("nano", encoders=["video"])


def test_adapters_that_were_never_trained_say_so_once():
    """Where something is to be seen or heard; not of text alone, and not once a gate is open."""
    model = parts.build("llama")

    def said(prompt):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            model.generate(prompt, max_new_tokens=1)
        return [str(warning.message) for warning in found if "never trained" in str(warning.message)]

    for layer in model.fusion.layers:
        layer.attn_gate.data.zero_()
    picture = Image(parts.picture(0))
    assert len(said([picture, "a"])) == 1 and said(["a"]) == []
    model.fusion.layers[-1].attn_gate.data.fill_(0.1)
    assert said([picture, "a"]) == []
