"""The measures of recipes/diffusion_decoder against formulas of another form, and its control."""

import numpy as np
import pytest
import torch

from decoders.diffusion.decoder import DiffusionDecoderConfig
from recipes.diffusion_decoder.decoders import DeterministicDecoder
from recipes.diffusion_decoder.measures import PATCH, agreement, fine_power, frame_distance, patch_distance
from recipes.diffusion_decoder.table import compare, interval
from recipes.nano.recogniser import SAMPLES, placed, varied
from recipes.nano.speaking import band_distances
from support.codec_parts import image_codec, media_for


def pictures(count, seed, spread=0.3):
    return (0.5 + spread * torch.randn(count, 3, 12, 16, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)


def frechet(first, second):
    """By windows of numpy and the symmetric root √(√A·B·√A) of float64 covariances."""
    moments = []
    for crowd in (first.double().numpy(), second.double().numpy()):
        windows = np.lib.stride_tricks.sliding_window_view(crowd, (PATCH, PATCH), axis=(2, 3))
        patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 3 * PATCH * PATCH)
        moments.append((patches.mean(0), np.cov(patches.T, bias=True)))
    (mean, a), (other, b) = moments
    values, vectors = np.linalg.eigh(a)
    root = vectors @ np.diag(np.sqrt(values.clip(0))) @ vectors.T
    trace = np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(0)).sum()
    return ((mean - other) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * trace


def test_the_patch_distance_is_frechets():
    smooth = torch.nn.functional.avg_pool2d(pictures(60, 1), 3, 1, 1)
    for first, second in ((pictures(70, 0), pictures(60, 1)), (pictures(70, 0), smooth)):
        assert patch_distance(first, second) == pytest.approx(frechet(first, second), rel=1e-5)
    assert abs(patch_distance(smooth, smooth)) < 1e-6
    # A shift of everything by 0.1 is the mean's alone: 75 values of 0.1².
    assert patch_distance(smooth * 0.5, smooth * 0.5 + 0.1) == pytest.approx(0.75, abs=1e-6)


def test_fine_power_is_above_a_quarter_cycle():
    # A checkerboard of ±0.2 has all its power at half a cycle along both sides: (N·0.2)² at one of the N frequencies.
    board = 0.2 * (-1.0) ** (torch.arange(8)[:, None] + torch.arange(8)).expand(1, 3, 8, 8)
    assert fine_power(0.5 + board) == pytest.approx((64 * 0.2) ** 2 / 64, rel=1e-6)
    wave = torch.cos(2 * torch.pi * torch.arange(8) / 8).expand(1, 3, 8, 8)  # an eighth of a cycle a pixel
    assert fine_power(0.5 + 0.2 * wave) == pytest.approx(0, abs=1e-8)


def test_agreement_by_hand():
    codec = image_codec()
    codes = codec.encode(media_for(codec, 4, 0)).codes
    made = codec.decode(codes)
    again = codec.encode(made).codes
    assert agreement(codec, made, again) == 1.0
    wrong = again.clone()
    wrong[0] = (wrong[0] + 1) % codec.codebook_size
    assert agreement(codec, made, wrong) == 0.75


def test_the_control_sees_no_noise_and_learns_the_mean():
    codec = image_codec()
    torch.manual_seed(0)
    control = DeterministicDecoder(codec, DiffusionDecoderConfig(channels=(16, 32))).train()
    media = media_for(codec, 4, 0)
    codes = codec.encode(media).codes
    with torch.no_grad():  # before training it gives the plain reconstruction, so the loss is that one's, in its scale
        control.calibrate(media, codes)
        losses = [control.loss(media, codes, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert torch.equal(*losses)
    expected = (2 * (media - codec.decode(codes)) / control.scale).square().mean()
    torch.testing.assert_close(losses[0], expected, rtol=1e-5, atol=0)
    control.eval()
    assert torch.equal(control.decode(codes, seed=0), control.decode(codes, seed=1))


def test_a_word_is_heard_anywhere_in_its_second():
    sound = torch.arange(1.0, 1001)
    row = placed([sound, torch.arange(1.0, SAMPLES + 201)])
    assert torch.equal(row[0, 3500:4500], sound) and float(row[0].sum()) == float(sound.sum())
    assert torch.equal(row[1], torch.arange(101.0, SAMPLES + 101))
    draws = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    first, same, other = (varied(sound, draw) for draw in draws)
    assert first.shape == (SAMPLES,) and torch.equal(first, same) and not torch.equal(first, other)
    assert varied(torch.ones(3 * SAMPLES), draws[0]).shape == (SAMPLES,)


def test_the_frame_distance_of_shifted_and_of_scaled_frames():
    frames = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    assert abs(frame_distance(frames, frames)) < 1e-9
    assert frame_distance(frames, frames + 0.5) == pytest.approx(4 * 0.25, rel=1e-5)
    centred = frames - frames.mean(0)  # twice as wide: tr(C + 4·C − 2·2·C) = tr C
    assert frame_distance(centred, 2 * centred) == pytest.approx(float(centred.square().sum(1).mean()), rel=1e-5)


def test_band_distances_by_hand():
    time = torch.arange(8000) / 8000
    low, high = (0.3 * torch.sin(2 * torch.pi * pitch * time) for pitch in (200, 3500))
    apart = band_distances([low], [0.1 * low])  # ten times the amplitude: a bel where there is sound above the floor
    assert 0.5 < apart[0] < 1.05 and float(apart[3]) < 0.2
    assert int(band_distances([low + high], [low]).argmax()) == 3
    assert float(band_distances([low], [low]).abs().max()) == 0


def test_intervals_are_students():
    # By hand: of 1, 2 and 3 the mean is 2, the deviation 1, and 4.303 / √3 = 2.48.
    assert interval((1.0, 2.0, 3.0), 2) == "2.00 ± 2.48"
    assert interval((1.0,), 1) == "1.0"


def test_a_table_has_a_row_for_each_way_and_says_how_much_lower_four_steps_are(capsys):
    figures = {"own": [(6.0, 1.0)], "control": [(3.0, 2.0), (5.0, 2.0)], "diffusion, 4 steps": [(2.0, 0.5), (2.0, 0.5)]}
    ways = {name: [lambda codes, row=row: row for row in rows] for name, rows in figures.items()}
    compare(ways, {"distance": 1, "kept": 2}, lambda decode: list(decode(None)), "distance")
    lines = capsys.readouterr().out.splitlines()
    # Of 3 and 5: 12.706 · √2 / √2.
    assert lines[2:5] == [
        "| own | 6.0 | 1.00 |",
        "| control | 4.0 ± 12.7 | 2.00 ± 0.00 |",
        "| diffusion, 4 steps | 2.0 ± 0.0 | 0.50 ± 0.00 |",
    ]
    assert lines[-1] == "Distance of four steps: 3.0 times lower than of own, 2.0 times lower than of control."
