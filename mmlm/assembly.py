"""Putting a model together: from names, from ready-made parts, from a folder, from the hub."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from encoders.base import FrozenEncoder
from encoders.clip import ClipImageEncoder
from mmlm.config import FusionConfig, ModelConfig, ResamplerConfig, digest
from mmlm.language_model import LanguageModel
from mmlm.model import REPLACED, MultimodalLM
from mmlm.presets import ASSEMBLED, OPEN_FLAMINGO, PRESET, PRESETS, preset_path
from mmlm.prompt import PromptTemplate
from mmlm.vocabulary import ADDED_TOKENS, ADDED_TOKENS_WITH_AUDIO


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
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> MultimodalLM:
    """A new model from a causal LM and a CLIP, a Whisper or both, with untrained adapters whose gates are shut.

    `language_model`: a hub id, a folder or a `...ForCausalLM` (then with its `tokenizer`). `image_encoder`: an
    open_clip `NAME/PRETRAINED_TAG`, `NAME/FILE`, a folder, or a `FrozenEncoder`. `audio_encoder`: a model of
    openai-whisper, such as "whisper/tiny", a checkpoint file, or a `FrozenEncoder`. `dtype` is that of the language
    model and the image encoder; Whisper and the adapters are float32. The adapters' starting weights draw from `seed`;
    the global random state is left as it was.
    """
    host = _language_model(language_model, tokenizer, dtype, audio_encoder is not None)
    eyes = None if image_encoder is None else image_encoder_of(image_encoder, final_norm, dtype)
    ears = None if audio_encoder is None else _audio_encoder(audio_encoder)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs as well
        model = MultimodalLM(
            host, eyes, resampler, fusion, template, audio_encoder=ears, audio_resampler=audio_resampler
        )
    return model.to(device)


def load(
    name: str | Path,
    *,
    language_model: nn.Module | None = None,
    tokenizer: Any = None,
    image_encoder: FrozenEncoder | None = None,
    audio_encoder: FrozenEncoder | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> MultimodalLM:
    """A saved model: a preset ("nano"), a folder written by `save`, or a hub id; or one of `mmlm.presets.ASSEMBLED` or
    `OPEN_FLAMINGO`, whose parts are downloaded once.

    Parts that were ready-made when it was saved are given here again. A frozen part with other weights than those it
    was trained with is a warning with both fingerprints. Errors: no such model, a part that cannot be found, weights
    that do not fit the config.
    """
    if str(name) in ASSEMBLED:
        parts = {**ASSEMBLED[str(name)], "tokenizer": tokenizer}
        given = {"language_model": language_model, "image_encoder": image_encoder, "audio_encoder": audio_encoder}
        parts |= {part: value for part, value in given.items() if value is not None}
        return assemble(**parts, dtype=dtype, device=device)
    if str(name) in OPEN_FLAMINGO:
        from mmlm.interop.open_flamingo import load_released

        if audio_encoder is not None:
            raise ValueError(f"{name} has no audio encoder")
        return load_released(str(name), language_model, image_encoder, tokenizer=tokenizer, dtype=dtype, device=device)
    folder = _folder(str(name))
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"{folder} is not a saved model: config.json or model.safetensors is missing")
    try:
        written = json.loads((folder / "config.json").read_text())
        config = ModelConfig.from_dict(written)
        with safe_open(folder / "model.safetensors", "pt") as weights:
            metadata = weights.metadata() or {}
            tensors = {key: weights.get_tensor(key) for key in weights.keys()}
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise ValueError(f"the model in {folder} is damaged: {error}") from error
    if metadata.get("config", digest(written)) != digest(written):
        raise ValueError(f"the weights and the config.json in {folder} are of two different models: save it again")
    named = _given(language_model, config.language_model.name, "language_model")
    rows = {key.removeprefix(REPLACED): tensors.pop(key) for key in list(tensors) if key.startswith(REPLACED)}
    host = _language_model(named, tokenizer, dtype, config.audio_encoder is not None, rows)
    _compare("language model", config.language_model.fingerprint, host.fingerprint())
    eyes = ears = None
    if (part := config.image_encoder) is not None:
        eyes = image_encoder_of(_given(image_encoder, part.name, "image_encoder"), part.final_norm, dtype)
        _compare("image encoder", part.fingerprint, eyes.fingerprint())
    if (part := config.audio_encoder) is not None:
        ears = _audio_encoder(_given(audio_encoder, part.name, "audio_encoder"))
        _compare("audio encoder", part.fingerprint, ears.fingerprint())
    with torch.random.fork_rng(devices=[]):  # starting weights are drawn, then replaced
        model = MultimodalLM(
            host,
            eyes,
            config.resampler,
            config.fusion,
            config.template,
            audio_encoder=ears,
            audio_resampler=config.audio_resampler,
        )
    load_added(model, tensors)
    return model.to(device)


@torch.no_grad()
def load_added(model: MultimodalLM, tensors: dict[str, torch.Tensor]) -> None:
    """Puts saved tensors into a model's added parameters; `ValueError`, with nothing changed, unless they fit."""
    added = dict(model.added_parameters())
    missing, unknown = sorted(set(added) - set(tensors)), sorted(set(tensors) - set(added))
    wrong = sorted(name for name in set(added) & set(tensors) if added[name].shape != tensors[name].shape)
    if missing or unknown or wrong:
        raise ValueError(
            f"the weights do not fit the model: missing {missing}, unknown {unknown}, of another shape {wrong}"
        )
    for name, parameter in added.items():
        parameter.copy_(tensors[name])


def _folder(name: str) -> Path:
    if name in PRESETS:
        return PRESETS[name]
    if Path(name).exists():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        known = ", ".join([*PRESETS, *ASSEMBLED, *OPEN_FLAMINGO])
        raise FileNotFoundError(
            f"no model {name!r}: it is neither a preset ({known}), nor a folder, nor a hub id like user/model"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["config.json", "model.safetensors"]))
    except Exception as error:
        raise FileNotFoundError(f"no folder {name!r}, and it could not be fetched from the hub: {error}") from error


def _given(part: Any, name: str | None, argument: str) -> Any:
    if part is None and name is None:
        raise ValueError(f"this model was saved with a ready-made {argument}: pass {argument}= to load it")
    return part if part is not None else name


def _language_model(
    source: str | Path | nn.Module, tokenizer: Any, dtype: torch.dtype, ears: bool, rows: dict | None = None
) -> LanguageModel:
    if isinstance(source, LanguageModel):
        if rows and not source.replaced:
            raise ValueError("this model was saved with embedding rows of its own: pass the bare language model")
        return source
    model, tokenizer, name = causal_model(source, tokenizer, dtype)
    return LanguageModel(model, tokenizer, name, ADDED_TOKENS_WITH_AUDIO if ears else ADDED_TOKENS, rows)


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
            from mmlm.interop.mosaic_gpt import MosaicGpt, mpt_config

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
            from mmlm.interop.mosaic_gpt import mpt_config

            return mpt_config(path)
        return AutoConfig.from_pretrained(path).get_text_config()
    except OSError as error:
        raise FileNotFoundError(f"the language model {str(source)!r} could not be loaded: {error}") from error


def _is_mosaic_gpt(path: str) -> bool:
    """Whether a language model is of the one kind whose own code is needed no more: see mmlm/interop/mosaic_gpt.py."""
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


def _audio_encoder(source: str | Path | FrozenEncoder) -> FrozenEncoder:
    if isinstance(source, FrozenEncoder):
        return source
    from encoders.whisper import WhisperAudioEncoder  # whisper takes a second to import, and not every model hears

    encoder = WhisperAudioEncoder.load(preset_path(source))
    if str(source).startswith(PRESET):
        encoder.name = str(source)
    return encoder


def _compare(part: str, expected: str, found: str) -> None:
    if expected != found:
        warnings.warn(
            f"the {part} has other weights than the one these adapters were trained with: fingerprint {found}, "
            f"expected {expected}. Results will differ",
            stacklevel=3,
        )
