"""Language models by name, whatever form lies there: a folder of transformers, a file of GGUF, an adapter of peft."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from encoders.files import at_home
from encoders.gguf import is_gguf, read_gguf
from encoders.guarded import from_pretrained
from encoders.hub import cache_fault, hub_fault, hub_file, hub_files, split_revision
from encoders.settings import settings_of
from encoders.sizes import RefusedError
from mmlm.assembly.forms.adapter import adapted, adapter_settings, base_of
from mmlm.assembly.forms.gguf import gguf_config, gguf_model
from mmlm.assembly.forms.gguf_tokenizer import UnreadError, check_same, gguf_tokenizer
from mmlm.assembly.presets import preset_path

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)
READY_MADE = "load it yourself, and pass the model with its tokenizer as language_model= and tokenizer="
_HUB_FILE = re.compile(r"([\w.-]+/[\w.-]+(?:@[\w.-]+)?)/(.+\.gguf)")
_OF_TOKENIZERS = re.compile(r"token|vocab|merges|spiece|sentencepiece|tekken|tiktoken|bpe", re.IGNORECASE)
PLAIN = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_VARIANT = re.compile(r"(?:pytorch_)?model\.(?!safetensors|bin)(\w+?)(?:-\d+-of-\d+)?\.(?:safetensors|bin)")


def named_model(source: str | Path, tokenizer: Any, dtype: torch.dtype) -> tuple[PreTrainedModel, Any]:
    """A language model and its tokenizer (or the given one), by the name that `assemble` takes.

    FileNotFoundError or ValueError, in one line, for what cannot be found or loaded; `RefusedError` for a danger.
    """
    try:
        path = _place(source)
        if not adapter_settings(path):
            return _whole(path, tokenizer, dtype)
        return _adapted(path, tokenizer, dtype)
    except Exception as error:
        raise unloadable(source, error) from error


def named_tokenizer(source: str | Path) -> Any:
    """The tokenizer of a language model by name; errors are those of `named_model`."""
    try:
        path = _place(source)
        if not adapter_settings(path):
            return _tokenizer(path)
        base = _place(base_of(path))
        return _adapters_tokenizer(path, base) or _tokenizer(base)
    except Exception as error:
        raise unloadable(source, error) from error


def language_model_config(source: str | Path) -> PreTrainedConfig:
    """The text config of a language model by name, without its weights."""
    try:
        path = _place(source)
        return _settings(_place(base_of(path)) if adapter_settings(path) else path)
    except Exception as error:
        raise unloadable(source, error) from error


def unloadable(source: str | Path, error: Exception) -> Exception:
    """What to raise where a language model could not be loaded: one line, in words that hold for mmlm."""
    fault = hub_fault(source, error)
    if fault is None and isinstance(error, OSError) and not _is_local(at_home(source)):
        fault = cache_fault(source)
    if fault is not None:
        return FileNotFoundError(f"the language model {str(source)!r} could not be loaded: {fault}")
    words = " ".join(str(error).split())
    if isinstance(error, RefusedError):
        return RefusedError(f"the language model cannot be loaded: {words}")
    if isinstance(error, ImportError):
        return ImportError(f"the language model {str(source)!r} could not be loaded: {words}")
    if isinstance(error, OSError):
        return FileNotFoundError(f"the language model {str(source)!r} could not be loaded: {words}")
    return ValueError(f"the language model {str(source)!r} could not be loaded ({type(error).__name__}): {words}")


def _whole(path: str, tokenizer: Any, dtype: torch.dtype) -> tuple[PreTrainedModel, Any]:
    if is_gguf(path):
        tokenizer = tokenizer or _tokenizer(path)
        return gguf_model(path, dtype), tokenizer
    return _of_transformers(path, tokenizer, dtype)


def _tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    if is_gguf(path):
        return _gguf_tokenizer(path)
    if Path(path).is_dir() and not any(_OF_TOKENIZERS.search(file.name) for file in Path(path).iterdir()):
        raise FileNotFoundError(
            "it has no tokenizer: put tokenizer.json and tokenizer_config.json of the model beside it"
        )
    options = {"config": _config(path)} if _is_mosaic_gpt(path) else {}
    return from_pretrained(AutoTokenizer, path, READY_MADE, **options)


def _gguf_tokenizer(path: str) -> Any:
    """The tokenizer in a file; the one that lies beside it, where the file's is of no kind that is read."""
    from transformers import AutoTokenizer

    file, folder = read_gguf(path), Path(path).parent
    try:
        return gguf_tokenizer(file)
    except UnreadError:
        if not (folder / "tokenizer.json").is_file():
            raise
    made = from_pretrained(AutoTokenizer, folder, READY_MADE, config=gguf_config(file))
    check_same(file, made)
    return made


def _of_transformers(path: str, tokenizer: Any, dtype: torch.dtype) -> tuple[PreTrainedModel, Any]:
    from transformers import AutoModelForCausalLM

    config = _config(path)  # first: it tells a model that is code, of which the tokenizer's error says little
    options: dict[str, Any] = {"variant": _variant(path)}
    kind: Any = AutoModelForCausalLM
    if _is_mosaic_gpt(path):
        from mmlm.assembly.interop.mosaic_gpt import RENAMED, MosaicGpt

        kind, options = MosaicGpt, {"config": config, "key_mapping": RENAMED}
    if tokenizer is None:
        tokenizer = _tokenizer(path)
    model, report = from_pretrained(kind, path, READY_MADE, dtype=dtype, output_loading_info=True, **options)
    _check_whole(report, path)
    return model, tokenizer


def _check_whole(report: dict[str, Any], path: str) -> None:
    """ValueError where weights are missing, which would be drawn at random; a warning where some are left over."""
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"its weights lack {len(missing)} tensors, such as {missing[0]}: they are damaged, or not all of it"
        )
    if unknown := sorted(report["unexpected_keys"]):
        log.warning("%s has %s tensors that its settings do not ask for, such as %s", path, len(unknown), unknown[0])


def _adapted(path: str, tokenizer: Any, dtype: torch.dtype) -> tuple[PreTrainedModel, Any]:
    """The model that an adapter is for, with the adapter. Its tokenizer is the adapter's own, where it has one."""
    base = _place(base_of(path))
    if adapter_settings(base):
        raise ValueError(f"it is an adapter of {base}, which is an adapter itself: {READY_MADE}")
    if tokenizer is None:
        tokenizer = _adapters_tokenizer(path, base)
    model, tokenizer = _whole(base, tokenizer, dtype)
    return adapted(model, path), tokenizer


def _adapters_tokenizer(path: str, base: str) -> Any:
    """The tokenizer that lies beside an adapter; None where there is none."""
    from transformers import AutoTokenizer

    if not settings_of(path, name="tokenizer_config.json"):
        return None
    return from_pretrained(AutoTokenizer, path, READY_MADE, config=_settings(base))


def _settings(path: str) -> PreTrainedConfig:
    return gguf_config(read_gguf(path)) if is_gguf(path) else _config(path)


def _config(path: str) -> PreTrainedConfig:
    from transformers import AutoConfig

    if _is_mosaic_gpt(path):
        from mmlm.assembly.interop.mosaic_gpt import mpt_config

        return mpt_config(path)
    config = from_pretrained(AutoConfig, path, READY_MADE)
    _check_causal(config)
    text = config.get_text_config()
    _check_causal(text)
    return text


def _check_causal(config: PreTrainedConfig) -> None:
    """ValueError for an encoder and decoder in one: transformers would load its decoder, which alone says nothing."""
    if config.is_encoder_decoder:
        remedy = "name a model that is a decoder alone"
        if config.model_type == "whisper":
            remedy = "give it as audio_encoder="
        raise ValueError(f"it is an encoder and decoder in one, not a causal language model: {remedy}")


def _is_mosaic_gpt(path: str) -> bool:
    """Whether it is MPT-1B, whose own code no longer runs: see interop/mosaic_gpt.py."""
    return settings_of(path).get("model_type") == "mosaic_gpt"


def _place(source: str | Path) -> str:
    """The path or hub id that a name stands for; a file of GGUF on the hub is fetched."""
    path = preset_path(source)
    if Path(path).exists():
        return path
    if _is_local(path):  # transformers would take it for a hub id
        raise FileNotFoundError(f"{path} does not exist")
    if (found := _HUB_FILE.fullmatch(path)) is None:
        return path
    from huggingface_hub import hf_hub_download

    repository, revision = split_revision(found[1])
    return hf_hub_download(repository, found[2], revision=revision)


def _is_local(path: str) -> bool:
    """Whether a name that is not there can only be a path here, and none of the hub."""
    if path.startswith(("/", ".", "~")):
        return True
    many = path.partition("@")[0].count("/") > 1  # a revision may have some of its own
    return _HUB_FILE.fullmatch(path) is None and (path.endswith(".gguf") or many)


def _variant(path: str) -> str | None:
    """The variant of weights ("fp16") in a folder or hub id that has no others; ValueError where it has several.

    Those of a hub id are fetched, so that they are looked at as a folder's are.
    """
    folder = Path(path)
    if not folder.exists() and any(hub_file(path, name) for name in PLAIN):
        return None
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else hub_files(path)
    if any(re.fullmatch(r"(pytorch_)?model(-\d+-of-\d+)?\.(safetensors|bin)", name) for name in names):
        return None
    found = {name: match[1] for name in names if (match := _VARIANT.fullmatch(name))}
    variants = sorted(set(found.values()))
    if len(variants) > 1:
        remedy = "leave one of them there"
        if not folder.exists():
            remedy = f"fetch them (`hf download {path} --local-dir FOLDER`), leave one of them there, and name FOLDER"
        raise ValueError(f"{path} holds weights of several variants ({', '.join(variants)}): {remedy}")
    if not folder.exists():
        safe = [name for name in found if name.endswith(".safetensors")]
        for name in safe or found:
            hub_file(path, name)
    return variants[0] if variants else None
