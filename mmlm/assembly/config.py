"""What a model is made of, as dataclasses that go to and from `config.json`."""

import dataclasses
import hashlib
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from decoders.values import check_kinds, fits
from mmlm.model.config import FusionConfig, LoraConfig, ResamplerConfig
from mmlm.prompting.templates import PromptTemplate

FORMAT_VERSION = 3  # from 2 on, the digest that weights carry is also of the names of the parts; 3 may have a tokenizer


@dataclass(frozen=True)
class FrozenPart:
    """A pretrained part: the name that loads it (None when it was given ready-made) and its fingerprint."""

    name: str | None
    fingerprint: str

    def __post_init__(self) -> None:
        check_kinds(self)


@dataclass(frozen=True)
class ImageEncoderPart(FrozenPart):
    """A CLIP image encoder; `final_norm=False` takes patch tokens before the last norm, as OpenFlamingo did."""

    final_norm: bool = True


@dataclass(frozen=True)
class CodecPart(FrozenPart):
    """A codec, and what a published one was loaded with; one trained here knows all of it."""

    subfolder: str = ""
    size: int | None = None
    num_codebooks: int | None = None


@dataclass(frozen=True)
class ModelConfig:
    """Everything that `mmlm.load` needs beside the weights."""

    language_model: FrozenPart
    image_encoder: ImageEncoderPart | None = None
    resampler: ResamplerConfig = field(default_factory=ResamplerConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    template: PromptTemplate = field(default_factory=PromptTemplate)
    audio_encoder: FrozenPart | None = None
    audio_resampler: ResamplerConfig = field(default_factory=lambda: ResamplerConfig(timed=True))
    image_codec: CodecPart | None = None
    image_decoder: FrozenPart | None = None
    audio_codec: CodecPart | None = None
    audio_decoder: FrozenPart | None = None
    lora: LoraConfig = field(default_factory=LoraConfig)
    tokenizer: FrozenPart | None = None  # where it is not the language model's own
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        check_kinds(self)

    @property
    def has_codecs(self) -> bool:
        """Whether it writes codes of any medium."""
        return self.image_codec is not None or self.audio_codec is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """The inverse of `to_dict`. `ValueError` for an unknown key, a wrong type or a newer format."""
        version = values.get("format_version") if isinstance(values, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise ValueError(f"this model has format {version}, this mmlm reads up to {FORMAT_VERSION}: upgrade mmlm")
        return _build(cls, values, "config")


def digest(values: dict[str, Any]) -> str:
    """16 hex digits of a config as it is written; in format 1 without the names of its frozen parts.

    Of what is written, not of what is read: a field added to ModelConfig later leaves old digests as they are.
    """
    if values.get("format_version") == 1:
        values = {
            key: {k: v for k, v in part.items() if k != "name"} if isinstance(part, dict) else part
            for key, part in values.items()
        }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _build(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be a mapping, not {type(values).__name__}")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"{where} has unknown keys {unknown}; known are {sorted(hints)}")
    missing = sorted(f.name for f in dataclasses.fields(cls) if f.name not in values and _required(f))
    if missing:
        raise ValueError(f"{where} lacks {missing}")
    return cls(**{key: _check(hints[key], value, f"{where}.{key}") for key, value in values.items()})


def _required(f: dataclasses.Field) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _check(hint: Any, value: Any, where: str) -> Any:
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    part = next((kind for kind in allowed if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None)
    if part is not None and (value is not None or type(None) not in allowed):
        return _build(part, value, where)
    if not fits(value, hint):
        raise ValueError(f"{where} must be {hint}, not {value!r}")
    return value
