"""Published codecs: the codes and the media that upstream's own code makes of the same small networks."""

import os
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    DacConfig,
    DacModel,
    Emu3VQVAE,
    Emu3VQVAEConfig,
    EncodecConfig,
    EncodecModel,
    JanusVQVAE,
    JanusVQVAEConfig,
    MimiConfig,
    MimiModel,
)
from transformers.utils import logging

import mmlm
from decoders.codecs.base import MediaCodec, NonFiniteLatentsError
from decoders.codecs.pretrained import load_pretrained
from decoders.codecs.pretrained.checkpoints import vqgan_from_weights
from decoders.codecs.pretrained.pictures import nearest
from decoders.codecs.pretrained.vqgan import VQGAN, VQGANConfig
from mmlm.assembly import Codecs, extended
from mmlm.model.config import LoraConfig
from support import parts
from support.codec_parts import same_codes
from support.upstream_codecs import UPSTREAM, network_of
from support.vqgan_reference import Layout, random_weights, reference_codes, reference_media

LAYOUTS = {
    "llamagen": Layout("llamagen"),
    "taming": Layout("taming"),
    "taming-f2": Layout("taming", widths=(32, 64), attends=(True, False), blocks=1, channels=8, dim=4),
}
NAMES = [*UPSTREAM, *LAYOUTS]
SOUND = ("encodec", "dac", "mimi")


@pytest.fixture(scope="module", autouse=True)
def quiet() -> None:
    """Loading reports go to stderr; they are not what is tested."""
    logging.set_verbosity_error()


@pytest.fixture(scope="module")
def cases() -> dict[str, tuple[MediaCodec, Tensor, Tensor, Tensor]]:
    """Of each kind: the codec, media, and upstream's codes of them and media of those codes."""
    made = {}
    generator = torch.Generator().manual_seed(3)
    for name, upstream in UPSTREAM.items():
        media = torch.rand(upstream.input, generator=generator)
        media = media * 2 - 1 if name in SOUND else media
        network = network_of(name)
        with torch.no_grad():
            codes = upstream.codes(network, media)
            made[name] = load_pretrained(network_of(name)), media, codes, upstream.media(network, codes)
    for name, layout in LAYOUTS.items():
        weights = random_weights(layout)
        media = torch.rand(2, 3, 16, 24, generator=generator)
        codes = reference_codes(weights, layout, media)
        codec = load_pretrained(Checkpoint(weights))
        made[name] = codec, media, codes[:, None], reference_media(weights, layout, codes)
    return made


class Checkpoint(nn.Module):
    """A module of unknown class that has these weights, under these names."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.weights = weights

    def state_dict(self) -> dict[str, Tensor]:
        return self.weights


@pytest.mark.parametrize("name", NAMES)
def test_codes_and_media_are_upstreams(name: str, cases: dict) -> None:
    codec, media, codes, upstream_media = cases[name]
    low, high = codec.value_range
    inside = ((upstream_media > low) & (upstream_media < high)).float().mean()
    # Otherwise equality would say little.
    assert len(codes.unique()) >= 12 and upstream_media.std() > 0.05 and inside > 0.7
    assert same_codes(codec, media, codes)
    encoding = codec.encode(media)
    decoded = codec.decode(codes)
    assert decoded.shape == upstream_media.shape == media.shape
    torch.testing.assert_close(decoded, upstream_media.clamp(low, high), atol=1e-5, rtol=0)
    assert torch.equal(encoding.latents, codec.codes_to_latents(encoding.codes))
    assert encoding.latents.shape == (len(media), codec.latent_dim, *codes.shape[2:])


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_items(name: str, cases: dict) -> None:
    codec, media, codes, _ = cases[name]
    assert same_codes(codec, media, torch.cat([codec.encode(item[None]).codes for item in media]))
    one_by_one = torch.cat([codec.decode(item[None]) for item in codes])
    torch.testing.assert_close(codec.decode(codes), one_by_one, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_any_codes_make_media_that_can_be_encoded(name: str, cases: dict) -> None:
    codec, media, codes, _ = cases[name]
    drawn = torch.randint(codec.codebook_size, codes.shape, generator=torch.Generator().manual_seed(5))
    made = codec.decode(drawn)
    assert made.shape == media.shape and made.dtype == torch.float32
    assert codec.value_range[0] <= made.min() and made.max() <= codec.value_range[1]
    assert codec.encode(made).codes.shape == codes.shape


@pytest.mark.parametrize("name", NAMES)
def test_wrong_codes_and_grids_are_errors(name: str, cases: dict) -> None:
    codec, media, codes, _ = cases[name]
    for wrong in (-1, codec.codebook_size):
        with pytest.raises(ValueError, match=f"code {wrong} is outside"):
            codec.decode(torch.full_like(codes, wrong))
    with pytest.raises(ValueError, match="codebooks"):
        codec.decode(torch.cat([codes, codes], dim=1))
    with pytest.raises(ValueError, match="codes are"):
        codec.decode(codes.flatten(1))
    with pytest.raises(ValueError, match="NaN"):
        codec.encode(torch.full_like(media, torch.nan))
    if codec.grid is not None:
        with pytest.raises(ValueError, match="grid"):
            codec.decode(codes[..., :-1])


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_and_training_around_it_change_nothing(name: str, cases: dict) -> None:
    codec, media, codes, _ = cases[name]
    before, same = codec.decode(codes), codec.encode(media).codes
    parent = nn.ModuleList([codec])
    parent.train().half().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codec.encode(media).codes, same)
        assert torch.equal(codec.decode(codes), before)
    assert not any(parameter.requires_grad for parameter in codec.parameters())


@pytest.mark.parametrize("name", UPSTREAM)
def test_a_folder_that_upstream_saved_is_the_same_codec(name: str, cases: dict, tmp_path: Path) -> None:
    codec, media, codes, _ = cases[name]
    network_of(name).save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path)
    assert type(loaded) is type(codec)
    assert torch.equal(loaded.encode(media).codes, codec.encode(media).codes)
    assert torch.equal(loaded.decode(codes), codec.decode(codes))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_checkpoint_file_is_the_same_codec(name: str, cases: dict, tmp_path: Path) -> None:
    codec, media, codes, _ = cases[name]
    weights = random_weights(LAYOUTS[name])
    if name == "llamagen":
        torch.save({"model": weights, "steps": 300_000}, path := tmp_path / "vq_ds4_c2i.pt")
    else:
        torch.save({"state_dict": weights, "epoch": 3}, path := tmp_path / "last.ckpt")
    loaded = load_pretrained(path)
    assert torch.equal(loaded.encode(media).codes, codec.encode(media).codes)
    assert torch.equal(loaded.decode(codes), codec.decode(codes))


def test_a_model_with_published_codecs_is_saved_by_their_names_and_options(tmp_path: Path) -> None:
    network_of("ldm").save_pretrained(tmp_path / "pipeline/vqvae")
    network_of("encodec").save_pretrained(tmp_path / "encodec")
    pictures = load_pretrained(tmp_path / "pipeline", subfolder="vqvae", size=16)
    sound = load_pretrained(tmp_path / "encodec", num_codebooks=2)
    bare = parts.build()
    model = extended(bare, Codecs(image=pictures, audio=sound), lora=LoraConfig(rank=2))
    model.save(tmp_path / "model")
    frozen = dict(language_model=parts.build().language_model.model, tokenizer=bare.language_model.tokenizer,
                  image_encoder=parts.image_encoder())  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the fingerprints are theirs
        again = mmlm.load(tmp_path / "model", **frozen)
    assert again.codecs["image"].size == 16 and again.codecs["audio"].num_codebooks == 2
    assert np.array_equal(model.draw("a ring", seed=1), again.draw("a ring", seed=1))
    # Read with a range of pixels of one's own, no name tells all of it.
    own = load_pretrained(tmp_path / "pipeline", subfolder="vqvae", size=16, pixels=(0.0, 1.0))
    extended(parts.build(), Codecs(image=own)).save(tmp_path / "own")
    with pytest.raises(ValueError, match="ready-made image_codec"):
        mmlm.load(tmp_path / "own", **frozen)


def test_a_size_that_does_not_apply_is_an_error(tmp_path: Path) -> None:
    for name, size in (("ldm", 15), ("ldm", 0), ("janus", 8), ("encodec", 16)):
        network_of(name).save_pretrained(tmp_path / name)
        with pytest.raises(ValueError, match=f"size {size} does not apply"):
            load_pretrained(tmp_path / name, size=size)


# Lengths


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("samples", [1, 37, 801])
def test_sound_of_any_length_is_filled_up_with_silence_and_cut_again(name: str, samples: int, cases: dict) -> None:
    codec = cases[name][0]
    sound = torch.rand(2, 1, samples, generator=torch.Generator().manual_seed(7)) * 2 - 1
    steps = -(-samples // codec.downsample)
    filled = torch.zeros(2, 1, steps * codec.downsample)
    filled[..., :samples] = sound
    codes = codec.encode(sound).codes
    assert codes.shape == (2, 8, steps) and steps == codec.frames(samples)
    with torch.no_grad():
        assert same_codes(codec, filled, UPSTREAM[name].codes(codec.network, filled))
    assert torch.equal(codes, codec.encode(filled).codes)
    whole, cut = codec.decode(codes), codec.decode(codes, length=samples)
    assert whole.shape == filled.shape and torch.equal(cut, whole[..., :samples])


def test_dac_of_odd_strides_which_falls_short_is_filled_up() -> None:
    torch.manual_seed(0)
    config = DacConfig(
        encoder_hidden_size=8, downsampling_ratios=[2, 5], decoder_hidden_size=16, n_codebooks=3, codebook_size=16
    )
    network = DacModel(config).eval()
    codec = load_pretrained(network)
    assert codec.network is network
    codes = torch.randint(16, (1, 3, 20))
    with torch.no_grad():
        upstream = network.decode(audio_codes=codes).audio_values
    assert upstream.shape[-1] < 200
    made = codec.decode(codes)
    assert made.shape == (1, 1, 200)
    torch.testing.assert_close(made[0, :, : upstream.shape[-1]], upstream.clamp(-1, 1), atol=1e-5, rtol=0)
    assert not made[..., upstream.shape[-1] :].any()


def test_downsample_rates_and_sizes(cases: dict) -> None:
    found = {
        name: (codec.downsample, codec.codebook_size, codec.num_codebooks, codec.grid, codec.sample_rate)
        for name, (codec, *_) in cases.items()
    }
    picture = (2, 40, 1, None, None)
    assert found == {
        "amused": picture, "ldm": picture, "movq": picture, "emu3": picture, "janus": (2, 40, 1, (6, 6), None),
        "encodec": (8, 64, 8, None, 8000), "dac": (8, 64, 8, None, 8000), "mimi": (16, 64, 8, None, 8000),
        "llamagen": (4, 48, 1, None, None), "taming": (4, 48, 1, None, None), "taming-f2": (2, 48, 1, None, None),
    }  # fmt: skip
    assert cases["mimi"][0].frame_rate == 500
    # Of the codebook; `latent_channels` is 8.
    assert cases["amused"][0].latent_dim == 4


def test_published_sizes() -> None:
    """LlamaGen's README gives 72M and 70M weights; the others' papers and model cards the rates and the grids."""
    with torch.device("meta"):
        inner = dict(blocks=2, latent_channels=256, codebook_size=16384, codebook_dim=8)
        ds16 = VQGAN(VQGANConfig(128, (128, 128, 256, 256, 512), (False, False, False, False, True), **inner))
        ds8 = VQGAN(VQGANConfig(128, (128, 256, 256, 512), (False, False, False, True), **inner))
        codecs = {
            "encodec_24khz": load_pretrained(EncodecModel(EncodecConfig())),
            "dac_16khz": load_pretrained(DacModel(DacConfig(downsampling_ratios=[2, 4, 5, 8], n_codebooks=12))),
            "mimi": load_pretrained(MimiModel(MimiConfig())),
            "Janus-Pro": load_pretrained(JanusVQVAE(JanusVQVAEConfig(num_patches=24))),
            "Emu3": load_pretrained(Emu3VQVAE(Emu3VQVAEConfig())),
        }
    assert [round(sum(weight.numel() for weight in net.parameters()) / 1e6) for net in (ds16, ds8)] == [72, 70]
    assert {name: (codec.codebook_size, codec.downsample, codec.frame_rate) for name, codec in codecs.items()} == {
        "encodec_24khz": (1024, 320, 75.0), "dac_16khz": (1024, 320, 50.0), "mimi": (2048, 1920, 12.5),
        "Janus-Pro": (16384, 16, None), "Emu3": (32768, 8, None),
    }  # fmt: skip
    assert codecs["Janus-Pro"].size == 384 and codecs["Janus-Pro"].grid == (24, 24)


# Which codes


@pytest.mark.parametrize("name", SOUND)
def test_fewer_codebooks_are_the_first_ones(name: str, cases: dict) -> None:
    _, media, codes, _ = cases[name]
    few = load_pretrained(network_of(name), num_codebooks=3)
    assert same_codes(few, media, codes[:, :3])
    with torch.no_grad():
        upstream = UPSTREAM[name].media(few.network, codes[:, :3])
    torch.testing.assert_close(few.decode(codes[:, :3]), upstream.clamp(-1, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "available"), [("encodec", 10), ("dac", 9), ("mimi", 12)])
def test_codebooks_that_are_not_there(name: str, available: int) -> None:
    for wrong in (0, available + 1):
        with pytest.raises(ValueError, match="num_codebooks must be"):
            load_pretrained(network_of(name), num_codebooks=wrong)
    assert load_pretrained(network_of(name), num_codebooks=available).num_codebooks == available


def test_janus_codes_are_of_the_nearest_direction_where_transformers_own_are_not(cases: dict) -> None:
    codec, media, codes, _ = cases["janus"]
    own = codec.network.encode(media * 2 - 1).image_tokens.view(codes.shape)
    assert (own == codes).float().mean() < 0.9


def test_the_range_of_a_vq_model_can_be_said(cases: dict) -> None:
    _, media, _, _ = cases["ldm"]
    codec = load_pretrained(network_of("ldm"), pixels=(0, 1))
    with torch.no_grad():
        codes = UPSTREAM["amused"].codes(codec.network, media)
    assert same_codes(codec, media, codes)


def test_nearest_by_hand() -> None:
    codebook = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    vectors = torch.tensor([[1.4, 0.1], [1.6, 0.1], [0.0, 2.1], [-9.0, -9.0]]).T.view(1, 2, 2, 2)
    assert nearest(vectors, codebook).tolist() == [[[[0, 1], [2, 0]]]]
    vectors[0, 0, 0, 0] = torch.inf
    with pytest.raises(NonFiniteLatentsError, match="NaN or infinite"):
        nearest(vectors, codebook)


# Files and folders


@pytest.mark.parametrize("name", ["janus", "emu3"])
def test_of_a_whole_language_model_only_its_codec_is_read(name: str, cases: dict, tmp_path: Path) -> None:
    codec, media, codes, _ = cases[name]
    language_model = whole_model(name, codec.network.config)
    language_model.model.vqmodel.load_state_dict(codec.network.state_dict())
    language_model.save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path)
    assert type(loaded) is type(codec)
    assert torch.equal(loaded.encode(media).codes, codec.encode(media).codes)
    assert torch.equal(loaded.decode(codes), codec.decode(codes))


def whole_model(name: str, vq_config: object) -> nn.Module:
    """A small Janus or Emu3 around a codec."""
    text = dict(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    if name == "emu3":
        from transformers import Emu3Config, Emu3ForConditionalGeneration

        vocabulary = {"<image>": 5, **{f"<|visual token {code:06d}|>": 10 + code for code in range(40)}}
        config = Emu3Config(vq_config=vq_config.to_dict(), text_config=text, vocabulary_map=vocabulary)
        return Emu3ForConditionalGeneration(config)
    from transformers import JanusConfig, JanusForConditionalGeneration

    vision = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=48, patch_size=8)
    text["model_type"] = "llama"
    return JanusForConditionalGeneration(
        JanusConfig(vq_config=vq_config.to_dict(), text_config=text, vision_config=vision | {"projection_dim": 16})
    )


def test_lightnings_objects_in_a_checkpoint_are_neither_needed_nor_loaded(
    cases: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, media, codes, _ = cases["taming"]
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    callback = module.ModelCheckpoint()
    callback.monitor = "val/rec_loss"
    contents = {
        "state_dict": random_weights(LAYOUTS["taming"]),
        "callbacks": {module.ModelCheckpoint: {"best_model_score": torch.tensor(0.5)}},
        "hyper_parameters": callback,
    }
    with monkeypatch.context() as patch:
        for parent in ("pytorch_lightning", "pytorch_lightning.callbacks"):
            patch.setitem(sys.modules, parent, types.ModuleType(parent))
        patch.setitem(sys.modules, module.__name__, module)
        torch.save(contents, tmp_path / "last.ckpt")
    loaded = load_pretrained(tmp_path / "last.ckpt")
    assert module.__name__ not in sys.modules
    assert torch.equal(loaded.encode(media).codes, codec.encode(media).codes)
    assert "ModelCheckpoint" not in str(torch.serialization.get_safe_globals())
    assert "Ignored" not in str(torch.serialization.get_safe_globals())


class Runs:
    """Pickled, it asks for a call when it is read."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def test_a_checkpoint_cannot_run_anything(tmp_path: Path) -> None:
    weights, touched = random_weights(LAYOUTS["taming"]), tmp_path / "touched"
    torch.save({"state_dict": weights, "x": Runs(exec, f"open({str(touched)!r}, 'w')")}, tmp_path / "a.ckpt")
    load_pretrained(tmp_path / "a.ckpt")
    torch.save({"state_dict": weights, "x": Runs(os.mkdir, str(touched))}, tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match="pickled code is not loaded"):
        load_pretrained(tmp_path / "b.ckpt")
    assert not touched.exists()


def test_other_checkpoints_are_errors_that_say_why(tmp_path: Path) -> None:
    weights = random_weights(LAYOUTS["taming"])
    gumbel = {name.replace("quantize.embedding", "quantize.embed"): tensor for name, tensor in weights.items()}
    with pytest.raises(ValueError, match="'codebook' is missing"):
        vqgan_from_weights(gumbel)
    with pytest.raises(ValueError, match="Unexpected key.*quantize.used"):
        vqgan_from_weights(weights | {"quantize.used": torch.zeros(4)})
    del weights["decoder.up.1.block.0.conv1.bias"]
    with pytest.raises(ValueError, match="Missing key.*decoder.levels.1.block.0.conv1.bias"):
        vqgan_from_weights(weights)
    with pytest.raises(ValueError, match="is missing"):
        load_pretrained(nn.Linear(2, 2))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        load_pretrained(tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match="is not a file of torch.save"):
        load_pretrained(tmp_path / "text.pt")


def test_folders_that_are_not_codecs_are_errors_that_say_why(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="names 'gpt2', and none of VQModel, janus_vqgan"):
        load_pretrained(tmp_path)
    network_of("ldm").save_pretrained(tmp_path / "pipeline" / "vqvae")
    with pytest.raises(FileNotFoundError, match="subfolder= may be one of vqvae"):
        load_pretrained(tmp_path / "pipeline")
    assert load_pretrained(tmp_path / "pipeline", subfolder="vqvae").codebook_size == 40
    for nowhere in ("nobody/no-such-codec", "no such/place at all/x.pt"):
        with pytest.raises(FileNotFoundError, match="neither a file nor a folder"):
            load_pretrained(nowhere)


@pytest.mark.parametrize("name", ["ldm", "dac"])
def test_incomplete_weights_are_an_error(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    network_of(name).save_pretrained(tmp_path)
    file = next(tmp_path.glob("*.safetensors"))
    weights = load_file(file)
    lost = next(key for key in weights if key.startswith("decoder."))
    del weights[lost]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"lacks weights.*{lost}"):
        load_pretrained(tmp_path)


def test_options_and_networks_that_do_not_apply(tmp_path: Path) -> None:
    for name, options in {"ldm": {"num_codebooks": 2}, "mimi": {"pixels": (0, 1)}, "janus": {"pixels": (0, 1)}}.items():
        with pytest.raises(ValueError, match=f"{next(iter(options))} does not apply to"):
            load_pretrained(network_of(name), **options)
    with pytest.raises(ValueError, match="smallest, largest"):
        load_pretrained(network_of("ldm"), pixels=(1, 0))
    stereo = dict(hidden_size=16, num_filters=4, upsampling_ratios=[4, 2], codebook_size=64, num_lstm_layers=1)
    with pytest.raises(ValueError, match="2 channels"):
        load_pretrained(EncodecModel(EncodecConfig(audio_channels=2, **stereo)))
    with pytest.raises(ValueError, match="loudness"):
        load_pretrained(EncodecModel(EncodecConfig(normalize=True, chunk_length_s=1.0, overlap=0.01, **stereo)))
