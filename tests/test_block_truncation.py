"""Block truncation coding (decoders/codecs/block_truncation.py): two colours and a mask of each block, and the rest."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from decoders.codecs.block_truncation import (
    BlockTruncationCodec,
    BlockTruncationConfig,
    joined,
    truncated,
)
from decoders.codecs.checkpoint import codec_fingerprint, load_codec, save_codec
from decoders.codecs.kmeans import kmeans
from decoders.codecs.raw import PaletteCodec
from support.codec_parts import block_codec

COLOURS = st.tuples(*[st.integers(0, 255)] * 3)


def picture(ground: tuple, thing: tuple) -> torch.Tensor:
    """A square of one colour in the middle of another: [16, 3], a block of 4 × 4."""
    block = torch.tensor(ground).expand(4, 4, 3).clone() / 255
    block[1:3, 1:3] = torch.tensor(thing) / 255
    return block.flatten(0, 1)


@settings(deadline=None)
@given(COLOURS, COLOURS)
def test_two_colours_and_their_mask_are_found_again(ground, thing):
    """Whichever is the lighter: the border is of the ground."""
    block = picture(ground, thing)
    colours, mask = truncated(block[None])
    torch.testing.assert_close(joined(colours, mask)[0], block, atol=2e-2, rtol=0)
    if np.abs(np.subtract(ground, thing)).max() >= 16:
        torch.testing.assert_close(colours[0], torch.tensor([*ground, *thing]) / 255, atol=1e-3, rtol=0)
        wanted = torch.zeros(4, 4)
        wanted[1:3, 1:3] = 1
        torch.testing.assert_close(mask[0].view(4, 4), wanted, atol=1e-3, rtol=0)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_no_two_colours_on_a_line_fit_a_block_better(seed):
    """Against the principal axis by numpy in float64: what is left is all that is not along it."""
    block = torch.rand(16, 3, generator=torch.Generator().manual_seed(seed))
    left = (joined(*truncated(block[None]))[0] - block).double().square().sum()
    apart = block.double().numpy() - block.double().numpy().mean(0)
    assert float(left) == pytest.approx((np.linalg.svd(apart)[1][1:] ** 2).sum(), rel=1e-4)


def squares() -> torch.Tensor:
    """Pictures of one block: a square of one of four colours, of one of two widths, on black or white."""
    made = []
    for ground in (0.0, 1.0):
        for colour in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0]):
            for width in (2, 4):
                one = torch.full((3, 8, 8), ground)
                one[:, 4 - width // 2 : 4 + width // 2, 4 - width // 2 : 4 + width // 2] = (
                    torch.tensor(colour).float().view(3, 1, 1)
                )
                made.append(one)
    return torch.stack(made)


def test_colours_and_forms_are_codes_of_their_own():
    """Of a form in a colour that no picture of training had it in, each has a code already."""
    pictures = squares()
    seen = torch.cat([pictures[:5], pictures[6:]])  # no large blue square on black
    codec = BlockTruncationCodec.learn(seen, BlockTruncationConfig(8, 1, 8, codebook_size=32))
    encoded = codec.encode(pictures)
    colours, masks, _ = encoded.latents[..., 0, 0].unflatten(0, (8, 2)).split([6, 64, 48], -1)
    torch.testing.assert_close(masks, masks[:1].expand(8, 2, 64), atol=1e-4, rtol=0)  # one for each form
    torch.testing.assert_close(colours, colours[:, :1].expand(8, 2, 6), atol=1e-4, rtol=0)  # one for each pair
    torch.testing.assert_close(codec.decode(encoded.codes), pictures, atol=1e-3, rtol=0)


def test_what_no_block_needs_is_nothing():
    """Two colours and a mask say all of such pictures: each code of the rest is 0, which adds nothing."""
    codec = BlockTruncationCodec.learn(squares(), BlockTruncationConfig(8, 1, 8, codebook_size=32, refinements=2))
    assert not codec.encode(squares()).codes[:, 2:].any() and not codec.residuals.any()


def test_each_refinement_brings_a_picture_nearer():
    pictures = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    errors = []
    for refinements in (0, 1, 3):
        codec = block_codec(refinements=refinements)
        latents = codec.encode(pictures).latents
        errors.append(float((codec.decode(codec.encode(pictures).codes) - pictures).square().mean()))
        assert latents.shape[1] == 6 + 16 + 8
    assert errors[0] > errors[1] > errors[2]


def test_it_comes_back_from_its_folder(tmp_path):
    codec = block_codec()
    save_codec(codec, tmp_path / "codec")
    again = load_codec(tmp_path / "codec")
    media = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    assert torch.equal(again.encode(media).codes, codec.encode(media).codes)
    assert codec_fingerprint(again) == codec_fingerprint(codec) != codec_fingerprint(block_codec(seed=1))


def test_with_as_many_codes_it_shows_more_than_a_palette():
    """Discs of any colour, anywhere, 36 codes of 64 each; measured on pictures that neither has seen."""
    draw = np.random.default_rng(0)

    def discs(count: int) -> torch.Tensor:
        y, x = np.mgrid[:48, :48]
        made = np.empty((count, 3, 48, 48), np.float32)
        for one in made:
            one[:] = draw.random((3, 1, 1))
            for _ in range(3):
                (cx, cy), radius = draw.random(2) * 48, 4 + 6 * draw.random()
                one[:, (x - cx) ** 2 + (y - cy) ** 2 <= radius**2] = draw.random((3, 1))
        return torch.from_numpy(made)

    training, held_out = discs(300), discs(100)
    blocks = BlockTruncationCodec.learn(training, BlockTruncationConfig(48, 3, 16, codebook_size=64))
    palette = PaletteCodec.learn(training, 64, 8)
    errors = [(one.decode(one.encode(held_out).codes) - held_out).square().mean() for one in (blocks, palette)]
    assert blocks.num_codebooks * 9 == palette.grid[0] * palette.grid[1] == 36 and errors[0] < 0.9 * errors[1]


def test_sizes_that_cannot_be_are_refused():
    for wrong in (dict(places=0), dict(mask_size=1), dict(refinements=-1), dict(size=2), dict(threshold=-1.0)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            BlockTruncationConfig(**wrong)
    with pytest.raises(ValueError, match="at most 3"):
        BlockTruncationConfig(mask_size=3)
    config = BlockTruncationConfig(16, codebook_size=16)
    for wrong, message in (
        (torch.zeros(4, 3, 40, 20), "16 × 16"),
        (torch.full((4, 3, 16, 16), 228.0), "must lie in"),
        (torch.full((4, 3, 16, 16), float("nan")), "NaN"),
        (torch.zeros(4, 3, 16, 16, dtype=torch.uint8), "floating point"),
        (torch.zeros(0, 3, 16, 16), "B, 3, H, W"),
    ):
        with pytest.raises(ValueError, match=message):
            BlockTruncationCodec.learn(wrong, config)
    with pytest.raises(ValueError, match="16 × 16"):
        block_codec().encode(torch.zeros(1, 3, 15, 15))


def test_centres_are_the_means_of_what_is_nearest_to_them():
    vectors = torch.cat([torch.randn(50, 2, generator=torch.Generator().manual_seed(n)) + 20 * n for n in range(3)])
    found = kmeans(vectors, 3, 10, torch.Generator().manual_seed(0))
    wanted = torch.stack([vectors[n * 50 : (n + 1) * 50].mean(0) for n in range(3)])
    torch.testing.assert_close(found[found[:, 0].argsort()], wanted, atol=1e-5, rtol=0)


def test_a_saved_picture_is_looked_at_in_blocks_of_its_own(tmp_path):
    """128 pixels are no multiple of three: 42 to 43 are a block."""
    shown = np.zeros((128, 128, 3), np.uint8)
    shown[43:85, 43:85] = 255
    Image.fromarray(shown).save(tmp_path / "one.png")
    media = torch.from_numpy(np.asarray(Image.open(tmp_path / "one.png")).copy()).permute(2, 0, 1)[None] / 255
    others = torch.rand(4, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    codec = BlockTruncationCodec.learn(
        torch.cat([others, media]), BlockTruncationConfig(codebook_size=16, components=4)
    )
    codes = codec.encode(media).codes
    assert codec.grid == (3, 3) and codes.shape == (1, 4, 3, 3)
    again = codec.decode(codes)[0].mean(0)
    assert again[48:80, 48:80].min() > 0.9 and again[:, :38].max() < 0.1 and again[:, 90:].max() < 0.1
