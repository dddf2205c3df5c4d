"""The frozen parts of a model, by their names or ready-made: language models, encoders, codecs and their decoders."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from decoders.codecs.base import MediaCodec
from encoders.base import FrozenEncoder
from encoders.clip import ClipImageEncoder
from mmlm.assembly.config import CodecPart
from mmlm.assembly.presets import PRESET, preset_path
from mmlm.model.config import LoraConfig
from mmlm.model.language_model import LanguageModel
from mmlm.prompting.code_layout import CodeLayout
from mmlm.prompting.vocabulary import ADDED_TOKENS, ADDED_TOKENS_WITH_AUDIO


def language_model_of(
    source: str | Path | nn.Module,
    tokenizer: Any,
    dtype: torch.dtype,
    ears: bool,
    rows: dict | None = None,
    layouts: tuple[CodeLayout, ...] = (),
    lora: LoraConfig = LoraConfig(),
) -> LanguageModel:
    """A language model with rows for media, with or without ears, or the ready-made one."""
    if isinstance(source, LanguageModel):
        if rows and not source.replaced:
            raise ValueError("this model was saved with embedding rows of its own: pass the bare language model")
        return source
    model, tokenizer, name = causal_model(source, tokenizer, dtype)
    added = ADDED_TOKENS_WITH_AUDIO if ears else ADDED_TOKENS
    return LanguageModel(model, tokenizer, name, added, rows, layouts, lora)


def causal_model(
    source: str | Path | nn.Module, tokenizer: Any, dtype: torch.dtype
) -> tuple[nn.Module, Any, str | None]:
    """A bare language model with its tokenizer and lasting name, from a hub id, a folder or a ready-made model."""
    if isinstance(source, nn.Module):
        if tokenizer is None:
            raise ValueError("a ready-made language model needs its tokenizer: pass tokenizer=")
        return source, tokenizer, None
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = _language_model_path(source)
    # A path is kept from the root, so that it means the same from any folder.
    name = str(Path(source).resolve()) if Path(source).exists() else str(source)
    try:
        if _is_mosaic_gpt(path):
            from mmlm.assembly.interop.mosaic_gpt import MosaicGpt, mpt_config

            config, kind = mpt_config(path), MosaicGpt
        else:
            config, kind = None, AutoModelForCausalLM
        tokenizer = AutoTokenizer.from_pretrained(path, config=config) if tokenizer is None else tokenizer
        return kind.from_pretrained(path, config=config, dtype=dtype), tokenizer, name
    except OSError as error:
        raise FileNotFoundError(f"the language model {str(source)!r} could not be loaded: {error}") from error


def language_model_config(source: str | Path) -> Any:
    """The text config of a language model by name, without its weights."""
    from transformers import AutoConfig

    path = _language_model_path(source)
    try:
        if _is_mosaic_gpt(path):
            from mmlm.assembly.interop.mosaic_gpt import mpt_config

            return mpt_config(path)
        return AutoConfig.from_pretrained(path).get_text_config()
    except OSError as error:
        raise FileNotFoundError(f"the language model {str(source)!r} could not be loaded: {error}") from error


def _is_mosaic_gpt(path: str) -> bool:
    """Whether a language model is of the one kind whose own code is needed no more: see interop/mosaic_gpt.py."""
    from transformers import PreTrainedConfig

    return PreTrainedConfig.get_config_dict(path)[0].get("model_type") == "mosaic_gpt"


def _language_model_path(source: str | Path) -> str:
    path = preset_path(source)
    if Path(path).is_absolute() and not Path(path).exists():  # transformers would take it for a hub id
        raise FileNotFoundError(f"the language model {path} is not there (any more): pass language_model= to say where")
    return path


def image_encoder_of(source: str | Path | FrozenEncoder, final_norm: bool, dtype: torch.dtype) -> FrozenEncoder:
    """An image encoder by the name that `assemble` takes, or the ready-made one."""
    if isinstance(source, FrozenEncoder):
        return source
    encoder = ClipImageEncoder.load(preset_path(source), final_norm=final_norm, dtype=dtype)
    if str(source).startswith(PRESET):  # the preset's name, wherever the package lies
        encoder.name = str(source)
    return encoder


def audio_encoder_of(source: str | Path | FrozenEncoder) -> FrozenEncoder:
    """An audio encoder by the name that `assemble` takes, or the ready-made one."""
    if isinstance(source, FrozenEncoder):
        return source
    from encoders.whisper import WhisperAudioEncoder  # whisper takes a second to import, and not every model hears

    encoder = WhisperAudioEncoder.load(preset_path(source))
    if str(source).startswith(PRESET):
        encoder.name = str(source)
    return encoder


def codec_of(source: str | Path | MediaCodec, part: CodecPart | None = None) -> MediaCodec:
    """A codec by the name that `assemble` takes, or the ready-made one; `part`: how it was loaded when it was saved."""
    if isinstance(source, MediaCodec):
        return source
    from decoders.codecs.checkpoint import (
        load_codec,  # the quantisers take a second to import, and not every model writes
    )

    path = Path(preset_path(source))
    config = path / "config.json"
    if config.is_file() and "kind" in json.loads(config.read_text()):
        codec = load_codec(path)
    else:
        from decoders.codecs.pretrained import load_pretrained

        names = ("subfolder", "size", "num_codebooks")
        known = {} if part is None else {name: value for name in names if (value := getattr(part, name))}
        return load_pretrained(str(path), **known)
    codec.name = lasting_name(source)
    return codec


def decoder_of(source: str | Path, codec: MediaCodec) -> nn.Module:
    """The diffusion decoder of a codec, by its folder's name."""
    from decoders.diffusion.checkpoint import load_decoder

    decoder = load_decoder(preset_path(source), codec)
    decoder.name = lasting_name(source)
    return decoder


def lasting_name(source: str | Path) -> str:
    """A path from the root, so that it means the same from any folder; other names as they are."""
    return str(Path(source).resolve()) if Path(source).exists() else str(source)


def compare(part: str, expected: str, found: str) -> None:
    """A warning where a frozen part is not the one that a model was trained with."""
    if expected != found:
        warnings.warn(
            f"the {part} has other weights than the one these adapters were trained with: fingerprint {found}, "
            f"expected {expected}. Results will differ",
            stacklevel=3,
        )
