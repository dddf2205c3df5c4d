"""The diffusion decoder (decoders/diffusion): its path, its condition, its laws."""

import dataclasses

import numpy as np
import pytest
import torch

from decoders.codecs.checkpoint import codec_fingerprint
from decoders.codecs.spectrum import spectral_distance
from decoders.diffusion.checkpoint import load_decoder, save_decoder
from decoders.diffusion.decoder import DiffusionDecoder, DiffusionDecoderConfig, corrupted
from support.codec_parts import audio_codec, block_codec, image_codec, media_for

SMALL = DiffusionDecoderConfig(channels=(16, 32), patch=2, window=64, hop=40)


def decoder(modality="image", seed=0):
    codec = image_codec() if modality == "image" else audio_codec()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = DiffusionDecoder(codec, SMALL).eval()
        made.scale.uniform_(0.2, 0.8)
        torch.nn.init.normal_(made.unet.conv_out.weight, std=0.1)
    return made


@pytest.fixture(scope="module", params=["image", "audio"])
def made(request):
    return decoder(request.param)


def codes_of(made, batch=3, length=1500):
    return made.codec.encode(media_for(made.codec, batch, length)).codes


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_whoever_knows_the_media_gets_them_in_any_number_of_steps(made, steps, monkeypatch):
    media = media_for(made.codec, length=1600)
    codes = made.codec.encode(media).codes
    plain = made.codec.decode(codes)
    level = made.canvas.level(plain)
    canvas = made.canvas.from_media(media, level)
    detail = (canvas - made.canvas.from_media(plain, level)) / made.scale
    seen = []

    def knows(noisy, t, condition):
        seen.append((noisy, t))
        return detail

    monkeypatch.setattr(made, "predict", knows)
    decoded = made.decode(codes, steps, seed=5)
    torch.testing.assert_close(decoded, made.canvas.to_media(canvas, plain, level), atol=1e-4, rtol=0)
    if made.codec.modality == "image":
        torch.testing.assert_close(decoded, media, atol=1e-5, rtol=0)
    # The straight path, by hand: at level t what is seen is (1 − t)·detail + t·noise, and t falls by equal parts.
    noise = seen[0][0]
    for step, (noisy, t) in enumerate(seen):
        level = 1 - step / steps
        torch.testing.assert_close(t, torch.full((2,), level), atol=1e-6, rtol=0)
        torch.testing.assert_close(noisy, (1 - level) * detail + level * noise, atol=1e-4, rtol=0)


def test_guidance_goes_away_from_what_has_no_condition(made, monkeypatch):
    def predict(noisy, t, condition):
        return torch.full_like(noisy, 0.1 if bool((condition == 0).all()) else 0.3)

    monkeypatch.setattr(made, "predict", predict)
    monkeypatch.setattr(made, "media", lambda detail, reference: detail)
    codes = codes_of(made)
    for scale, expected in ((1.0, 0.3), (2.0, 0.5), (0.5, 0.2), (0.0, 0.1)):
        found = made.decode(codes, 1, guidance_scale=scale)
        torch.testing.assert_close(found, torch.full_like(found, expected), atol=1e-5, rtol=0)


def test_a_seed_is_a_row_of_its_own(made):
    codes = codes_of(made)
    together = made.decode(codes, 2, seed=3)
    assert torch.equal(together, made.decode(codes, 2, seed=3))
    for row in range(3):
        single = made.decode(codes[row : row + 1], 2, seed=3 + row)
        torch.testing.assert_close(single[0], together[row], atol=1e-4, rtol=0)
    torch.testing.assert_close(made.decode(codes, 2, seed=[3, 4, 5]), together, atol=0, rtol=0)
    assert torch.equal(made.decode(codes, 2, seed=np.int64(3)), together)
    assert not torch.allclose(made.decode(codes, 2, seed=9), together, atol=1e-3)
    before = torch.random.get_rng_state()
    made.decode(codes, 1)
    assert torch.equal(before, torch.random.get_rng_state())
    with pytest.raises(ValueError, match="2 seeds for 3 rows"):
        made.decode(codes, seed=[1, 2])
    with pytest.raises(ValueError, match="steps"):
        made.decode(codes, 0)
    with pytest.raises(ValueError, match="outside the codebook"):
        made.decode(codes + made.codec.codebook_size)


def test_every_step_can_be_looked_at(made):
    seen = []
    last = made.decode(codes_of(made), 3, callback=lambda step, steps, media: seen.append((step, steps, media)))
    assert [(step, steps) for step, steps, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    torch.testing.assert_close(seen[-1][2], last, atol=1e-4, rtol=0)
    assert all(media.shape == last.shape and bool(media.isfinite().all()) for _, _, media in seen)


@pytest.mark.parametrize("length", [1, 37, 800, 1234])
def test_sound_keeps_its_length(length):
    made = decoder("audio")
    sound = media_for(made.codec, length=length)
    assert made.decode(made.codec.encode(sound).codes, 1, length=length).shape == sound.shape


def test_a_code_is_spread_over_what_it_stands_for():
    made = decoder("image")
    latents = torch.arange(4.0).view(1, 1, 2, 2).expand(1, made.codec.latent_dim, 2, 2)
    expected = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert torch.equal(made.canvas.spread(latents, 8, 8)[0, 0], expected)
    canvas = made.canvas.from_media(torch.rand(1, 3, 16, 16), torch.ones(1, 1, 1, 1))
    codes = torch.tensor([[[[0, 1], [2, 3]]]])
    condition, width = made.condition(codes, canvas), made.codec.latent_dim
    spread = made.codec.codes_to_latents(codes).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.equal(condition[:, :width], spread) and torch.equal(condition[:, width:-1], canvas)
    assert torch.equal(condition[0, -1, :, 0], torch.linspace(-1, 1, 8))  # and the number of the row
    made = decoder("audio")  # 160 samples a code, 80 a column of the canvas
    latents = torch.arange(10.0).view(1, 1, 10).expand(1, made.codec.latent_dim, 10)
    spread = made.canvas.spread(latents, 16, 22)
    assert torch.equal(spread[0, 0, 0, :20], torch.arange(10.0).repeat_interleave(2))
    assert torch.equal(spread[0, 0, :, 20:], torch.full((16, 2), 9.0))  # columns of padding


class Seen:
    """A spectrum that remembers what it was to make sound of."""

    def __init__(self, spectrum):
        self.spectrum, self.hop, self.values = spectrum, spectrum.hop, None

    def analyse(self, sound):
        return self.spectrum.analyse(sound)

    def synthesise(self, values):
        self.values = values
        return self.spectrum.synthesise(values)


def test_sound_keeps_the_phases_and_the_energy_of_each_band_of_the_plain_reconstruction():
    made = decoder("audio")
    plain = made.codec.decode(codes_of(made, 1, 1600))
    level = made.canvas.level(plain)
    draw = torch.Generator().manual_seed(0)
    canvas = torch.rand(1, 4, 16, 20, generator=draw) * torch.linspace(0.1, 5, 16).view(1, 1, -1, 1)
    spectrum = Seen(made.canvas.spectrum)
    dataclasses.replace(made.canvas, spectrum=spectrum).to_media(canvas, plain, level)
    spectra = spectrum.values, spectrum.analyse(plain[:, 0])
    energy = [spectrum.square().mean((1, 3)).view(1, 16, 2).mean(2) for spectrum in spectra]
    torch.testing.assert_close(*energy, rtol=1e-3, atol=1e-6)
    phases = [torch.atan2(spectrum[:, 1], spectrum[:, 0]) for spectrum in spectra]
    heard = spectra[1].norm(dim=1) > 1e-3
    torch.testing.assert_close(phases[0][heard], phases[1][heard], rtol=0, atol=1e-3)


def test_sound_whose_magnitudes_are_the_real_ones_is_nearer_to_it():
    """By the log-mel distance, which hears no phases: what a perfect decoder makes of a poor reconstruction."""
    made = decoder("audio")
    real = media_for(made.codec, 2, 1600) * torch.linspace(0, 1, 1600)
    plain = 0.5 * (real + media_for(made.codec, 2, 1600, seed=1))  # noise that is as loud from the start
    level = made.canvas.level(plain)
    best = made.canvas.to_media(made.canvas.from_media(real, level), plain, level)
    near, far = (spectral_distance(sound[:, 0], real[:, 0], 8000) for sound in (best, plain))
    assert near < 0.5 * far


def test_training_moves_the_unet_alone():
    made = decoder("image").train()
    media = media_for(made.codec, 4)
    codes, before = codes_of(made, 4), codec_fingerprint(made.codec)
    optimizer = torch.optim.Adam(made.unet.parameters(), 1e-3)
    losses = []
    for _ in range(25):
        loss = made.loss(media, codes, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0] and codec_fingerprint(made.codec) == before and not made.codec.training


def test_rows_that_are_dropped_see_nothing_of_their_codes(monkeypatch):
    made = decoder("image")
    media, codes = media_for(made.codec, 40, 0), codes_of(made, 40)
    seen = []
    monkeypatch.setattr(made, "predict", lambda noisy, t, condition: (seen.append(condition), noisy)[1])
    for dropped in (0.0, 0.25, 0.999):
        made.loss(media, codes, torch.Generator().manual_seed(0), dropped)
    blind = [(condition == 0).flatten(1).all(1).double().mean().item() for condition in seen]
    assert blind[0] == 0 and 0.05 < blind[1] < 0.5 and blind[2] > 0.9


def test_corruption_is_as_frequent_as_it_is_said():
    codes = torch.zeros(1, 1, 100, 100, dtype=torch.long)
    wrong = corrupted(codes, 50, 0.2, torch.Generator().manual_seed(0))
    assert float((wrong != 0).float().mean()) == pytest.approx(0.2 * 49 / 50, abs=0.02)
    assert int(wrong.min()) >= 0 and int(wrong.max()) <= 49
    assert torch.equal(corrupted(codes, 50, 0.0, torch.Generator()), codes)


def test_saved_and_loaded_it_decodes_the_same_bits(made, tmp_path):
    save_decoder(made, tmp_path)
    codes = codes_of(made)
    assert torch.equal(load_decoder(tmp_path, made.codec).decode(codes, 2), made.decode(codes, 2))
    with pytest.raises(ValueError, match="is of codec"):
        load_decoder(tmp_path, image_codec(seed=7))


@pytest.mark.parametrize("wrong", [dict(channels=()), dict(channels=(20,)), dict(patch=0), dict(layers=0)])
def test_sizes_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="must be"):
        DiffusionDecoderConfig(**wrong)


def test_levels_are_of_the_plain_reconstruction():
    made = decoder("audio")
    plain = made.codec.decode(codes_of(made, 2, 1600))
    values = made.canvas.from_media(plain, made.canvas.level(plain))
    assert np.allclose(values.square().mean((1, 2, 3)).numpy(), 1.0, atol=1e-4)


def test_calibrated_the_detail_is_of_unit_size_at_every_pitch(made):
    media = media_for(made.codec, 8, 1600)
    codes = made.codec.encode(media).codes
    made.calibrate(media, codes)
    scale = made.scale.clone()
    made.calibrate(media, codes)  # whatever it was before
    torch.testing.assert_close(made.scale, scale)
    detail = made.detail(media, made.reference_of(media, codes))
    rows = detail.square().mean((0, 1, 3)) if made.codec.modality == "audio" else detail.square().mean()
    loud = scale.flatten() > 1e-3 if made.codec.modality == "audio" else torch.tensor(True)
    torch.testing.assert_close(rows[loud], torch.ones_like(rows[loud]), atol=1e-4, rtol=0)


def test_without_latents_it_sees_the_reconstruction_alone(tmp_path):
    """Codes that are decoded alike are then detailed alike; with latents they are not."""
    codec = block_codec()
    codec.residuals[:, 1] = codec.residuals[:, 0]  # two codes of nothing
    codes = codec.encode(media_for(codec)).codes
    codes[:, 2:] = 0
    same = codes.clone()
    same[:, 2:] = 1
    other = codes.roll(1, 2)
    for latents in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = DiffusionDecoder(codec, dataclasses.replace(SMALL, latents=latents)).eval()
            torch.nn.init.normal_(made.unet.conv_out.weight, std=0.1)
        reference = made.reference(codes)
        seen = [made.condition(own, reference.canvas) for own in (codes, same, other)]
        assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2]) != latents
        assert seen[0].shape[1] == reference.canvas.shape[1] + 1 + latents * codec.latent_dim
        assert torch.equal(made.decode(codes), made.decode(same))
        save_decoder(made, tmp_path / str(latents))
        assert torch.equal(load_decoder(tmp_path / str(latents), codec).decode(codes), made.decode(codes))


def test_before_it_has_learned_anything_it_gives_the_plain_reconstruction():
    codec = image_codec()
    fresh = DiffusionDecoder(codec, SMALL).eval()
    codes = codec.encode(media_for(codec, 2, 0)).codes
    plain = codec.decode(codes)
    torch.testing.assert_close(fresh.decode(codes, 4), plain, atol=1e-6, rtol=0)


def test_consistency_is_how_far_the_codec_sees_the_media_from_the_codes_latents(made, monkeypatch):
    media = media_for(made.codec, 6, 1600)
    codes = made.codec.encode(media).codes
    latents = made.codec.codes_to_latents(codes)
    unit = latents.var(dim=1).mean()

    def losses(seen, dropped=0.0):
        monkeypatch.setattr(made.codec, "project", lambda media: seen)
        draws = [torch.Generator().manual_seed(0) for _ in range(2)]
        return [made.loss(media, codes, draw, dropped, weight) for draw, weight in zip(draws, (0.0, 3.0), strict=True)]

    plain, weighted = losses(latents)
    torch.testing.assert_close(weighted, plain)  # the codes are kept: nothing is added
    plain, weighted = losses(latents + 0.5)
    torch.testing.assert_close(weighted - plain, 3.0 * 0.25 / unit, rtol=1e-4, atol=1e-5)
    plain, weighted = losses(latents + 0.5, dropped=1.0)
    torch.testing.assert_close(weighted, plain)  # rows that see no codes have none to keep
    plain, weighted = losses(None)
    torch.testing.assert_close(weighted, plain)


def test_consistency_reaches_the_network(made):
    media = media_for(made.codec, 2, 1600)
    codes = made.codec.encode(media).codes
    gradients = []
    for weight in (0.0, 1.0):
        made.unet.zero_grad()
        made.loss(media, codes, torch.Generator().manual_seed(0), 0.0, weight).backward()
        gradients.append(made.unet.conv_in.weight.grad.clone())
    assert bool(torch.isfinite(gradients[1]).all()) and not torch.equal(*gradients)
    made.unet.zero_grad()


def test_what_a_codec_projects_is_what_it_quantises(made):
    media = media_for(made.codec, 3, 1600)
    codes, *_ = made.codec.quantizer(made.codec.project(media))
    assert torch.equal(codes, made.codec.encode(media).codes)
    assert image_codec("fsq").project(media_for(image_codec(), 2, 0)) is None
