"""Recipes that train a codec from media alone, or a diffusion decoder on a codec.

    codec:
      image: {size: 64, downsample: 8, quantizer: {kind: vq, codebook_size: 512}}     # or audio: {...}
      # trained: runs/earlier/codec               # or one that goes on learning; with `tune: decoder` its codes stay
    data: photos/                                 # a folder, files, tars, or paired data
    held_out: more-photos/
    perceptual: ViT-B-32/laion2b_s34b_b79k        # a frozen CLIP that judges pictures as well, or none
    output: runs/codec
    steps: 3000                                   # this and what follows: any field of CodecTrainConfig

    decoder:
      codec: runs/codec/codec                     # what that run wrote
      channels: [64, 96, 128]                     # and any other field of DiffusionDecoderConfig
    data: photos/
    output: runs/decoder
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING

from decoders.codecs.audio_vqvae import AudioVQVAE, AudioVQVAEConfig
from decoders.codecs.checkpoint import load_codec
from decoders.codecs.image_vqvae import ImageVQVAE, ImageVQVAEConfig
from decoders.diffusion.decoder import DiffusionDecoder, DiffusionDecoderConfig
from mmlm.training.codec import CodecTrainConfig, train_codec, train_decoder
from mmlm.training.recipe import Trained, load_recipe

JUDGES_PICTURES = "perceptual is for image codecs: a CLIP judges pictures"


@dataclass(frozen=True)
class CodecParts:
    """The codec to train: a new one with any of its sizes, or the folder of a `trained` one, which goes on learning."""

    image: ImageVQVAEConfig | None = None
    audio: AudioVQVAEConfig | None = None
    trained: str | None = None

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.image, self.audio, self.trained)) != 1:
            raise ValueError("codec needs image, audio or trained, one of them; {} takes all sizes as they are")


@dataclass(frozen=True)
class DecoderParts(DiffusionDecoderConfig):
    """The diffusion decoder to train, and the folder of the codec that it is for."""

    codec: str = MISSING


@dataclass(frozen=True)
class CodecRecipe(CodecTrainConfig):
    """A run that trains a codec or, on a trained one, a diffusion decoder."""

    codec: CodecParts | None = None
    decoder: DecoderParts | None = None
    data: Any = MISSING
    held_out: Any = None
    perceptual: str | None = None
    output: str = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.codec is None) == (self.decoder is None):
            raise ValueError("a recipe trains one thing: give codec or decoder, not both")
        if self.tune == "decoder" and (self.codec is None or self.codec.trained is None):
            raise ValueError("tune: decoder leaves codes as they are: give codec.trained, whose codes mean something")
        if self.perceptual is not None and (self.codec is None or self.codec.audio is not None):
            raise ValueError(JUDGES_PICTURES)


def train_codec_from_recipe(
    path: str | os.PathLike, overrides: Sequence[str] = (), *, progress: bool = True
) -> Trained:
    """Runs such a recipe. It goes on where a run in the same `output` stopped."""
    recipe: CodecRecipe = load_recipe(path, overrides, CodecRecipe)
    config = CodecTrainConfig(**{f.name: getattr(recipe, f.name) for f in fields(CodecTrainConfig)})
    output = Path(recipe.output)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        if recipe.decoder is not None:
            sizes = {f.name: getattr(recipe.decoder, f.name) for f in fields(DiffusionDecoderConfig)}
            decoder = DiffusionDecoder(load_codec(recipe.decoder.codec), DiffusionDecoderConfig(**sizes))
        elif recipe.codec.trained is not None:
            codec = load_codec(recipe.codec.trained)
            if recipe.perceptual is not None and codec.modality != "image":
                raise ValueError(JUDGES_PICTURES)
        elif recipe.codec.image is not None:
            codec = ImageVQVAE(recipe.codec.image)
        else:
            codec = AudioVQVAE(recipe.codec.audio)
    if recipe.decoder is not None:
        folder = train_decoder(decoder, recipe.data, output, recipe.held_out, config, progress)
    else:
        judge = None if recipe.perceptual is None else clip_judge(recipe.perceptual, recipe.device)
        folder = train_codec(codec, recipe.data, output, recipe.held_out, config, judge, progress)
    return Trained(folder, recipe.steps)


def clip_judge(name: str, device: str = "cpu"):
    """The distance of pictures for a CLIP by its name."""
    from mmlm.assembly.frozen import image_encoder_of
    from mmlm.training.perceptual import clip_distance

    return clip_distance(image_encoder_of(name, True, torch.float32).to(device))
