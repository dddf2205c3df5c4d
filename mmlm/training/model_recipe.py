"""What a recipe says of the model that is trained: one that is there, or parts and new adapters."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from omegaconf import MISSING

from mmlm.model.config import FusionConfig, LoraConfig, ReadingLora, ResamplerConfig
from mmlm.prompting.templates import PromptTemplate


@dataclass(frozen=True)
class ImageResampler(ResamplerConfig):
    """A resampler of pictures has the settings of `ResamplerConfig`, with the defaults of `DEFAULTS["image"]`."""

    depth: int = 0
    stack: int = 4


@dataclass(frozen=True)
class AudioResampler(ResamplerConfig):
    """A resampler of sound has the settings of `ResamplerConfig`, with the defaults of `DEFAULTS["audio"]`."""

    depth: int = 0
    timed: bool = True
    stack: int = 4


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """The model to train: `load` one, or assemble one from the names of its frozen parts. `model: NAME` loads NAME.

    load: a preset, a folder or a hub id, whose adapters are trained further.
    language_model, image_encoder, audio_encoder: what `mmlm.assemble` takes, at least one encoder, for new adapters.
    final_norm, resampler, audio_resampler, fusion, lora, template, seed: of new adapters, as `mmlm.assemble` has them;
        None takes its defaults, and no LoRA. With `load` they are refused, since a saved model has its own.
    dtype: "float32" or "bfloat16", of the frozen language model and image encoder. device: cpu, cuda or cuda:N.
    """

    load: str | None = None
    language_model: str | None = None
    image_encoder: str | None = None
    audio_encoder: str | None = None
    final_norm: bool | None = None
    resampler: ImageResampler | None = None
    audio_resampler: AudioResampler | None = None
    fusion: FusionConfig | None = None
    lora: ReadingLora | None = None
    template: PromptTemplate | None = None
    seed: int | None = None
    dtype: str = "float32"
    device: str = "cpu"

    def new_adapters(self) -> dict[str, Any]:
        """What is given that shapes new adapters, by name, as `mmlm.assemble` takes it."""
        names = ("final_norm", "resampler", "audio_resampler", "fusion", "lora", "template", "seed")
        found = {name: value for name in names if (value := getattr(self, name)) is not None}
        kinds = {"resampler": ResamplerConfig, "audio_resampler": ResamplerConfig, "lora": LoraConfig}
        for name, kind in kinds.items():
            if name in found:
                found[name] = kind(**asdict(found[name]))
        return found


@dataclass(frozen=True, kw_only=True)
class WritingModelRecipe:
    """The model to train: `load` one, and give it codecs that it has not. `model: NAME` loads NAME.

    load: a preset, a folder or a hub id.
    image_codec, audio_codec: a folder, a hub id, or a source with options of `load_pretrained`; None keeps the model's.
    image_decoder, audio_decoder: folders of diffusion decoders of these codecs.
    lora: low-rank adapters of the language model; None keeps the model's. seed: of what is new. device: cpu, cuda or
        cuda:N.
    """

    load: str = MISSING
    image_codec: Any = None
    audio_codec: Any = None
    image_decoder: str | None = None
    audio_decoder: str | None = None
    lora: LoraConfig | None = None
    seed: int = 0
    device: str = "cpu"
