"""Putting a new model together, from names or from ready-made parts."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from decoders.codecs.base import MediaCodec
from encoders.base import FrozenEncoder
from mmlm.assembly.frozen import audio_encoder_of, codec_of, decoder_of, image_encoder_of, language_model_of
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.model.config import FusionConfig, LoraConfig, ResamplerConfig
from mmlm.model.network import layouts_of
from mmlm.prompting.templates import PromptTemplate


def assemble(
    language_model: str | Path | nn.Module,
    image_encoder: str | Path | FrozenEncoder | None = None,
    *,
    audio_encoder: str | Path | FrozenEncoder | None = None,
    tokenizer: Any = None,
    final_norm: bool = True,
    resampler: ResamplerConfig | None = None,
    audio_resampler: ResamplerConfig | None = None,
    fusion: FusionConfig | None = None,
    template: PromptTemplate | None = None,
    image_codec: str | Path | MediaCodec | None = None,
    audio_codec: str | Path | MediaCodec | None = None,
    image_decoder: str | Path | nn.Module | None = None,
    audio_decoder: str | Path | nn.Module | None = None,
    lora: LoraConfig = LoraConfig(),
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> MultimodalLM:
    """A new model from a causal LM and a CLIP, a Whisper or both, with untrained adapters whose gates are shut.

    With codecs it has rows for their codes, to be trained to draw and to speak.

    `language_model`: a hub id, a folder or a `...ForCausalLM` (then with its `tokenizer`). `image_encoder`: an
    open_clip `NAME/PRETRAINED_TAG`, `NAME/FILE`, a folder, or a `FrozenEncoder`. `audio_encoder`: a model of
    openai-whisper, such as "whisper/tiny", a checkpoint file, or a `FrozenEncoder`. `image_codec`, `audio_codec`: a
    folder written by `mmlm train` or by diffusers or transformers, a hub id, or a `MediaCodec`; `image_decoder`,
    `audio_decoder`: a folder of a diffusion decoder of that codec, or one ready-made. `dtype` is that of the language
    model and the image encoder; all else is float32. The adapters' starting weights draw from `seed`; the global random
    state is left as it was.
    """
    codecs, decoders = _writing_parts({"image": image_codec, "audio": audio_codec},
                                      {"image": image_decoder, "audio": audio_decoder})  # fmt: skip
    eyes = None if image_encoder is None else image_encoder_of(image_encoder, final_norm, dtype)
    ears = None if audio_encoder is None else audio_encoder_of(audio_encoder)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs as well
        host = language_model_of(
            language_model, tokenizer, dtype, audio_encoder is not None, layouts=layouts_of(codecs), lora=lora
        )
        model = MultimodalLM(
            host, eyes, resampler, fusion, template, audio_encoder=ears, audio_resampler=audio_resampler,
            codecs=codecs, decoders=decoders,
        )  # fmt: skip
    return model.to(device)


def _writing_parts(
    codecs: dict[str, str | Path | MediaCodec | None], decoders: dict[str, str | Path | nn.Module | None]
) -> tuple[dict[str, MediaCodec], dict[str, nn.Module]]:
    """Codecs and their diffusion decoders by modality, loaded where they are names; those that are None left out."""
    made = {modality: codec_of(source) for modality, source in codecs.items() if source is not None}
    rendered = {}
    for modality, source in decoders.items():
        if source is None:
            continue
        if modality not in made:
            raise ValueError(f"an {modality} decoder needs the {modality} codec that it is of")
        rendered[modality] = source if isinstance(source, nn.Module) else decoder_of(source, made[modality])
    return made, rendered
