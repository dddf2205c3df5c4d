"""What a recipe says of the model that is trained: one that is there, or parts and new adapters."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from omegaconf import MISSING

from mmlm.model.config import FusionConfig, LoraConfig, ReadingLora, ResamplerConfig
from mmlm.prompting.templates import PromptTemplate


@dataclass(frozen=True)
class ImageResampler:
    """The resampler of new adapters for pictures, with the settings of `ResamplerConfig`.

    depth: number of layers; 0: text attends to the encoder's tokens themselves.
    num_latents: latents per item, of a resampler with layers; None for 64.
    heads, dim_head: attention heads and their width. ff_mult: width of the feed-forward layers, in widths of the model.
    timed: adds to each token the time at which its window or frame begins; for long recordings and for videos.
    stack: number of consecutive tokens that are first joined into one; None for 4 without layers, and 1 with layers.
    TypeError or ValueError, naming the field, for a value that cannot be, and for latents without layers.
    """

    depth: int = 0
    num_latents: int | None = None
    heads: int = 8
    dim_head: int = 64
    ff_mult: int = 4
    timed: bool = False
    stack: int | None = None

    def __post_init__(self) -> None:
        if self.depth == 0 and self.num_latents is not None:
            raise ValueError("num_latents is of a resampler with layers, and depth is 0: leave it out, or give depth")
        self.config()

    def config(self) -> ResamplerConfig:
        """As `mmlm.assemble` takes it; without settings, that of `DEFAULTS`."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return ResamplerConfig(**{"stack": 4 if self.depth == 0 else 1, **given})


@dataclass(frozen=True)
class AudioResampler(ImageResampler):
    """A resampler of sound has the same settings."""

    timed: bool = True


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
        for name, value in found.items():
            if isinstance(value, ImageResampler):
                found[name] = value.config()
        return found | ({} if self.lora is None else {"lora": LoraConfig(**asdict(self.lora))})


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
