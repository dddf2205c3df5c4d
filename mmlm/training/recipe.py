"""Recipes: a training run as a YAML file, checked key by key before anything is loaded.

    model:
      load: nano                                  # or, to begin with new adapters, language_model: and image_encoder:,
                                                  # audio_encoder: or both
    data: ${oc.env:MMLM_DATA,../shared/data}/emoji/train-*.tar
    held_out: ${oc.env:MMLM_DATA,../shared/data}/emoji/dev-*.tar
    output: runs/emoji
    steps: 500                                    # this and what follows: any field of TrainConfig

Relative paths start from the current directory, and `${oc.env:NAME,default}` reads the environment.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from mmlm.model.config import FusionConfig, ResamplerConfig
from mmlm.prompting.templates import PromptTemplate
from mmlm.training.config import TrainConfig


@dataclass
class ModelRecipe:
    """The model to train: `load` one (preset, folder or hub id), or assemble one from the names of its frozen parts."""

    load: str | None = None
    language_model: str | None = None
    image_encoder: str | None = None
    audio_encoder: str | None = None
    final_norm: bool = True
    resampler: ResamplerConfig = field(default_factory=ResamplerConfig)
    audio_resampler: ResamplerConfig = field(default_factory=lambda: ResamplerConfig(timed=True))
    fusion: FusionConfig = field(default_factory=FusionConfig)
    template: PromptTemplate = field(default_factory=PromptTemplate)
    seed: int = 0
    dtype: str = "float32"
    device: str = "cpu"


@dataclass
class Recipe(TrainConfig):
    """A whole run: the model, the data, where to write, and every setting of TrainConfig beside them."""

    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: Any = MISSING
    held_out: Any = None
    images: str | None = None
    output: str = MISSING
    resume: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("data", "held_out"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
                if name == "data" or value is not None:
                    raise ValueError(f"{name} must be a path or a list of paths, not {value!r}")
        parts = ("language_model", "image_encoder", "audio_encoder")
        assembled = [name for name in parts if getattr(self.model, name) is not None]
        if self.model.load is None and (self.model.language_model is None or len(assembled) < 2):
            raise ValueError(
                "model needs either load, or both language_model and image_encoder (or audio_encoder, or the two)"
            )
        if self.model.load is not None and assembled:
            raise ValueError(f"model has both load and {assembled[0]}; give one of them")
        if self.model.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"model.dtype must be 'float32' or 'bfloat16', not {self.model.dtype!r}")


@dataclass(frozen=True)
class Trained:
    """What a recipe of codecs, decoders or writing gives: where the result lies, and after how many steps."""

    model: Path
    steps: int


def load_recipe(path: str | os.PathLike, overrides: Sequence[str] = (), schema: type = Recipe) -> Any:
    """A recipe from YAML, with `key=value` and `key.key=value` on top, as the dataclass `schema`.

    ValueError, naming the key, for one that is unknown, missing or of the wrong type.
    """
    config = merged(path, overrides)
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), config))
    except ConfigKeyError as error:
        known = ", ".join(f.name for f in fields(schema))
        raise ValueError(f"{path}: unknown key {error.full_key!r}; the recipe's keys are {known}") from error
    except MissingMandatoryValue as error:
        raise ValueError(f"{path}: {error.full_key!r} is missing") from error
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        key = getattr(error, "full_key", None)
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: {f'{key}: ' if key else ''}{reason}") from error


def merged(path: str | os.PathLike, overrides: Sequence[str] = ()) -> DictConfig:
    """What the YAML file and the overrides say, not yet checked against any schema."""
    try:
        written = OmegaConf.load(path)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(written, DictConfig):
        raise ValueError(f"{path} must hold keys and values")
    for override in overrides:
        if "=" not in override:
            raise ValueError(f"{override!r} is not key=value")
    try:
        return OmegaConf.merge(written, OmegaConf.from_dotlist(list(overrides)))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from error


def train_from_recipe(path: str | os.PathLike, overrides: Sequence[str] = (), *, progress: bool = True):
    """Runs a recipe: `mmlm train recipe.yaml key=value …`. Returns the TrainResult.

    A recipe with `codec` or `decoder` in place of `model` trains that (`mmlm.training.codec_recipe`); one with `write`
    trains the model to draw and to speak (`mmlm.training.writing_recipe`).
    """
    keys = merged(path, overrides).keys()
    if "write" in keys:
        from mmlm.training.writing_recipe import train_writing_from_recipe

        return train_writing_from_recipe(path, overrides, progress=progress)
    if {"codec", "decoder"} & keys:
        from mmlm.training.codec_recipe import train_codec_from_recipe

        return train_codec_from_recipe(path, overrides, progress=progress)
    recipe = load_recipe(path, overrides)

    import torch

    import mmlm
    from mmlm.training.loop import train

    part = recipe.model
    placed = {"dtype": getattr(torch, part.dtype), "device": part.device}
    if part.load is not None:
        model = mmlm.load(part.load, **placed)
    else:
        model = mmlm.assemble(
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
    settings = {f.name: getattr(recipe, f.name) for f in fields(TrainConfig)}
    return train(
        model,
        recipe.data,
        output=Path(recipe.output),
        held_out=recipe.held_out,
        images=recipe.images,
        resume=recipe.resume,
        progress=progress,
        **settings,
    )
