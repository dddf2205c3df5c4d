"""Runs of recipes: builds what a recipe names and trains it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from decoders.codecs.audio_vqvae import AudioVQVAE
from decoders.codecs.checkpoint import load_codec
from decoders.codecs.image_vqvae import ImageVQVAE
from decoders.diffusion.decoder import DiffusionDecoder, DiffusionDecoderConfig
from encoders.base import check_device
from mmlm.assembly.assemble import assemble
from mmlm.assembly.codecs import Codecs
from mmlm.assembly.extend import extended
from mmlm.assembly.load import check_model, load
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.media import find_media
from mmlm.data.readers import read_records
from mmlm.data.records import BadRecordsError
from mmlm.model.draws import OwnDraws
from mmlm.training.align import align
from mmlm.training.align_recipe import AlignedRecipe
from mmlm.training.alignment.answers import check_judged
from mmlm.training.alignment.config import AlignConfig, DistillConfig, RolloutConfig
from mmlm.training.checks import check_output
from mmlm.training.config import CodecTrainConfig, TrainConfig
from mmlm.training.examples import write_bad_records
from mmlm.training.model_recipe import WritingModelRecipe
from mmlm.training.objectives.adapters import train
from mmlm.training.objectives.codec import codec_trainer, train_codec
from mmlm.training.objectives.codes import train_writing
from mmlm.training.objectives.decoder import decoder_trainer, train_decoder
from mmlm.training.owner import NAME as OWNER
from mmlm.training.owner import owned
from mmlm.training.perceptual import clip_judge
from mmlm.training.plan import Plan, count_of_shards, plan_of, plan_of_adapters
from mmlm.training.ranks import is_first, own_device
from mmlm.training.recipe import (
    JUDGES_PICTURES,
    AnyRecipe,
    CodecParts,
    CodecRecipe,
    Recipe,
    WritingRecipe,
    load_recipe,
    recipe_yaml,
)
from mmlm.training.result import NonFiniteLossError, TrainResult
from mmlm.training.streaming import shards_of
from mmlm.training.trial import Trial, trial_of_adapters, trial_of_alignment, trial_of_media, trial_of_writing


def train_from_recipe(path: str | os.PathLike, overrides: Sequence[str] = (), *, progress: bool = True) -> TrainResult:
    """Runs a recipe: `mmlm train recipe.yaml key=value …`. It goes on where a run in the same `output` stopped.

    Data, the output folder and the device are checked before any weight is loaded. `output/recipe.yaml` gets the recipe
    with every key, and runs as it is.
    """
    recipe = load_recipe(path, overrides)
    output = check_output(recipe.output)
    device = recipe.device if isinstance(recipe, CodecRecipe) else recipe.model.device
    with owned(output, device):
        try:
            prepared = _prepared(recipe, progress)
        except BadRecordsError as error:
            write_bad_records(output / "bad_records.jsonl", error.bad)
            raise
        if not is_first():
            return prepared.run()
        with _recorded(recipe, output):
            return prepared.run()


def plan_from_recipe(path: str | os.PathLike, overrides: Sequence[str] = ()) -> Plan:
    """What `train_from_recipe` would do, without doing it and without loading any weights.

    All is checked that a run checks before it loads weights; nothing is written.
    """
    return prepared_from_recipe(path, overrides).plan()


def prepared_from_recipe(path: str | os.PathLike, overrides: Sequence[str] = ()) -> Prepared:
    """A recipe's plan and its trial, which `mmlm train recipe.yaml --dry-run` prints. Nothing is written for either."""
    recipe = load_recipe(path, overrides)
    check_output(recipe.output)
    return _prepared(recipe, progress=False)


@dataclass(frozen=True)
class Prepared:
    """A run whose data, output and device are checked: it, what it would do, and a trial of that on a few records."""

    run: Callable[[], TrainResult]
    plan: Callable[[], Plan]
    trial: Callable[[], Trial]


def _prepared(recipe: AnyRecipe, progress: bool) -> Prepared:
    kinds = {WritingRecipe: _write, CodecRecipe: _codec, Recipe: _adapters}
    return kinds.get(type(recipe), _align)(recipe, progress)  # pyright: ignore[reportArgumentType]


def _adapters(recipe: Recipe, progress: bool) -> Prepared:
    part = recipe.model
    device = own_device(part.device)
    check_device(device)
    if recipe.cache is not None:
        check_output(recipe.cache, "cache")
    reading: dict[str, Any] = dict(images=recipe.images, bad_limit=recipe.bad_limit)
    data = recipe.data if recipe.stream else read_records(recipe.data, **reading)
    shards = shards_of(data, recipe.mix) if recipe.stream else []
    held_out = None if recipe.held_out is None else read_records(recipe.held_out, **reading)
    placed: dict[str, Any] = {"dtype": getattr(torch, part.dtype), "device": device}
    config = TrainConfig(**{f.name: getattr(recipe, f.name) for f in fields(TrainConfig)})

    def model() -> MultimodalLM:
        if part.load is not None:
            return load(part.load, **placed)
        assert part.language_model is not None, "Recipe checks it"
        encoders: dict[str, Any] = dict(image_encoder=part.image_encoder, audio_encoder=part.audio_encoder)
        return assemble(part.language_model, **encoders, **part.new_adapters(), **placed)

    def run() -> TrainResult:
        running: dict[str, Any] = dict(output=recipe.output, resume=recipe.resume, progress=progress, config=config)
        return train(model(), data, held_out=held_out, **running)

    return Prepared(
        run,
        lambda: plan_of_adapters(recipe, count_of_shards(shards) if shards else data, held_out),
        lambda: trial_of_adapters(model(), data, recipe.images, Path(recipe.output), config),
    )


def _codec(recipe: CodecRecipe, progress: bool) -> Prepared:
    config = CodecTrainConfig(**{f.name: getattr(recipe, f.name) for f in fields(CodecTrainConfig)})
    run: dict[str, Any] = dict(held_out=recipe.held_out, config=config, resume=recipe.resume, progress=progress)
    check_device(config.device)
    if (part := recipe.decoder) is not None:
        sizes = {f.name: getattr(part, f.name) for f in fields(DiffusionDecoderConfig)}
        with OwnDraws(recipe.seed):
            decoder = DiffusionDecoder(load_codec(part.codec), DiffusionDecoderConfig(**sizes))
        plan = partial(_plan_of_media, recipe, decoder, decoder.codec.modality, f"a diffusion decoder of {part.codec}")
        trial = partial(trial_of_media, decoder.codec, recipe.data, config, partial(decoder_trainer, decoder))
        return Prepared(partial(train_decoder, decoder, recipe.data, recipe.output, **run), plan, trial)
    assert recipe.codec is not None, "CodecRecipe checks it"
    with OwnDraws(recipe.seed):
        codec = _built(recipe.codec)
    if recipe.perceptual is not None and codec.modality != "image":
        raise ValueError(JUDGES_PICTURES)
    for source in (recipe.data, recipe.held_out):
        if source is not None:
            find_media(source, "image" if codec.modality == "image" else "audio")
    judge = None if recipe.perceptual is None else clip_judge(recipe.perceptual, recipe.device)
    plan = partial(_plan_of_media, recipe, codec, codec.modality, f"a codec ({type(codec).__name__})")
    trainer = partial(codec_trainer, codec, perceptual=judge)
    trial = partial(trial_of_media, codec, recipe.data, config, trainer)
    return Prepared(partial(train_codec, codec, recipe.data, recipe.output, perceptual=judge, **run), plan, trial)


def _built(parts: CodecParts) -> ImageVQVAE | AudioVQVAE:
    if parts.image is not None:
        return ImageVQVAE(parts.image)
    if parts.audio is not None:
        return AudioVQVAE(parts.audio)
    codec = load_codec(str(parts.trained))
    if not isinstance(codec, ImageVQVAE | AudioVQVAE):
        raise ValueError(
            f"the codec in {parts.trained} is a {type(codec).__name__}, which has no network to train: learn another "
            f"one with decoders.codecs.{type(codec).__name__}.learn"
        )
    return codec


def _plan_of_media(recipe: CodecRecipe, module: nn.Module, modality: str, model: str) -> Plan:
    kind: Any = "image" if modality == "image" else "audio"
    counts = [
        None
        if source is None
        else f"{len(find_media(source, kind)):,} {'pictures' if kind == 'image' else 'recordings'}"
        for source in (recipe.data, recipe.held_out)
    ]
    assert recipe.steps is not None, "codecs have no epochs"
    weights = sum(tensor.numel() for tensor in module.parameters())
    per_step = recipe.batch_size * recipe.accumulation
    return Plan(model, str(counts[0]), counts[1], recipe.steps, per_step, recipe.output, weights=weights)


def _write(recipe: WritingRecipe, progress: bool) -> Prepared:
    part = recipe.model
    device = own_device(part.device)
    check_device(device)
    data = read_records(recipe.data)
    held_out = None if recipe.held_out is None else read_records(recipe.held_out)

    def run() -> TrainResult:
        running: dict[str, Any] = dict(resume=recipe.resume, progress=progress)
        return train_writing(_loaded(part, device), data, recipe.output, held_out, recipe.write, **running)

    does = f"{part.load} learns to write codes ({recipe.write.tune})"
    return Prepared(
        run,
        lambda: plan_of(recipe.write, does, data, held_out, recipe.output),
        lambda: trial_of_writing(_loaded(part, device), data, recipe.write),
    )


def _loaded(part: WritingModelRecipe, device: str) -> MultimodalLM:
    """The model that a recipe names, with the codecs and the LoRA that it is given."""
    model = load(part.load, device=device)
    names = ("image_codec", "audio_codec", "image_decoder", "audio_decoder")
    given = {name: _codec_of(value) for name in names if (value := getattr(part, name)) is not None}
    if given or part.lora is not None:
        codecs = Codecs(*(given.get(name) for name in names))
        model = extended(model, codecs, lora=part.lora, seed=part.seed)
    return model


def _align(recipe: AlignedRecipe, progress: bool) -> Prepared:
    device = own_device(recipe.model.device)
    check_device(device)
    if recipe.cache is not None:
        check_output(recipe.cache, "cache")
    reading: dict[str, Any] = dict(images=recipe.images, bad_limit=recipe.bad_limit)
    data = read_records(recipe.data, **reading)
    held_out = None if recipe.held_out is None else read_records(recipe.held_out, **reading)
    does = "is aligned"
    if isinstance(recipe.objective, DistillConfig):
        check_model(str(recipe.objective.teacher))
        does = f"learns from {recipe.objective.teacher}"
    elif not isinstance(recipe.objective, RolloutConfig):
        for records in filter(None, (data, held_out)):
            check_judged(records, recipe.objective.kind != "kto")
    config = AlignConfig(**{f.name: getattr(recipe, f.name) for f in fields(AlignConfig)})

    def run() -> TrainResult:
        running: dict[str, Any] = dict(held_out=held_out, resume=recipe.resume, progress=progress, config=config)
        return align(_loaded(recipe.model, device), data, recipe.objective, output=recipe.output, **running)

    return Prepared(
        run,
        lambda: plan_of(config, f"{recipe.model.load} {does} ({recipe.objective.kind})", data, held_out, recipe.output),
        lambda: trial_of_alignment(_loaded(recipe.model, device), data, recipe.objective, config),
    )


@contextmanager
def _recorded(recipe: AnyRecipe, output: Path) -> Iterator[None]:
    """Writes `output/recipe.yaml`. The one of a run that refuses to be continued by this recipe is put back, and where
    nothing began, since a part cannot be loaded or trained, none is left.
    """
    path = output / "recipe.yaml"
    before = path.read_text(encoding="utf-8") if path.exists() else None
    path.write_text(recipe_yaml(recipe), encoding="utf-8")
    try:
        yield
    except BaseException as error:
        refused = isinstance(error, ValueError | OSError) and not isinstance(error, NonFiniteLossError)
        if before is not None and refused:
            path.write_text(before, encoding="utf-8")
        elif before is None and {one.name for one in output.iterdir()} <= {path.name, OWNER}:
            path.unlink(missing_ok=True)
        raise


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
