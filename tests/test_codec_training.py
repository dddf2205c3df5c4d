"""Training of codecs and diffusion decoders (mmlm/training/objectives), from files to folders that load."""

import dataclasses
import json
import tarfile

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from decoders.codecs.adversarial import PatchCritic, adversarial_losses
from decoders.codecs.checkpoint import load_codec
from decoders.codecs.image_vqvae import ImageVQVAE, ImageVQVAEConfig
from decoders.codecs.quantizer import QuantizerConfig
from decoders.codecs.raw import PaletteCodec
from decoders.diffusion.checkpoint import load_decoder
from decoders.diffusion.decoder import DiffusionDecoder, DiffusionDecoderConfig
from mmlm.data.media import Pictures, Recordings, find_media
from mmlm.data.records import BadRecordsError
from mmlm.training import CodecTrainConfig, train_codec, train_decoder, train_from_recipe
from mmlm.training.checkpoint import latest_checkpoint
from mmlm.training.objectives.codec import quality
from support.codec_parts import QUANTIZERS, media_for

COLOURS = np.array([[250, 250, 240], [200, 30, 40], [20, 60, 200], [30, 30, 30]], dtype=np.uint8)


def stripes(count, seed, size=16):
    """Pictures of two colours in stripes, across or down."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        colours = COLOURS[draw.permutation(4)[:2]]
        line = (np.arange(size) // int(draw.choice([2, 4])) % 2)[:, None]
        picture = colours[np.broadcast_to(line, (size, size))]
        found.append(picture if draw.random() < 0.5 else picture.transpose(1, 0, 2))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 96), ("dev", 32)):
        (folder / split).mkdir()
        for index, picture in enumerate(stripes(count, split == "dev")):
            Image.fromarray(picture).save(folder / split / f"{index:03d}.png")
    return folder


def codec(seed=0, **sizes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = ImageVQVAEConfig(16, 8, 4, 32, 1, QuantizerConfig(codebook_size=64, dim=8))
        return ImageVQVAE(config)


CONFIG = CodecTrainConfig(
    steps=160, batch_size=16, learning_rate=3e-3, eval_every=80, preview_every=80, precision="float32"
)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("run")
    train_codec(codec(), folder / "train", output, folder / "dev", CONFIG, progress=False)
    return output


def test_a_learned_codebook_beats_the_palette(trained, folder):
    """At the same number of codes of the same size, on pictures that neither has seen."""
    own = load_codec(trained / "codec")
    real = Pictures(find_media(folder / "dev", "image"), 16).batch(range(32), torch.Generator())
    seen = Pictures(find_media(folder / "train", "image"), 16).batch(range(96), torch.Generator())
    palette = PaletteCodec.learn(seen, codebook_size=32, downsample=8)  # there are not many more colours
    learned, early = (quality(one, one.decode(one.encode(real).codes), real)["psnr"] for one in (own, palette))
    assert learned > early + 1
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    last = lines[-1]
    assert last["psnr"] == pytest.approx(learned, abs=1e-3) and 0 < last["usage"] <= 1 and 1 < last["perplexity"] <= 64
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[0] > losses[-1] and [line["step"] for line in lines if "psnr" in line] == [80, 160]
    for step in (80, 160):
        sheet = Image.open(trained / "previews" / f"{step:06d}.png")
        assert sheet.size == (16 * 18 - 2, 2 * 18 - 2)  # sixteen pictures, real above made


def test_a_diffusion_decoder_learns_on_the_frozen_codec(trained, folder, tmp_path):
    frozen = load_codec(trained / "codec")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = DiffusionDecoder(frozen, DiffusionDecoderConfig(channels=(16, 32)))
    config = CodecTrainConfig(steps=30, batch_size=8, preview_every=30, ema_decay=0.9, precision="float32")
    train_decoder(decoder, folder / "train", tmp_path, folder / "dev", config, progress=False)
    again = load_decoder(tmp_path / "decoder", frozen)
    codes = frozen.encode(media_for(frozen)).codes
    assert torch.equal(again.decode(codes, 2), decoder.decode(codes, 2))
    assert Image.open(tmp_path / "previews/000030.png").size == (16 * 18 - 2, 5 * 18 - 2)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last.keys() == {"step", "psnr_1", "psnr_4", "psnr_8"}


def test_the_critic_and_the_codec_pull_apart():
    """One backward pass: the codec's part leaves the critic alone, the critic's part leaves the codec alone."""
    torch.manual_seed(0)
    critic, last = PatchCritic(3, 2, 8, 2), torch.randn(3, requires_grad=True)
    real = torch.rand(2, 3, 16, 16)
    made = torch.rand(2, 3, 16, 16) * last.view(1, 3, 1, 1)
    distance = (made - real).square().mean()
    fooled, judged = adversarial_losses(critic, made, real, distance, last)
    slopes = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (fooled, distance)]
    torch.testing.assert_close(*slopes, rtol=0.02, atol=0)
    weights = list(critic.parameters())
    untouched = torch.autograd.grad(fooled, weights, retain_graph=True, allow_unused=True)
    assert all(slope is None for slope in untouched)
    assert torch.autograd.grad(judged, last, retain_graph=True, allow_unused=True) == (None,)
    judged.backward()
    assert all(weight.grad is not None for weight in critic.parameters())


def test_the_critic_learns_to_tell(folder, tmp_path):
    config = dataclasses.replace(CONFIG, steps=20, adversarial_from=10)
    train_codec(codec(), folder / "train", tmp_path, folder / "dev", config, progress=False)
    state = latest_checkpoint(tmp_path / "checkpoints").weights
    assert any(name.startswith("critic.") for name in state)
    assert set(load_codec(tmp_path / "codec").state_dict()) == {
        name.removeprefix("codec.") for name in state if name.startswith("codec.")
    }


def test_media_are_found_wherever_they_lie(folder, tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        tar.add(folder / "dev/000.png", "a.png")
        tar.add(folder / "dev/001.png", "b.png")
    pair = {"image": str(folder / "dev/002.png"), "caption": "stripes"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    nested = [tmp_path / "train-*.tar", tmp_path / "pairs.jsonl", folder / "train", folder / "dev/00[0-3].png"]
    assert len(find_media(nested, "image")) == 2 + 1 + 96 + 4
    with pytest.raises(ValueError, match="no recordings"):
        find_media(folder, "audio")
    with pytest.raises(FileNotFoundError, match="no file matches"):
        find_media(tmp_path / "nowhere", "image")


def test_a_decoder_that_learns_alone_leaves_every_code(folder, tmp_path):
    early = dataclasses.replace(CONFIG, steps=20, preview_every=20)
    model = load_codec(train_codec(codec(), folder / "train", tmp_path / "both", config=early, progress=False).model)
    real = Pictures(find_media(folder / "dev", "image"), 16).batch(range(32), torch.Generator())
    codes, first = model.encode(real).codes, quality(model, model.decode(model.encode(real).codes), real)["psnr"]
    alone = dataclasses.replace(CONFIG, tune="decoder", steps=60, preview_every=30)
    later = load_codec(train_codec(model, folder / "train", tmp_path / "alone", config=alone, progress=False).model)
    assert torch.equal(later.encode(real).codes, codes)
    assert quality(later, later.decode(codes), real)["psnr"] > first + 1
    with pytest.raises(ValueError, match="one of 'all', 'decoder'"):
        CodecTrainConfig(tune="encoder")


def test_media_of_no_use_are_counted(folder, tmp_path, caplog):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    places = find_media([folder / "train", folder / "dev", tmp_path], "image")
    assert len(Pictures(places, 16)) == 128 and "1 of 129 media" in caplog.text and "broken.png" in caplog.text
    with pytest.raises(BadRecordsError, match="1 of 3 media"):
        Pictures(find_media([tmp_path, folder / "dev/00[01].png"], "image"), 16)


def test_a_batch_of_sound_takes_stretches(tmp_path):
    ramp = np.linspace(-0.9, 0.9, 16000)
    soundfile.write(tmp_path / "ramp.wav", ramp, 8000, subtype="PCM_16")
    soundfile.write(tmp_path / "short.wav", np.full(100, 0.5), 8000)
    recordings = Recordings(find_media(tmp_path, "audio"), 8000, 4000)
    rows = recordings.batch([0, 0, 1], torch.Generator().manual_seed(0))
    assert rows.shape == (3, 1, 4000) and not torch.equal(rows[0], rows[1])
    slope = rows[:2, 0].diff().mean(1) * 15999
    torch.testing.assert_close(slope, torch.full((2,), 1.8), atol=1e-2, rtol=0)
    assert (rows[2, 0, 100:] == 0).all() and rows[2, 0, :100].mean() == pytest.approx(0.5, abs=0.01)


RECIPE = """
codec:
  image: {size: 16, downsample: 8, width: 16, blocks: 1, quantizer: {codebook_size: 32, dim: 8}}
data: DATA/train
held_out: DATA/dev
output: OUTPUT/codec
steps: 6
batch_size: 8
"""


def test_recipes_train_both(folder, tmp_path):
    written = RECIPE.replace("DATA", str(folder)).replace("OUTPUT", str(tmp_path))
    (tmp_path / "codec.yaml").write_text(written)
    result = train_from_recipe(tmp_path / "codec.yaml", ["steps=4"], progress=False)
    assert result.steps == 4 and load_codec(result.model).codebook_size == 32
    decoder = written.replace("/codec", "/decoder").splitlines()[3:]
    parts = [f"decoder: {{codec: {result.model}, channels: [16]}}", *decoder]
    (tmp_path / "decoder.yaml").write_text("\n".join(parts))
    result = train_from_recipe(tmp_path / "decoder.yaml", progress=False)
    assert load_decoder(result.model, load_codec(tmp_path / "codec/codec")).config.channels == (16,)


def test_a_recipe_goes_on_with_a_trained_codec(folder, tmp_path):
    written = RECIPE.replace("DATA", str(folder)).replace("OUTPUT", str(tmp_path))
    (tmp_path / "codec.yaml").write_text(written)
    first = train_from_recipe(tmp_path / "codec.yaml", progress=False).model
    more = [f"codec: {{trained: {first}}}", *written.splitlines()[3:]]
    (tmp_path / "more.yaml").write_text("\n".join(more))
    own = [f"output={tmp_path}/more", "tune=decoder", "steps=20"]
    later = load_codec(train_from_recipe(tmp_path / "more.yaml", own, progress=False).model)
    real = Pictures(find_media(folder / "dev", "image"), 16).batch(range(32), torch.Generator())
    before = load_codec(first)
    assert torch.equal(later.encode(real).codes, before.encode(real).codes)
    assert not torch.equal(later.decode(later.encode(real).codes), before.decode(before.encode(real).codes))


@pytest.mark.parametrize(
    "override, message",
    [
        ("codec.image.sise=3", "sise"),
        ("codec.image.size=20", "multiple of downsample"),
        ("codec.image.quantizer.kind=gumbel", "gumbel"),
        ("decoder.codec=x", "not both"),
        ("codec.trained=x", "one of them"),
        ("tune=decoder", "give codec.trained"),
        ("steps=0", "at least 1"),
        ("step=3", "unknown key 'step'"),
        ("learning_rate=-1", "above 0"),
    ],
)
def test_recipes_that_cannot_be(folder, tmp_path, override, message):
    (tmp_path / "codec.yaml").write_text(RECIPE.replace("DATA", str(folder)).replace("OUTPUT", str(tmp_path)))
    with pytest.raises(ValueError, match=message):
        train_from_recipe(tmp_path / "codec.yaml", [override], progress=False)
    assert not (tmp_path / "codec").exists()


def test_every_quantiser_trains(folder, tmp_path):
    for kind, quantizer in QUANTIZERS.items():
        own = ImageVQVAE(ImageVQVAEConfig(16, 8, 4, 16, 1, quantizer))
        config = dataclasses.replace(CONFIG, steps=3)
        train_codec(own, folder / "train", tmp_path / kind, config=config, progress=False)
        assert load_codec(tmp_path / kind / "codec").codebook_size == quantizer.codebook_size


def test_a_clip_judges_pictures_by_its_blocks(nano_folder):
    """Against the outputs of the blocks themselves, caught while the encoder encodes the same pictures."""
    from encoders.clip import ClipImageEncoder
    from mmlm.training.perceptual import clip_distance

    encoder = ClipImageEncoder.load(str(nano_folder / "image_encoder"))
    draw = np.random.default_rng(0)
    pictures = [Image.fromarray(draw.integers(0, 255, (64, 64, 3), dtype=np.uint8)) for _ in range(4)]
    blocks, caught = encoder.model.visual.transformer.resblocks, {}
    hooks = [
        blocks[index].register_forward_hook(lambda module, args, out, index=index: caught.__setitem__(index, out))
        for index in (1, 3)
    ]
    with torch.no_grad():
        encoder.encode(torch.stack([encoder.preprocess(picture) for picture in pictures]))
    for hook in hooks:
        hook.remove()
    count = encoder.encode(encoder.preprocess(pictures[0])[None]).tokens.shape[1]
    expected = 0.0
    for tokens in caught.values():
        tokens = tokens[:, -count:].double()
        normed = (tokens - tokens.mean(-1, keepdim=True)) / (tokens.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        expected += float((normed[:2] - normed[2:]).square().mean()) / 2
    batch = torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 for picture in pictures])
    made = batch[:2].clone().requires_grad_(True)
    distance = clip_distance(encoder, weight=1.0)
    found = distance(made, batch[2:])
    assert float(found.detach()) == pytest.approx(expected, rel=1e-3)
    found.backward()
    assert bool(made.grad.isfinite().all()) and float(made.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert float(distance(batch[:2], batch[:2])) == 0.0


def test_faint_patches_count_as_much_as_strong_ones():
    """By hand: a patch of two halves, c apart, has variance (c / 2)²; all its pixels are wrong by a tenth of c."""
    from mmlm.training.perceptual import contrast_distance

    distance = contrast_distance(patch=8, weight=1.0, floor=0.0)
    found = []
    for contrast in (0.8, 0.08):
        real = torch.full((1, 3, 8, 8), 0.1)
        real[..., :4] += contrast
        found.append(float(distance(real + contrast / 10, real)))
    assert found == pytest.approx([0.04, 0.04], rel=1e-3)
    flat = torch.full((1, 3, 16, 8), 0.5)
    made = flat.clone()
    made[:, :, :8] += 0.1  # one of two patches, without contrast of its own
    found = float(contrast_distance(weight=0.5, floor=0.01)(made, flat))
    assert found == pytest.approx(0.5 * (0.01 / 0.01 + 0) / 2, rel=1e-3)
