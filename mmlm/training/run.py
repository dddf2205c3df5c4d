"""Runs of recipes: builds what a recipe names and trains it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch

from decoders.codecs.audio_vqvae import AudioVQVAE
from decoders.codecs.checkpoint import load_codec
from decoders.codecs.image_vqvae import ImageVQVAE
from decoders.diffusion.decoder import DiffusionDecoder, DiffusionDecoderConfig
from mmlm.assembly.assemble import assemble
from mmlm.assembly.codecs import Codecs
from mmlm.assembly.extend import extended
from mmlm.assembly.load import load
from mmlm.training.config import CodecTrainConfig, TrainConfig
from mmlm.training.objectives.adapters import train
from mmlm.training.objectives.codec import train_codec
from mmlm.training.objectives.codes import train_writing
from mmlm.training.objectives.decoder import train_decoder
from mmlm.training.perceptual import clip_judge
from mmlm.training.recipe import JUDGES_PICTURES, CodecParts, CodecRecipe, Recipe, WritingRecipe, load_recipe
from mmlm.training.result import TrainResult


def train_from_recipe(path: str | os.PathLike, overrides: Sequence[str] = (), *, progress: bool = True) -> TrainResult:
    """Runs a recipe: `mmlm train recipe.yaml key=value …`. It goes on where a run in the same `output` stopped."""
    recipe = load_recipe(path, overrides)
    if isinstance(recipe, WritingRecipe):
        return _write(recipe, progress)
    if isinstance(recipe, CodecRecipe):
        return _codec(recipe, progress)
    return _adapters(recipe, progress)


def _adapters(recipe: Recipe, progress: bool) -> TrainResult:
    part = recipe.model
    placed: dict[str, Any] = {"dtype": getattr(torch, part.dtype), "device": part.device}
    if part.load is not None:
        model = load(part.load, **placed)
    else:
        assert part.language_model is not None, "Recipe checks it"
        model = assemble(
            part.language_model,
            part.image_encoder,
            audio_encoder=part.audio_encoder,
            final_norm=part.final_norm,
            resampler=part.resampler,
            audio_resampler=part.audio_resampler,
            fusion=part.fusion,
            template=part.template,
            seed=part.seed,
            **placed,
        )
    config = TrainConfig(**{f.name: getattr(recipe, f.name) for f in fields(TrainConfig)})
    return train(
        model,
        recipe.data,
        output=recipe.output,
        held_out=recipe.held_out,
        images=recipe.images,
        resume=recipe.resume,
        progress=progress,
        config=config,
    )


def _codec(recipe: CodecRecipe, progress: bool) -> TrainResult:
    config = CodecTrainConfig(**{f.name: getattr(recipe, f.name) for f in fields(CodecTrainConfig)})
    run: dict[str, Any] = dict(held_out=recipe.held_out, config=config, progress=progress)
    if (part := recipe.decoder) is not None:
        sizes = {f.name: getattr(part, f.name) for f in fields(DiffusionDecoderConfig)}
        with _seeded(recipe.seed):
            decoder = DiffusionDecoder(load_codec(part.codec), DiffusionDecoderConfig(**sizes))
        return train_decoder(decoder, recipe.data, recipe.output, **run)
    assert recipe.codec is not None, "CodecRecipe checks it"
    with _seeded(recipe.seed):
        codec = _built(recipe.codec)
    if recipe.perceptual is not None and codec.modality != "image":
        raise ValueError(JUDGES_PICTURES)
    judge = None if recipe.perceptual is None else clip_judge(recipe.perceptual, recipe.device)
    return train_codec(codec, recipe.data, recipe.output, perceptual=judge, **run)


def _built(parts: CodecParts) -> ImageVQVAE | AudioVQVAE:
    if parts.image is not None:
        return ImageVQVAE(parts.image)
    if parts.audio is not None:
        return AudioVQVAE(parts.audio)
    codec = load_codec(str(parts.trained))
    assert isinstance(codec, ImageVQVAE | AudioVQVAE), "load_codec knows no others"
    return codec


def _write(recipe: WritingRecipe, progress: bool) -> TrainResult:
    part = recipe.model
    model = load(part.load, device=part.device)
    names = ("image_codec", "audio_codec", "image_decoder", "audio_decoder")
    given = {name: _codec_of(value) for name in names if (value := getattr(part, name)) is not None}
    if given or part.lora is not None:
        codecs = Codecs(*(given.get(name) for name in names))
        model = extended(model, codecs, lora=part.lora, seed=part.seed)
    return train_writing(model, recipe.data, recipe.output, recipe.held_out, recipe.write, progress=progress)


def _codec_of(value: Any) -> Any:
    """A published codec where its options are given; a name as it is. ValueError for an unknown option."""
    if not isinstance(value, dict):
        return value
    from decoders.codecs.pretrained import load_pretrained

    options = {**value}
    try:
        return load_pretrained(options.pop("source"), **options)
    except (KeyError, TypeError) as error:
        raise ValueError(f"a codec is a name, or a source with options of load_pretrained, not {value}") from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """New weights are drawn from this seed; the caller's random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
