"""Small codecs for the tests, their learned codebooks filled by one batch of training."""

import torch

from decoders.codecs.audio_vqvae import AudioVQVAE, AudioVQVAEConfig
from decoders.codecs.base import MediaCodec
from decoders.codecs.block_truncation import BlockTruncationCodec, BlockTruncationConfig
from decoders.codecs.image_vqvae import ImageVQVAE, ImageVQVAEConfig
from decoders.codecs.quantizer import QuantizerConfig
from decoders.codecs.raw import MuLawCodec, PaletteCodec

QUANTIZERS = {
    "vq": QuantizerConfig("vq", 32, dim=6),
    "rvq": QuantizerConfig("rvq", 16, 3, dim=6),
    "fsq": QuantizerConfig("fsq", 240),
    "lfq": QuantizerConfig("lfq", 64),
}


def image_codec(quantizer: str = "vq", seed: int = 0) -> ImageVQVAE:
    """Pictures of 16 × 16, codes of 2 × 2."""
    return _made(lambda own: ImageVQVAE(ImageVQVAEConfig(16, 8, 4, 16, 1, own)), quantizer, seed, (32, 3, 16, 16))


def audio_codec(quantizer: str = "rvq", seed: int = 0) -> AudioVQVAE:
    """Sound at 8 kHz, 50 steps of codes a second."""
    config = dict(downsample=160, width=16, blocks=1)
    return _made(lambda own: AudioVQVAE(AudioVQVAEConfig(**config, quantizer=own)), quantizer, seed, (8, 1, 1600))


def palette_codec() -> PaletteCodec:
    return PaletteCodec(torch.rand(24, 3, generator=torch.Generator().manual_seed(0)), 16, 8)


def block_codec(seed: int = 0, refinements: int = 2) -> BlockTruncationCodec:
    """Pictures of 16 × 16, codes of 3 × 3, learned from noise."""
    config = BlockTruncationConfig(16, places=3, mask_size=4, codebook_size=16, refinements=refinements, components=8)
    return BlockTruncationCodec.learn(torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(seed)), config)


CODECS = {
    **{f"image {kind}": (lambda kind=kind: image_codec(kind)) for kind in QUANTIZERS},
    **{f"audio {kind}": (lambda kind=kind: audio_codec(kind)) for kind in QUANTIZERS},
    "blocks": block_codec,
    "palette": palette_codec,
    "mu-law": lambda: MuLawCodec(8000, 64),
}


def media_for(codec, batch: int = 2, length: int = 1600, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    if codec.modality == "image":
        return torch.rand(batch, 3, 16, 16, generator=draw)
    return torch.rand(batch, 1, length, generator=draw) - 0.5


def settled(codec: MediaCodec, media: torch.Tensor) -> torch.Tensor:
    """Where [B, K, *grid] a code is so far from a tie that no processor's rounding can change it.

    Such codes do not change under noise a hundred times larger than rounding. All codebooks of a position count as one:
    each residual codebook quantises what the one before leaves.
    """
    codes, steady = codec.encode(media).codes, []
    for seed in range(4):
        noise = 1e-5 * torch.randn(media.shape, generator=torch.Generator().manual_seed(seed))
        moved = codec.encode((media + noise).clamp(*codec.value_range)).codes
        steady.append((moved == codes).all(1, keepdim=True))
    found = torch.stack(steady).all(0)
    assert found.float().mean() > 0.9  # otherwise a comparison of the settled codes would say little
    return found.expand_as(codes)


def same_codes(codec: MediaCodec, media: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether the codes of media are the expected ones, computed another way, wherever no rounding can change them."""
    kept = settled(codec, media)
    return torch.equal(codec.encode(media).codes[kept], expected[kept])


def _made(build, quantizer: str, seed: int, shape: tuple[int, ...]):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = build(QUANTIZERS[quantizer])
        with torch.no_grad():
            codec.reconstruct(torch.rand(shape) * (1 if shape[1] == 3 else 0.5))  # k-means fills the codebook
    return codec.requires_grad_(False).eval()
