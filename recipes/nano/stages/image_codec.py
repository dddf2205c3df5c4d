"""The image codec and its diffusion decoder."""

from __future__ import annotations

from pathlib import Path

from recipes.nano import data
from recipes.nano.settings import Recipe


def train_image_codec(recipe: Recipe, output: Path) -> None:
    import torch

    from decoders.codecs.image_vqvae import ImageVQVAE, ImageVQVAEConfig
    from decoders.codecs.quantizer import QuantizerConfig
    from mmlm.training import CodecTrainConfig, train_codec
    from mmlm.training.perceptual import contrast_distance

    part = recipe.pencil
    torch.manual_seed(recipe.seed)
    quantizer = QuantizerConfig("rvq", part.codebook_size, part.num_codebooks)
    codec = ImageVQVAE(ImageVQVAEConfig(width=part.codec_width, quantizer=quantizer, local=True))
    config = CodecTrainConfig(steps=part.codec_steps, learning_rate=2e-3, seed=recipe.seed, device=recipe.device)
    sources, held_out = coded_pictures(output)
    train_codec(codec, sources, output / "image_codec", held_out, config, contrast_distance())


def coded_pictures(output: Path) -> tuple[list[str], str]:
    """What the codec learns from: scenes as they come, and neat ones, which are what is drawn later."""
    sources, held_out = data.drawing_sources(output / "settled", data.sets_folder())
    return [*[f"{output}/neat/train-*.tar"] * 3, *sources], held_out


def train_image_codec_more(recipe: Recipe, output: Path) -> None:
    """The same codes; the decoder alone goes on, judged by the frozen CLIP as well, to which a shape is all."""
    from decoders.codecs.checkpoint import load_codec
    from mmlm.training import CodecTrainConfig, train_codec
    from mmlm.training.perceptual import clip_judge

    part = recipe.pencil
    config = CodecTrainConfig(
        steps=part.codec_decoder_steps, learning_rate=1.5e-3, tune="decoder", seed=recipe.seed + 1, device=recipe.device
    )
    sources, held_out = coded_pictures(output)
    judge = clip_judge(str(output / "frozen/image_encoder"), recipe.device)
    codec = load_codec(output / "image_codec/codec")
    train_codec(codec, sources, output / "image_codec_more", held_out, config, judge)


def train_image_decoder(recipe: Recipe, output: Path) -> None:
    import torch

    from decoders.codecs.checkpoint import load_codec
    from decoders.diffusion.decoder import DiffusionDecoder, DiffusionDecoderConfig
    from mmlm.training import CodecTrainConfig, train_decoder

    part = recipe.pencil
    torch.manual_seed(recipe.seed)
    codec = load_codec(output / "image_codec_more/codec")
    decoder = DiffusionDecoder(codec, DiffusionDecoderConfig(channels=tuple(part.decoder_channels)))
    config = CodecTrainConfig(
        steps=part.decoder_steps, batch_size=part.decoder_batch_size, seed=recipe.seed, device=recipe.device
    )
    sources, held_out = data.drawing_sources(output / "settled", data.sets_folder())
    train_decoder(decoder, sources, output / "image_decoder", held_out, config)
