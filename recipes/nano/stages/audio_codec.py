"""The stages of the nano recipe that make its voice: recordings of words, a codec, its diffusion decoder."""

from __future__ import annotations

from pathlib import Path

from recipes.nano import data
from recipes.nano.settings import Recipe


def make_words(recipe: Recipe, output: Path) -> None:
    from recipes.nano.speech import WORD_SPLITS, write_own_words, write_words

    write_words(output / "words", {split: getattr(recipe.voice, split) for split in WORD_SPLITS}, recipe.seed)
    counts = {"train": recipe.writing.words, "dev": recipe.writing.dev_words}
    write_own_words(output / "own_words", counts, data.sets_folder(), recipe.seed)
    (output / "own_words/done").touch()


def train_audio_codec(recipe: Recipe, output: Path) -> None:
    import torch

    from decoders.codecs.audio_vqvae import AudioVQVAE, AudioVQVAEConfig
    from decoders.codecs.quantizer import QuantizerConfig
    from mmlm.training import CodecTrainConfig, train_codec

    part = recipe.voice
    torch.manual_seed(recipe.seed)
    quantizer = QuantizerConfig("rvq", part.codebook_size, part.num_codebooks, dim=32)
    codec = AudioVQVAE(AudioVQVAEConfig(width=part.codec_width, quantizer=quantizer))
    config = CodecTrainConfig(
        steps=part.codec_steps, learning_rate=2e-3, seconds=part.seconds, seed=recipe.seed, device=recipe.device
    )
    sources, held_out = spoken_sources(output)
    train_codec(codec, sources, output / "audio_codec", held_out, config)


def train_audio_codec_more(recipe: Recipe, output: Path) -> None:
    """The same codec from there on, at a lower rate."""
    from decoders.codecs.checkpoint import load_codec
    from mmlm.training import CodecTrainConfig, train_codec

    part = recipe.voice
    config = CodecTrainConfig(
        steps=part.codec_more_steps,
        learning_rate=1.5e-3,
        seconds=part.seconds,
        seed=recipe.seed + 1,
        device=recipe.device,
    )
    sources, held_out = spoken_sources(output)
    train_codec(load_codec(output / "audio_codec/codec"), sources, output / "audio_codec_more", held_out, config)


def train_audio_decoder(recipe: Recipe, output: Path) -> None:
    import torch

    from decoders.codecs.checkpoint import load_codec
    from decoders.diffusion.decoder import DiffusionDecoder, DiffusionDecoderConfig
    from mmlm.training import CodecTrainConfig, train_decoder

    part = recipe.voice
    torch.manual_seed(recipe.seed)
    codec = load_codec(output / "audio_codec_more/codec")
    decoder = DiffusionDecoder(codec, DiffusionDecoderConfig(channels=tuple(part.decoder_channels)))
    config = CodecTrainConfig(
        steps=part.decoder_steps,
        batch_size=part.decoder_batch_size,
        seconds=part.seconds,
        seed=recipe.seed,
        device=recipe.device,
    )
    sources, held_out = spoken_sources(output)
    train_decoder(decoder, sources, output / "audio_decoder", held_out, config)


def spoken_sources(output: Path) -> tuple[list[str], list[str]]:
    """Recordings of single words to learn from, and held-out ones; digits are real, and as many as all other words."""
    sources, held_out = [f"{output}/words/train-*.tar"], [f"{output}/words/dev-*.tar"]
    sets = data.sets_folder()
    if sets is not None:
        sources += [f"{sets / 'fsdd'}/train-*.tar"] * 3
        held_out.append(f"{sets / 'fsdd'}/dev-*.tar")
    return sources, held_out
