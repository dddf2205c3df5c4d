"""The image codec and its diffusion decoder."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from recipes.nano import data
from recipes.nano.settings import Recipe


def learn_image_codec(recipe: Recipe, output: Path) -> None:
    """Codebooks by k-means, in seconds: from neat and from loose scenes, and every emoji."""
    import torch

    from decoders.codecs.block_truncation import BlockTruncationCodec, BlockTruncationConfig
    from decoders.codecs.checkpoint import save_codec
    from mmlm.data import read_records
    from mmlm.generation.media import picture_tensor

    part = recipe.pencil
    emoji, sources = data.sets_folder(), [output / "neat/train-*.tar", output / "loose/train-*.tar"]
    records = [one for source in sources for one in islice(read_records(source), part.codec_pictures)]
    records += [] if emoji is None else list(read_records(emoji / "emoji/train-*.tar"))
    pictures = torch.cat([picture_tensor(record.decode(), part.size) for record in records])
    config = BlockTruncationConfig(part.size, codebook_size=part.codebook_size, refinements=part.refinements)
    codec = BlockTruncationCodec.learn(pictures, config, recipe.seed)
    save_codec(codec, output / "image_codec/codec", torch.float16)  # as it ships


def train_image_decoder(recipe: Recipe, output: Path) -> None:
    import torch

    from decoders.codecs.checkpoint import load_codec
    from decoders.diffusion.decoder import DiffusionDecoder, DiffusionDecoderConfig
    from mmlm.training import CodecTrainConfig, train_decoder

    part = recipe.pencil
    torch.manual_seed(recipe.seed)
    codec = load_codec(output / "image_codec/codec")
    sizes = DiffusionDecoderConfig(channels=tuple(part.decoder_channels), latents=False)
    # Each code is a ninth of the picture: nothing is to be learned beside a wrong one, or beside none.
    config = CodecTrainConfig(
        steps=part.decoder_steps, batch_size=part.decoder_batch_size, corrupted=0.0, dropped=0.0, seed=recipe.seed,
        device=recipe.device,
    )  # fmt: skip
    sources, held_out = data.drawing_sources(output / "neat", data.sets_folder())
    train_decoder(
        DiffusionDecoder(codec, sizes), [*sources, f"{output}/loose/train-*.tar"], output / "image_decoder", held_out,
        config,
    )  # fmt: skip
