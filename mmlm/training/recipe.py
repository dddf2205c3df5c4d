"""Recipes: a training run as a YAML file, checked key by key before anything is loaded.

Adapters (`Recipe`):

    model: nano                                   # or, to begin with new adapters, {language_model: NAME,
                                                  # image_encoder: NAME, audio_encoder: NAME}, one encoder or both
    data: ${oc.env:MMLM_DATA,../shared/data}/emoji/train-*.tar
    held_out: ${oc.env:MMLM_DATA,../shared/data}/emoji/dev-*.tar
    output: runs/emoji
    steps: 500                                    # this and what follows: any field of TrainConfig

A codec, from media alone, or a diffusion decoder on a codec (`CodecRecipe`):

    codec:
      image: {size: 64, downsample: 8, quantizer: {kind: vq, codebook_size: 512}}     # or audio: {...}
      # trained: runs/earlier/codec               # or one that is trained further; with `tune: decoder` its codes stay
    data: photos/                                 # a folder, files, tars, or paired data
    held_out: more-photos/
    perceptual: ViT-B-32/laion2b_s34b_b79k        # a frozen CLIP whose features are compared as well, or none
    output: runs/codec
    steps: 3000                                   # this and what follows: any field of CodecTrainConfig

    decoder:
      codec: runs/codec/codec                     # what that run wrote
      channels: [64, 96, 128]                     # and any other field of DiffusionDecoderConfig
    data: photos/
    output: runs/decoder

Writing codes (`WritingRecipe`):

    model:
      load: nano                                  # what it has stays as it is
      image_codec: runs/codec/codec               # and audio_codec, image_decoder, audio_decoder; none: what it has
      audio_codec: {source: facebook/encodec_24khz, num_codebooks: 4}   # or what `load_pretrained` takes
      lora: {rank: 16, alpha: 32}
    write: {tune: lora, steps: 4000}              # any field of WritingTrainConfig
    data: pairs.jsonl                             # pictures with captions, recordings with transcripts
    held_out: dev.jsonl
    output: runs/writing

Alignment, by preferences, by rewards or by a teacher (`AlignedRecipe`):

    model: runs/sft/model                         # or {load: ..., lora: {rank: 16, alpha: 32, reads: true}}
    objective: {kind: dpo, beta: 0.1}             # or ipo, simpo, kto; reward; {kind: grpo, rewards: {clip: 1}};
                                                  # {kind: distill, teacher: nano, on: student}
    data: preferences.jsonl                       # {"image", "prompt", "chosen", "rejected"}; of grpo, questions
    held_out: dev.jsonl
    output: runs/dpo
    epochs: 1                                     # this and what follows: any field of AlignConfig

Relative paths start from the current directory, and `${oc.env:NAME,default}` reads the environment.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from decoders.codecs.audio_vqvae import AudioVQVAEConfig
from decoders.codecs.image_vqvae import ImageVQVAEConfig
from decoders.diffusion.decoder import DiffusionDecoderConfig
from encoders.files import at_home, check_regular
from mmlm.training.align_recipe import AlignedRecipe, align_schema
from mmlm.training.config import CodecTrainConfig, TrainConfig, WritingTrainConfig
from mmlm.training.model_recipe import ModelRecipe, WritingModelRecipe
from mmlm.training.overrides import override_of

JUDGES_PICTURES = "perceptual is for image codecs: a CLIP compares pictures"


@dataclass(frozen=True, kw_only=True)
class Recipe(TrainConfig):
    """A whole run: the model, the data, where to write, and every setting of TrainConfig beside them.

    model: the model to train.
    data: a path or a list of paths to paired data (a stream's: tars). held_out: the same, for the held-out loss.
    images: the folder that paths of pictures start from.
    output: the folder that gets the model, its figures and checkpoints; a run in it is continued.
    resume: false starts anew and removes the checkpoints in `output`.
    """

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
            paths = value if isinstance(value, list) else [value]
            if not all(isinstance(path, str) for path in paths) and (name == "data" or value is not None):
                raise ValueError(f"{name} must be a path or a list of paths, not {value!r}")
        parts = ("language_model", "image_encoder", "audio_encoder")
        assembled = [name for name in parts if getattr(self.model, name) is not None]
        if self.model.load is None and (self.model.language_model is None or len(assembled) < 2):
            raise ValueError(
                "model needs either load, or both language_model and image_encoder (or audio_encoder, or the two); "
                "`model: nano` is short for `model: {load: nano}`"
            )
        if self.model.load is not None and assembled:
            raise ValueError(f"model has both load and {assembled[0]}; give one of them")
        if self.model.load is not None and (given := self.model.new_adapters()):
            raise ValueError(
                f"model.load: {self.model.load} has its own {', '.join(given)}: leave out "
                f"{', '.join(f'model.{name}' for name in given)}, or begin with new adapters: give language_model and "
                "image_encoder (or audio_encoder) instead of load"
            )
        if self.model.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"model.dtype must be 'float32' or 'bfloat16', not {self.model.dtype!r}")


@dataclass(frozen=True, kw_only=True)
class CodecParts:
    """The codec to train, one of three.

    image, audio: a new one with any of its sizes; {} for the defaults. trained: the folder of one to train further.
    """

    image: ImageVQVAEConfig | None = None
    audio: AudioVQVAEConfig | None = None
    trained: str | None = None

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.image, self.audio, self.trained)) != 1:
            raise ValueError("codec needs image, audio or trained, one of them; {} takes all sizes as they are")


@dataclass(frozen=True)
class DecoderParts(DiffusionDecoderConfig):
    """The diffusion decoder to train.

    codec: the folder of the codec that it is for.
    """

    codec: str = MISSING


@dataclass(frozen=True, kw_only=True)
class CodecRecipe(CodecTrainConfig):
    """A run that trains a codec or, on a trained one, a diffusion decoder.

    codec: the codec to train. decoder: the diffusion decoder to train. Only one of them.
    data, held_out: pictures or recordings: a folder, files, tars or paired data, or a list of those.
    perceptual: a frozen CLIP, ARCHITECTURE/TAG or a folder, whose features are compared as well.
    output: the folder that gets the codec or decoder, its figures, previews and checkpoints.
    resume: false starts anew and removes the checkpoints in `output`.
    """

    codec: CodecParts | None = None
    decoder: DecoderParts | None = None
    data: Any = MISSING
    held_out: Any = None
    perceptual: str | None = None
    output: str = MISSING
    resume: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.codec is None) == (self.decoder is None):
            raise ValueError("a recipe trains one thing: give codec or decoder, not both")
        if self.tune == "decoder" and (self.codec is None or self.codec.trained is None):
            raise ValueError("tune: decoder keeps codes as they are: give codec.trained, whose codes mean something")
        if self.perceptual is not None and (self.codec is None or self.codec.audio is not None):
            raise ValueError(JUDGES_PICTURES)


@dataclass(frozen=True, kw_only=True)
class WritingRecipe:
    """A run that trains a model to write codes.

    model: the model to train. write: the settings of the run.
    data, held_out: paired data, as adapters take them.
    output: the folder that gets the model, its figures and checkpoints.
    resume: false starts anew and removes the checkpoints in `output`.
    """

    model: WritingModelRecipe = field(default_factory=WritingModelRecipe)
    write: WritingTrainConfig = field(default_factory=WritingTrainConfig)
    data: Any = MISSING
    held_out: Any = None
    output: str = MISSING
    resume: bool = True


AnyRecipe = Recipe | CodecRecipe | WritingRecipe | AlignedRecipe
"""What `load_recipe` gives."""


def load_recipe(path: str | os.PathLike, overrides: Sequence[str] = ()) -> AnyRecipe:
    """A recipe from YAML, with `key=value` and `key.key=value` on top.

    One with `objective` is an AlignedRecipe, one with `write` a WritingRecipe, one with `codec` or
    `decoder` a CodecRecipe, any other a Recipe of adapters.
    ValueError, naming the key, for one that is unknown, missing or of the wrong type.
    """
    schema = _schema_of(_merged(path, overrides, None))
    config = _merged(path, overrides, schema)
    try:
        return cast(Any, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), config)))
    except ConfigKeyError as error:
        known = ", ".join(f.name for f in fields(schema))
        raise ValueError(f"{path}: unknown key {error.full_key!r}; the recipe's keys are {known}") from error
    except MissingMandatoryValue as error:
        raise ValueError(f"{path}: {error.full_key!r} is missing") from error
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        key, said = getattr(error, "full_key", None), str(error).splitlines()[0]
        if "ListConfig, list" in said:  # OmegaConf's name for it
            said = "give a list: [first, second]"
        raise ValueError(f"{path}: {f'{key}: ' if key else ''}{said}") from error


def _schema_of(config: DictConfig) -> type:
    """The class of a recipe, by its keys."""
    if "objective" in config:
        objective = config.objective
        return align_schema(str(objective.get("kind")) if isinstance(objective, DictConfig) else str(objective))
    of_codec = "codec" in config or "decoder" in config
    return WritingRecipe if "write" in config else CodecRecipe if of_codec else Recipe


def _merged(path: str | os.PathLike, overrides: Sequence[str], schema: type | None) -> DictConfig:
    """What the YAML file and the overrides say, not yet checked against the schema."""
    path = at_home(path)
    check_regular(path)
    try:
        written = OmegaConf.load(Path(path))
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError, UnicodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(written, DictConfig):
        raise ValueError(f"{path} must hold keys and values")
    try:
        # One by one: what follows `model=nano` would otherwise stand in its place, not beside it.
        given = [override_of(override, schema) for override in overrides]
        merged = cast(DictConfig, OmegaConf.merge(*(_with_model(config) for config in (written, *given))))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from error
    if OmegaConf.to_yaml(merged).count("${") > 20:  # each may hold two of the next: a page can stand for gigabytes
        raise ValueError(f"{path} has more than 20 references (${{…}}); write the values themselves")
    return merged


def _with_model(config: DictConfig) -> DictConfig:
    """`model: nano` as `model: {load: nano}`, and `objective: dpo` as `objective: {kind: dpo}`."""
    for name, key in (("model", "load"), ("objective", "kind")):
        if isinstance(config.get(name), str):
            config[name] = {key: config[name]}
    return config


def recipe_yaml(recipe: AnyRecipe) -> str:
    """A recipe as YAML with every key, which `load_recipe` reads back."""
    return OmegaConf.to_yaml(OmegaConf.structured(recipe))
