"""Codecs (decoders/): what goes in comes out by codes alone, and what cannot be is refused."""

import dataclasses

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from decoders.codecs.base import NonFiniteLatentsError, agreement, codebook_statistics
from decoders.codecs.checkpoint import codec_fingerprint, load_codec, save_codec
from decoders.codecs.image_vqvae import ImageVQVAE, ImageVQVAEConfig
from decoders.codecs.quantizer import FSQ_LEVELS, Quantizer, QuantizerConfig
from decoders.codecs.raw import MuLawCodec, PaletteCodec
from decoders.codecs.spectrum import COMPRESSION, Spectrum, log_mel, mel_bands
from support.codec_parts import (
    CODECS,
    QUANTIZERS,
    audio_codec,
    image_codec,
    media_for,
    palette_codec,
    same_codes,
    settled,
)


@pytest.fixture(scope="module", params=CODECS)
def codec(request):
    return CODECS[request.param]()


def test_codes_alone_carry_the_latents(codec):
    """In evaluation the latents of encoding are those of the codes, bit for bit, whatever the layout of the grid."""
    encoded = codec.encode(media_for(codec))
    assert encoded.codes.dtype == torch.int64 and encoded.codes.shape[:2] == (2, codec.num_codebooks)
    assert torch.equal(codec.codes_to_latents(encoded.codes), encoded.latents)
    assert encoded.loss is None and not encoded.latents.requires_grad
    assert codec.decode(encoded.codes).shape == media_for(codec).shape


def test_a_batch_is_its_rows(codec):
    media = media_for(codec, batch=3)
    together = codec.encode(media).codes
    assert same_codes(codec, media, torch.cat([codec.encode(row[None]).codes for row in media]))
    decoded = codec.decode(together)
    for row, codes in zip(decoded, together, strict=True):
        torch.testing.assert_close(codec.decode(codes[None])[0], row, atol=1e-5, rtol=1e-5)


def test_neither_precision_nor_kind_of_integer_matters(codec):
    encoded = codec.encode(media_for(codec))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.encode(media_for(codec).double()).codes, encoded.codes)
        assert torch.equal(codec.decode(encoded.codes.to(torch.int16)), codec.decode(encoded.codes))


def test_fingerprints_tell_codecs_without_weights_apart():
    assert len({codec_fingerprint(MuLawCodec(rate, size)) for rate in (8000, 16000) for size in (64, 256)}) == 4


def test_an_option_that_comes_later_changes_no_fingerprint_and_one_that_is_chosen_does():
    @dataclasses.dataclass(frozen=True)
    class Later(ImageVQVAEConfig):
        option: int = 0

    codec = image_codec()
    before, sizes = codec_fingerprint(codec), vars(codec.config)
    codec.config = Later(**sizes)
    assert codec_fingerprint(codec) == before
    codec.config = Later(**sizes, option=1)
    assert codec_fingerprint(codec) != before
    codec.config = Later(**sizes | {"quantizer": dataclasses.replace(sizes["quantizer"], decay=0.5)})
    assert codec_fingerprint(codec) != before


def test_what_is_decoded_lies_in_the_range(codec):
    draw = torch.Generator().manual_seed(1)
    grid = codec.grid or (7,)
    codes = torch.randint(codec.codebook_size, (4, codec.num_codebooks, *grid), generator=draw)
    media = codec.decode(codes)
    low, high = codec.value_range
    assert low <= float(media.min()) and float(media.max()) <= high and media.shape[1] == codec.channels
    assert 0.0 <= agreement(codec, codes) <= 1.0


def test_codes_that_cannot_be_are_refused(codec):
    codes = codec.encode(media_for(codec)).codes
    for wrong, message in ((-1, "code -1 is outside"), (codec.codebook_size, f"code {codec.codebook_size} is outside")):
        changed = codes.clone()
        changed[(-1,) * codes.ndim] = wrong
        for refused in (codec.decode, codec.codes_to_latents):
            with pytest.raises(ValueError, match=message):
                refused(changed)
    with pytest.raises(ValueError, match="integers"):
        codec.decode(codes.float())
    with pytest.raises(ValueError, match="codebooks"):
        codec.decode(torch.cat([codes, codes], dim=1))
    with pytest.raises(ValueError, match="codes are"):
        codec.decode(codes[0])
    if codec.grid is not None:
        with pytest.raises(ValueError, match="grid"):
            codec.decode(codes[..., :1])


def test_media_that_cannot_be_are_refused(codec):
    media = media_for(codec)
    for value, message in ((float("nan"), "NaN"), (float("inf"), "infinite"), (3.0, "must lie in")):
        changed = media.clone()
        changed.view(-1)[5] = value
        with pytest.raises(ValueError, match=message):
            codec.encode(changed)
    with pytest.raises(ValueError, match="floating point"):
        codec.encode((media * 255).to(torch.uint8))
    with pytest.raises(ValueError, match="takes"):
        codec.encode(media.new_zeros(2, 5, *media.shape[2:]))
    if codec.modality == "image":
        with pytest.raises(ValueError, match="16 × 16"):
            codec.encode(torch.rand(1, 3, 24, 16))


@pytest.mark.parametrize("length", [1, 159, 160, 1234])
def test_sound_of_any_length_keeps_it(length):
    codec = audio_codec()
    sound = media_for(codec, length=length)
    codes = codec.encode(sound).codes
    assert codes.shape == (2, 3, codec.frames(length)) and codec.frames(length) == -(-length // 160)
    assert codec.frame_rate == 50
    assert codec.decode(codes, length).shape == sound.shape
    with pytest.raises(ValueError, match="length"):
        codec.decode(codes, codes.shape[-1] * 160 + 1)


def test_usage_and_perplexity_by_hand():
    codes = torch.tensor([[[0, 0, 1, 1], [2, 2, 2, 2]], [[0, 0, 1, 1], [2, 2, 2, 2]]])  # [B=2, K=2, T=4]
    usage, perplexity = codebook_statistics(codes, 4)
    torch.testing.assert_close(usage, torch.tensor([0.5, 0.25]))
    torch.testing.assert_close(perplexity, torch.tensor([2.0, 1.0]))
    _, perplexity = codebook_statistics(torch.tensor([[[0, 0, 0, 1]]]), 4)
    assert float(perplexity) == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))), rel=1e-5)


# ---- quantisers


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_codes_mean_the_nearest_entries(kind):
    """Against float64 arithmetic of our own, from the codebook's bare entries."""
    torch.manual_seed(0)
    quantizer = Quantizer(QUANTIZERS[kind])
    latents = torch.randn(3, quantizer.config.latent_dim, 4, 5)
    quantizer(latents)  # fills the learned ones
    quantizer.eval()
    codes, quantised, loss = quantizer(latents)
    vectors = latents.double().movedim(1, -1).reshape(-1, quantizer.config.latent_dim)
    if kind in ("vq", "rvq"):
        layers = [quantizer.layer] if kind == "vq" else list(quantizer.layer.layers)
        rest, total, expected = vectors, torch.zeros_like(vectors), []
        for layer in layers:
            entries = layer.codebook.double()
            nearest = (rest[:, None] - entries[None]).square().sum(-1).argmin(1)
            expected.append(nearest)
            total, rest = total + entries[nearest], rest - entries[nearest]
        expected = torch.stack(expected, dim=1)
    elif kind == "lfq":
        total = torch.where(vectors > 0, 1.0, -1.0).double()
        expected = ((vectors > 0).long() * 2 ** torch.arange(5, -1, -1)).sum(1, keepdim=True)
    else:
        levels = torch.tensor((8, 6, 5), dtype=torch.float64)  # the paper's appendix A.1
        half, offset = (levels - 1) * 1.001 / 2, torch.tensor((0.5, 0.5, 0.0), dtype=torch.float64)
        steps = ((vectors + (offset / half).atanh()).tanh() * half - offset).round()
        total = steps / (levels // 2)
        expected = ((steps + levels // 2).long() * torch.tensor([1, 8, 48])).sum(1, keepdim=True)
    found = codes.movedim(1, -1).reshape(-1, codes.shape[1])
    moved = [quantizer(latents + 1e-5 * torch.randn(latents.shape)) for _ in range(4)]
    sure = torch.stack([other.eq(codes).all(1).flatten() for other, *_ in moved]).all(0)  # far from a tie
    assert sure.float().mean() > 0.9 and torch.equal(found[sure], expected[sure])
    quantised_rows = quantised.movedim(1, -1).reshape(total.shape).double()
    torch.testing.assert_close(quantised_rows[sure], total[sure], atol=1e-5, rtol=0)
    assert torch.equal(quantizer.latents(codes), quantised) and loss is None


def test_a_codebook_is_not_made_up_in_evaluation():
    """vector-quantize-pytorch would run k-means on the first batch of evaluation."""
    fresh = ImageVQVAE(ImageVQVAEConfig(16, 8, 4, 16, 1, QUANTIZERS["vq"])).eval()
    before = codec_fingerprint(fresh)
    with pytest.raises(RuntimeError, match="not been learned"):
        fresh.encode(torch.zeros(1, 3, 16, 16))
    assert codec_fingerprint(fresh) == before


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_latents_that_are_not_numbers_get_no_code(kind):
    quantizer = Quantizer(QUANTIZERS[kind])
    latents = torch.randn(1, quantizer.config.latent_dim, 40, 1)
    quantizer(latents)
    latents[0, 0, 3, 0] = float("nan")
    for mode in (True, False):
        with pytest.raises(NonFiniteLatentsError):
            quantizer.train(mode)(latents)


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_evaluation_leaves_the_codebook_alone_and_half_precision_changes_no_code(kind):
    codec = image_codec(kind)
    before = codec_fingerprint(codec)
    latents = torch.randn(4, codec.latent_dim, 2, 2)
    codes = codec.quantizer(latents)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.quantizer(latents)[0], codes)
        assert torch.equal(codec.quantizer(latents.bfloat16().float())[0], codec.quantizer(latents.bfloat16())[0])
    assert codec_fingerprint(codec) == before


def test_a_learned_codebook_does_not_collapse():
    """Sixteen heaps of vectors, far apart: after a few batches nearly every entry is in use."""
    draw = torch.Generator().manual_seed(0)
    centres = 5 * torch.randn(16, 6, generator=draw)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        quantizer = Quantizer(QuantizerConfig("vq", 32, dim=6))
        for _ in range(30):
            heaps = centres[torch.randint(16, (256,), generator=draw)] + 0.5 * torch.randn(256, 6, generator=draw)
            codes, _, loss = quantizer(heaps.T[None].unsqueeze(-1))
    usage, perplexity = codebook_statistics(codes, 32)
    assert float(usage) >= 0.9 and float(perplexity) > 16
    assert loss.item() < 0.25 * 0.5**2  # nearer than the heaps are wide


def test_gradients_pass_the_quantiser():
    for kind in QUANTIZERS:
        codec = image_codec(kind).train().requires_grad_(True)
        made, codes, loss = codec.reconstruct(media_for(codec, batch=8))
        (made.square().mean() + (0 if loss is None else loss)).backward()
        assert all(float(weight.grad.abs().sum()) > 0 for weight in codec.encoder.parameters() if weight.ndim > 1), kind


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(kind="vq", num_codebooks=2), "rvq"),
        (dict(kind="fsq", codebook_size=500), "fsq"),
        (dict(kind="lfq", codebook_size=100), "power of two"),
        (dict(kind="gumbel"), "quantizer is"),
        (dict(codebook_size=1), "at least 2"),
    ],
)
def test_quantisers_that_cannot_be(wrong, message):
    with pytest.raises(ValueError, match=message):
        QuantizerConfig(**wrong)


def test_levels_multiply_to_the_codebook():
    assert all(np.prod(levels) == size for size, levels in FSQ_LEVELS.items())


# ---- saving


@pytest.mark.parametrize("kind", QUANTIZERS)
@pytest.mark.parametrize("make", [image_codec, audio_codec])
def test_saved_and_loaded_it_is_the_same(make, kind, tmp_path):
    codec = make(kind)
    save_codec(codec, tmp_path / "codec")
    again = load_codec(tmp_path / "codec")
    media = media_for(codec)
    assert torch.equal(again.encode(media).codes, codec.encode(media).codes)
    assert torch.equal(again.decode(codec.encode(media).codes), codec.decode(codec.encode(media).codes))
    assert not again.training and codec_fingerprint(again) == codec_fingerprint(codec)
    save_codec(codec, tmp_path / "half", torch.float16)
    assert codec_fingerprint(load_codec(tmp_path / "half")) == codec_fingerprint(codec)
    assert codec_fingerprint(make(kind, seed=1)) != codec_fingerprint(codec)


def test_what_is_damaged_is_said_so(tmp_path):
    save_codec(image_codec(), tmp_path)
    with pytest.raises(FileNotFoundError, match="missing"):
        load_codec(tmp_path / "nowhere")
    with pytest.raises(TypeError, match="own format"):
        save_codec(palette_codec(), tmp_path / "other")
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(ValueError, match="damaged"):
        load_codec(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(weights)
    (tmp_path / "config.json").write_text('{"kind": "jpeg"}')
    with pytest.raises(ValueError, match="holds no codec"):
        load_codec(tmp_path)


# ---- the early way


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 1024), st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50))
def test_mu_law_is_torchaudios(codebook_size, samples):
    codec, sound = MuLawCodec(8000, codebook_size), torch.tensor(samples)
    codes = codec.encode(sound.view(1, 1, -1)).codes[0, 0]
    theirs = torchaudio.functional.mu_law_encoding(sound, codebook_size)
    most, exact = codebook_size - 1, sound.double()
    steps = (exact.sign() * (most * exact.abs()).log1p() / np.log1p(most) + 1) / 2 * most + 0.5
    sure = ((steps - steps.round()).abs() > 1e-3) | (sound == 0)  # no rounding can move these into another step
    assert torch.equal(codes[sure], theirs[sure]) and bool(((codes - theirs).abs() <= 1).all())
    assert torch.equal(codes[sure & (sound != 0)], steps[sure & (sound != 0)].long())
    torch.testing.assert_close(
        codec.decode(codes.view(1, 1, -1))[0, 0],
        torchaudio.functional.mu_law_decoding(codes, codebook_size), atol=1e-6, rtol=1e-5,
    )  # fmt: skip


def test_what_the_early_way_decodes_encodes_to_the_same_codes():
    mu_law, palette = MuLawCodec(8000, 256), palette_codec()
    assert agreement(mu_law, torch.arange(256).view(1, 1, -1)) == 1.0
    assert agreement(palette, torch.arange(24).view(6, 1, 2, 2)) == 1.0


def test_a_palette_is_of_the_colours_there_are():
    colours = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.2, 0.4, 0.6]])
    cells = colours[torch.randint(4, (20, 2, 2), generator=torch.Generator().manual_seed(0))]
    pictures = cells.permute(0, 3, 1, 2).repeat_interleave(8, 2).repeat_interleave(8, 3)
    codec = PaletteCodec.learn(pictures, codebook_size=4)
    nearest = torch.cdist(colours, codec.palette).min(1)
    assert len(set(nearest.indices.tolist())) == 4 and float(nearest.values.max()) < 1e-5
    torch.testing.assert_close(codec.decode(codec.encode(pictures).codes), pictures)
    with pytest.raises(ValueError, match="fewer than 5"):
        PaletteCodec.learn(pictures, codebook_size=5)


# ---- spectra


def test_spectra_go_back_to_the_sound():
    """Of sound without the topmost bin, which is left out."""
    spectrum = Spectrum(256, 80)
    white = np.random.default_rng(0).standard_normal((2, 8000))
    bands = np.fft.rfft(white)
    bands[:, 3800:] = 0
    sound = torch.from_numpy(np.fft.irfft(bands, 8000) * np.hanning(8000)).float()  # no click at either end
    analysed = spectrum.analyse(sound)
    assert analysed.shape == (2, 2, 128, 100)
    torch.testing.assert_close(spectrum.synthesise(analysed), sound, atol=2e-3, rtol=0)


def test_a_frame_is_the_spectrum_around_its_own_samples():
    spectrum = Spectrum(64, 16)
    sound = torch.randn(1, 320, generator=torch.Generator().manual_seed(0))
    analysed = spectrum.analyse(sound)
    frame = 7  # samples 112..127; its window of 64 reaches 24 samples further to both sides
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(64) / 64)
    by_hand = np.fft.rfft(sound[0, 112 - 24 : 112 + 40].double().numpy() * taper)[:-1] / 8
    by_hand = np.abs(by_hand) ** COMPRESSION * np.exp(1j * np.angle(by_hand))
    ours = torch.complex(analysed[0, 0, :, frame], analysed[0, 1, :, frame]).numpy()
    np.testing.assert_allclose(ours, by_hand, atol=1e-4)


def test_mel_bands_are_torchaudios():
    theirs = torchaudio.functional.melscale_fbanks(129, 0.0, 4000.0, 20, 8000, None, "htk").T
    torch.testing.assert_close(mel_bands(129, 20, 8000), theirs / theirs.sum(1, keepdim=True), atol=1e-5, rtol=1e-4)
    assert (mel_bands(33, 40, 8000).sum(1) - 1).abs().max() < 1e-5  # none is empty, however narrow


def test_ten_times_the_amplitude_is_one_bel_more():
    sound = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0)) * 0.05
    difference = log_mel(10 * sound, 8000, 256, 20) - log_mel(sound, 8000, 256, 20)
    torch.testing.assert_close(difference, torch.ones_like(difference), atol=1e-2, rtol=0)


def test_what_follows_a_sound_changes_nothing_of_it():
    """But for the last steps, which a convolution's reach joins to what follows."""
    codec = audio_codec()
    sound = media_for(codec, 2, 4800)
    later = torch.cat([sound, 0.9 * media_for(codec, 2, 8000, seed=1), torch.zeros(2, 1, 16000)], dim=2)
    short, long = codec.encode(sound).codes, codec.encode(later).codes
    kept, sure = short.shape[2] - 8, settled(codec, sound)
    assert kept > 16
    assert torch.equal(short[..., :kept][sure[..., :kept]], long[..., :kept][sure[..., :kept]])
    made, whole = codec.decode(short), codec.decode(torch.cat([short, long[..., short.shape[2] :]], dim=2))
    samples = kept * codec.downsample
    torch.testing.assert_close(made[..., :samples], whole[..., :samples], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("local", "reach"), [(False, 3), (True, 0)])
def test_a_corner_of_a_picture_has_no_say_in_the_codes_of_the_opposite_one(local, reach):
    """A code sees its own place and two and a half to each side: 20 pixels, which is five patches; or itself alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = ImageVQVAEConfig(size=96, width=16, quantizer=QuantizerConfig("fsq", 240), local=local)
        codec = ImageVQVAE(config).eval()
    plain = media_for(codec, 1).mean() + torch.zeros(1, 3, 96, 96)
    marked = plain.clone()
    marked[..., :24, :24] = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    first, second = codec.encode(plain).codes[0, 0], codec.encode(marked).codes[0, 0]
    beyond = torch.ones_like(first, dtype=torch.bool)
    beyond[: 3 + reach, : 3 + reach] = False
    beyond &= settled(codec, plain)[0, 0]
    assert torch.equal(first[beyond], second[beyond]) and not torch.equal(first[:3, :3], second[:3, :3])
    if local:  # the same wherever it stands
        elsewhere = codec.encode(marked.roll((40, 64), dims=(2, 3))).codes
        assert same_codes(codec, marked, elsewhere.roll((-5, -8), dims=(2, 3)))
