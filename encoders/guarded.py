"""The one door through which files of models reach a loader.

No code that lies in a file is run, and nothing is asked on standard input. A size that a file tells is believed only as
far as its weights have the bytes for it. `tests/test_house.py` refuses a loader that is called anywhere else.
"""

from __future__ import annotations

import io
import json
import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encoders.hub import split_revision
from encoders.pickles import check_pickle
from encoders.settings import check_tokenizer_class, leads_out, other_files
from encoders.sizes import RefusedError, believed, check_counts, check_deflation, weight_files
from encoders.texts import tokenizing

TOKENIZER_SETTINGS = {  # what a CLIP's settings may give its tokenizer; all else could name files, servers or code
    "additional_special_tokens", "clean", "language", "reduction_mask", "strip_sep_token", "trust_remote_code",
}  # fmt: skip

ADAPTERS = ("LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "VERA", "HRA")  # of peft: weights of their own


def from_pretrained(kind: Any, source: str | Path, remedy: str, **options: Any) -> Any:
    """`kind.from_pretrained(source, **options)` of transformers or diffusers; code of the source's own is not run.

    source: a folder, a hub id, or `user/model@revision`. remedy: what the message advises where the source is code.
    `RefusedError` for such a source, for a config that asks for more than its weights hold, and for an index that names
    files elsewhere; other errors are those of the library.
    """
    subfolder = options.get("subfolder", "")
    for file in ("config.json", "tokenizer_config.json"):
        settings = settings_of(source, subfolder, file)
        check_tokenizer_class(settings, source)
        for each in (settings, *(settings_of(source, subfolder, name) for name in other_files(settings, source))):
            check_counts(each, source)
    check_indexes(Path(source, subfolder))
    for file in weight_files(source, subfolder) or ():
        if file.suffix != ".safetensors":
            check_deflation(file)
            check_pickle(file)
    name, revision = split_revision(source)
    if revision is not None:
        options["revision"] = revision
    if not kind.__module__.startswith("diffusers"):  # which never runs a model's code
        options["trust_remote_code"] = False  # unset, transformers asks on standard input
    try:
        with _no_pickles(source), believed(source, subfolder), tokenizing():
            return kind.from_pretrained(name, **options)
    except (ValueError, ImportError) as error:
        if "trust_remote_code" not in str(error):
            raise
        raise RefusedError(f"{str(source)!r} needs Python code of its own, which is not run: {remedy}") from None


def model_of_tensors(kind: Any, config: Any, tensors: Mapping[str, Tensor], source: str | Path) -> Any:
    """The network that an auto class of transformers makes for a config, with tensors that were read from `source`.

    `RefusedError` where one is missing, is not of the network or has another shape, before memory is taken.
    """
    check_counts(config.to_dict(), source)
    with believed(source), torch.device("meta"):
        network = kind.from_config(config, trust_remote_code=False)
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    shared = dict(network.named_parameters(remove_duplicate=False)).keys() - dict(network.named_parameters()).keys()
    wrong = [name for name in tensors if expected.get(name) != tensors[name].shape]
    if wrong := wrong or sorted(expected.keys() - tensors.keys() - shared):
        raise RefusedError(f"the tensors of {source} are not those of the network that its settings tell: {wrong[0]}")
    with believed(source):
        return type(network).from_pretrained(
            None, config=config, state_dict=dict(tensors), dtype=next(iter(tensors.values())).dtype
        )


def torch_file(path: str | Path, *, mmap: bool = False, stand_in: type | None = None) -> Any:
    """What a file of torch.save holds: tensors and plain data, no other objects, on the CPU.

    stand_in: a class whose instances take the place of all other objects, so that these are no reason to refuse a file.
    `RefusedError` for other objects, and for tensors or entries that are larger than what the file has for them; for a
    file of another kind the errors are torch's, of many types.
    """
    check_deflation(path)
    check_pickle(path)
    with _no_pickles(path):
        strange = torch.serialization.get_unsafe_globals_in_checkpoint(path) if stand_in else []
        with torch.serialization.safe_globals([(stand_in, name) for name in strange]):  # pyright: ignore[reportArgumentType]
            content = torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    for tensor in tensors_in(content):
        if (
            tensor.layout == torch.strided
            and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
        ):
            raise RefusedError(f"{path} holds a tensor {list(tensor.shape)} without the bytes for it")
    return content


@contextmanager
def _no_pickles(source: str | Path) -> Iterator[None]:
    """`RefusedError` in place of torch's error for pickled objects, whose text advises to load them after all."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise RefusedError(
            f"{source} holds more than tensors, or is damaged; pickled code is not loaded. If you trust it, load it "
            "yourself and save its state dict alone"
        ) from error


def tensors_in(content: Any) -> Iterator[Tensor]:
    """The tensors in mappings within mappings, each mapping once: one may be in several, and in itself."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values()


def plain_pickle(data: bytes, named: Callable[[str, str], Any], stored: Callable[[Any], Any]) -> Any:
    """What a pickle holds, where torch.load reads none: TorchScript's.

    named: module and name → what stands for it; None for a name that has no place there. stored: a reference that the
    pickle keeps elsewhere → what it means. `RefusedError` for any other name.
    """

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (found := named(module, name)) is None:
                raise RefusedError(f"it holds {module}.{name}, which is no tensor and no plain value; code is not run")
            return found

        def persistent_load(self, pid: Any) -> Any:
            return stored(pid)

    return Reader(io.BytesIO(data)).load()


def with_adapter(model: Any, source: str | Path) -> Any:
    """A model with the adapter of peft in a folder, a hub id or `user/adapter@revision`, which stays beside it.

    ImportError without the package peft; `RefusedError` for an adapter that is more than its weights hold, that needs
    other files than its own, names modules to import, or has no weights to add.
    """
    from peft import PeftModel  # pyright: ignore[reportMissingImports]

    settings = settings_of(source, name="adapter_config.json")
    if (kind := settings.get("peft_type")) not in ADAPTERS:
        raise RefusedError(f"{source} is an adapter of the kind {kind!r}: of those, {', '.join(ADAPTERS)} are loaded")
    if named := [key for key in ("megatron_config", "layer_replication", "eva_config") if settings.get(key)]:
        raise RefusedError(f"the adapter {source} has settings that are not followed: {', '.join(named)}")
    name, revision = split_revision(source)
    with _no_pickles(source), believed(source):
        return PeftModel.from_pretrained(model, name, revision=revision)


# Models of open_clip and openai-whisper


def clip_model(name: str, pretrained: str | None, **options: Any) -> Any:
    """`open_clip.create_model_from_pretrained`: the model, and its preprocessing. Errors are those of open_clip.

    `RefusedError` for settings that name code, a path or more than the weights hold.
    """
    import open_clip

    check_clip(name)
    source = name.partition(":")[2] or str(pretrained)
    is_tag = bool(pretrained) and not Path(source).is_file()  # sizes of open_clip's own, and weights still to come
    for file in [] if is_tag else weight_files(source) or []:
        check_deflation(file)
        check_pickle(file)
    with _no_pickles(source), nullcontext() if is_tag else believed(source):
        return open_clip.create_model_from_pretrained(name, pretrained, weights_only=True, **options)


def clip_tokenizer(name: str, remedy: str) -> Any:
    """`open_clip.get_tokenizer`: list[str] → ids [N, L]. `RefusedError` for one that is code or asks for files."""
    import open_clip

    check_clip(name)
    try:
        with tokenizing():
            return open_clip.get_tokenizer(name, trust_remote_code=False)
    except TypeError as error:
        if "unexpected keyword argument 'trust_remote_code'" not in str(error):
            raise
        return open_clip.get_tokenizer(name)  # open_clip's own, which has no such code and no such argument
    except (OSError, ImportError):
        raise
    except Exception as error:  # of many types, for files that are no tokenizer's
        if "trust_remote_code" in str(error):
            raise RefusedError(
                f"the tokenizer of {name!r} needs Python code of its own, which is not run: {remedy}"
            ) from None
        raise ValueError(f"the tokenizer of {name!r} cannot be loaded ({type(error).__name__}): {error}") from error


def check_clip(name: str) -> None:
    """`RefusedError` for a CLIP of a folder or the hub whose settings name code, paths, or counts beyond belief."""
    schema, _, source = name.partition(":")
    if schema not in ("local-dir", "hf-hub"):
        return  # a name that open_clip itself describes
    check_tokenizer_class(settings_of(source, "", "tokenizer_config.json"), source)
    written = settings_of(source, "", "open_clip_config.json")
    check_preprocessing(source, written.get("preprocess_cfg"))
    settings = settings if isinstance(settings := written.get("model_cfg"), dict) else {}
    check_counts(settings, source)
    text, vision = (part if isinstance(part := settings.get(key), dict) else {} for key in ("text_cfg", "vision_cfg"))
    given = text.get("tokenizer_kwargs") or {}
    if not isinstance(given, dict) or given.keys() - TOKENIZER_SETTINGS:
        raise RefusedError(f"{source} gives its tokenizer settings that are not passed on: {given}")
    check_clip_names(source, vision.get("timm_model_name"), text.get("hf_tokenizer_name"), text.get("hf_model_name"))


def check_preprocessing(source: str, settings: Any) -> None:
    """ValueError for a mean or a deviation that is not three numbers: no picture could be prepared with it."""
    for name, least in (("mean", -math.inf), ("std", 0.0)):
        values = settings.get(name) if isinstance(settings, dict) else None
        numbers = isinstance(values, list) and len(values) == 3 and all(type(value) in (int, float) for value in values)
        if values is not None and not (numbers and all(least < value < math.inf for value in values)):
            raise ValueError(f"the preprocessing of {source} has {name} {values}, which is not three numbers")


def check_clip_names(source: str, vision: Any, tokenizer: Any, text: Any) -> None:
    """`RefusedError` where a CLIP's settings name a part by a path, or a text tower that is code."""
    if vision and (not isinstance(vision, str) or ":" in vision or "/" in vision):
        raise RefusedError(f"{source} names the image tower {vision!r}: only timm's own are built")
    for named in (tokenizer, text):
        if named and (not isinstance(named, str) or named.startswith(("/", "~", "..", "./")) or ".." in named):
            raise RefusedError(f"{source} names a part by the path {named!r}: parts lie in the folder, or on the hub")
    if text and ("auto_map" in (config := settings_of(text)) or Path(text).exists()):
        raise RefusedError(f"{source} has a text tower with Python code of its own, or in another folder: {text!r}")
    elif text:
        check_counts(config, text)


def whisper_named(name: str, device: str | torch.device) -> Any:
    """One of openai-whisper's own models, downloaded once and compared with the checksum that whisper knows."""
    import whisper

    return whisper.load_model(name, device=device)


def check_indexes(folder: Path) -> None:
    """`RefusedError` for a folder whose index of shards names files outside of it."""
    for index in folder.glob("*.index*.json") if folder.is_dir() else ():
        shards = settings_of(folder, "", index.name).get("weight_map")
        for shard in set(map(str, shards.values())) if isinstance(shards, dict) else ():
            if leads_out(shard) or ":" in shard or (folder / shard).exists() and not (folder / shard).is_file():
                raise RefusedError(f"{index} names the shard {shard!r}, which is no file of its folder")


def settings_of(source: str | Path, subfolder: str = "", name: str = "config.json") -> dict[str, Any]:
    """The settings of a folder or hub id; empty where there are none or they cannot be read, which the loader tells."""
    place = Path(source, subfolder, name)
    if not Path(source).exists():
        from transformers.utils.hub import cached_file

        repository, revision = split_revision(source)
        try:
            place = cached_file(repository, name, subfolder=subfolder, revision=revision)
        except (OSError, ValueError):
            return {}
    if place is None or not Path(place).is_file():
        return {}
    try:
        found = json.loads(Path(place).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
