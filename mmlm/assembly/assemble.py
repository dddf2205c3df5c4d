"""Putting a new model together, from names or from ready-made parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from decoders.values import check_kind
from encoders.base import FrozenEncoder
from mmlm.assembly.arguments import check_arguments
from mmlm.assembly.codecs import Codecs, load_codecs
from mmlm.assembly.frozen import audio_encoder_of, image_encoder_of, language_model_of
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.model.config import FusionConfig, LoraConfig, ResamplerConfig
from mmlm.model.draws import OwnDraws
from mmlm.model.layouts import layouts_of
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
    codecs: Codecs = Codecs(),
    lora: LoraConfig = LoraConfig(),
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> MultimodalLM:
    """A new model from a causal LM and a CLIP, a Whisper or both. Its adapters are untrained, their gates shut.

    language_model: a hub id (`user/model`, `user/model@revision`), a folder, a file of GGUF, an adapter of peft, or a
        `...ForCausalLM` (then with its `tokenizer`).
    image_encoder: a CLIP or SigLIP: an open_clip `NAME/PRETRAINED_TAG`, `NAME/FILE`, a folder, a hub id, a file of
        OpenAI's, or a `FrozenEncoder`. final_norm: whether its tokens pass the tower's last norm; OpenFlamingo's do
        not. A ready-made encoder says so itself.
    audio_encoder: a Whisper of openai-whisper's, such as "whisper/tiny", or its checkpoint file, a folder or hub id of
        transformers or CTranslate2, as `encoders.whisper.load_whisper` takes them; or a `FrozenEncoder`.
    resampler, audio_resampler, fusion, template: form of the adapters and the wording of prompts; None for one token in
        place of four of an encoder's (`mmlm.model.config.DEFAULTS`) and for Flamingo's gated blocks.
    codecs: what the model draws and speaks with; it gets rows for their codes, which are to be trained. lora: low-rank
        adapters of the language model, which act while codes are written or, with `reads`, always.
    dtype: of a language model and an image encoder that are named; ready-made parts stay, and all else is float32.
    seed: of the adapters' initial weights. The global random state stays as it is.
    Errors: FileNotFoundError or ValueError for a part that cannot be found or loaded, or a device that is not there;
    TypeError for values of another kind.
    """
    check_arguments(
        dtype, device, codecs=codecs, lora=lora, resampler=resampler, audio_resampler=audio_resampler, fusion=fusion,
        template=template,
    )  # fmt: skip
    check_kind("seed", seed, int)
    check_kind("final_norm", final_norm, bool)
    if not final_norm and getattr(image_encoder, "final_norm", False):
        raise ValueError(
            "final_norm=False is for an encoder by name: give it to the ready-made ClipImageEncoder itself"
        )
    with OwnDraws(seed):  # loading draws initial weights, too, before it replaces them
        loaded = load_codecs(codecs)
        images = None if image_encoder is None else image_encoder_of(image_encoder, final_norm, dtype)
        audio = None if audio_encoder is None else audio_encoder_of(audio_encoder)
    with OwnDraws(seed):
        host = language_model_of(
            language_model, tokenizer, dtype, audio is not None, layouts=layouts_of(loaded.codecs), lora=lora
        )
        model = MultimodalLM(
            host, images, resampler, fusion, template, audio_encoder=audio, audio_resampler=audio_resampler,
            codecs=loaded.codecs, decoders=loaded.decoders,
        )  # fmt: skip
    return model.to(device)
