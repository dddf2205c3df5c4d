"""The frozen parts of a model, by name or ready-made: language models and encoders."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from encoders.base import FrozenEncoder
from encoders.clip import ClipImageEncoder
from encoders.files import at_home
from mmlm.assembly.config import FrozenPart
from mmlm.assembly.forms.named import named_model, named_tokenizer
from mmlm.assembly.names import path_in
from mmlm.assembly.presets import PRESET, preset_path
from mmlm.model.config import LoraConfig
from mmlm.model.language_model import LanguageModel
from mmlm.prompting.code_layout import CodeLayout
from mmlm.prompting.vocabulary import ADDED_TOKENS, ADDED_TOKENS_WITH_AUDIO

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")


def language_model_of(
    source: str | Path | nn.Module,
    tokenizer: Any,
    dtype: torch.dtype,
    with_audio: bool,
    rows: dict[str, torch.Tensor] | None = None,
    layouts: tuple[CodeLayout, ...] = (),
    lora: LoraConfig = LoraConfig(),
    bare: PreTrainedModel | None = None,
) -> LanguageModel:
    """A language model with rows for media, and for sound where the model has an audio encoder; or the ready-made one.

    rows: embedding (and head) rows that a saved model has in place of the language model's own. bare: what the source
    names, where it is in memory already.
    """
    if isinstance(source, LanguageModel):
        if rows and not source.replaced:
            raise ValueError("this model was saved with embedding rows of its own: pass the bare language model")
        return source
    own_tokenizer = tokenizer is not None
    if bare is None:
        model, tokenizer, name = causal_model(source, tokenizer, dtype)
    else:
        assert not isinstance(source, nn.Module), "what is in memory already is known by its name"
        model, tokenizer, name = bare, tokenizer or named_tokenizer(source), lasting_name(source)
    added = ADDED_TOKENS_WITH_AUDIO if with_audio else ADDED_TOKENS
    return LanguageModel(model, tokenizer, name, added, rows, layouts, lora, own_tokenizer)


def causal_model(
    source: str | Path | nn.Module, tokenizer: Any, dtype: torch.dtype
) -> tuple[PreTrainedModel, Any, str | None]:
    """A bare language model with its tokenizer and lasting name: by name (see `forms.named`), or a ready-made one."""
    if tokenizer is not None:
        checked_tokenizer(tokenizer)
    if isinstance(source, nn.Module):
        if tokenizer is None:
            raise ValueError("a ready-made language model needs its tokenizer: pass tokenizer=")
        if not hasattr(source, "config") or not hasattr(source, "get_output_embeddings"):
            raise TypeError(
                f"a language model is a causal one of transformers (…ForCausalLM), not {type(source).__name__}"
            )
        return source, tokenizer, None  # pyright: ignore[reportReturnType]  # any module with a causal LM's interface
    model, tokenizer = named_model(source, tokenizer, dtype)
    return model, tokenizer, lasting_name(source)


def checked_tokenizer(tokenizer: Any) -> Any:
    """A tokenizer that was given; TypeError for what is none."""
    if not callable(tokenizer) or not hasattr(tokenizer, "convert_tokens_to_ids"):
        raise TypeError(f"tokenizer is one of transformers', made by AutoTokenizer.from_pretrained, not {tokenizer!r}")
    return tokenizer


def image_encoder_of(source: str | Path | FrozenEncoder, final_norm: bool, dtype: torch.dtype) -> FrozenEncoder:
    """An image encoder by the name that `assemble` takes, or the ready-made one."""
    if isinstance(source, FrozenEncoder):
        return _of_modality(source, "image")
    if isinstance(source, nn.Module):
        raise TypeError(f"a ready-made CLIP goes into an encoder first: ClipImageEncoder({type(source).__name__}(…))")
    encoder = ClipImageEncoder.load(preset_path(source), final_norm=final_norm, dtype=dtype)
    if str(source).startswith(PRESET):  # the preset's name, wherever the package is installed
        encoder.name = str(source)
    return encoder


def audio_encoder_of(source: str | Path | FrozenEncoder) -> FrozenEncoder:
    """An audio encoder by the name that `assemble` takes, or the ready-made one."""
    if isinstance(source, FrozenEncoder):
        return _of_modality(source, "audio")
    if isinstance(source, nn.Module):
        raise TypeError(
            f"a ready-made Whisper goes into an encoder first: WhisperAudioEncoder({type(source).__name__}(…))"
        )
    from encoders.whisper import WhisperAudioEncoder  # whisper takes a second to import, and not every model hears

    encoder = WhisperAudioEncoder.load(preset_path(source))
    if str(source).startswith(PRESET):
        encoder.name = str(source)
    return encoder


def _of_modality(encoder: FrozenEncoder, modality: str) -> FrozenEncoder:
    if encoder.modality != modality:
        raise ValueError(f"{modality}_encoder is given an encoder of {encoder.modality}: {type(encoder).__name__}")
    return encoder


def lasting_name(source: str | Path) -> str:
    """A path from the root, so that it means the same in any folder; other names as they are."""
    path = Path(at_home(source))
    return str(path.resolve()) if path.exists() else str(source)


def given_or_named(part: T | None, name: str | None, what: str, argument: str | None = None) -> T | str:
    """The part that was given, or else its saved name; ValueError without either, FileNotFoundError for a lost path.

    what: how the message names the part; argument: how it is given, where that is another name.
    """
    if part is not None:
        return part
    argument = argument or what
    if name is None:
        raise ValueError(f"this model was saved with a ready-made {what}: pass {argument}= to load it")
    if (path := path_in(name)) is not None and not Path(path).exists():
        flag = "" if argument == "codecs" else f" (--{argument.replace('_', '-')} on the command line)"
        raise FileNotFoundError(
            f"the {what.replace('_', ' ')} {path} does not exist (any more): give its new place with {argument}={flag}"
        )
    return name


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """16 hex digits of what a tokenizer makes of texts: its tokens, its rules, and its chat template.

    Padding and truncation are left out: a tokenizer keeps them of its last call.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = sorted(tokenizer.get_vocab().items()) if backend is None else json.loads(backend.to_str())
    if isinstance(rules, dict):
        rules |= {"padding": None, "truncation": None}
    written = json.dumps([rules, getattr(tokenizer, "chat_template", None)], sort_keys=True)
    return hashlib.sha256(written.encode()).hexdigest()[:16]


def check_fingerprint(what: str, expected: FrozenPart | None, found: str) -> None:
    """Warns where a frozen part is not the one that the adapters were trained with."""
    if expected is not None and expected.fingerprint != found:
        warnings.warn(
            f"the {what} has other {'tokens' if what == 'tokenizer' else 'weights'} than the one these adapters were "
            f"trained with: fingerprint {found}, expected {expected.fingerprint}. Results will differ",
            stacklevel=3,
        )
