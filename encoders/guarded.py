"""The one door through which files of models reach a loader.

No code that lies in a file is run, and nothing is asked on standard input. A size that a file tells is believed only as
far as its weights have the bytes for it. `tests/test_house.py` refuses a loader that is called anywhere else.
"""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encoders.clip_settings import check_clip
from encoders.hub import split_revision
from encoders.pickles import check_pickle
from encoders.settings import (
    check_ends,
    check_parts,
    check_tokenizer_class,
    foreign_ways,
    other_files,
    settings_of,
)
from encoders.sizes import RefusedError, believed, check_counts, check_deflation
from encoders.texts import tokenizing
from encoders.tokenizer_rules import check_made, check_tokenizer_files
from encoders.weights import look_at_weights

log = logging.getLogger(__name__)
ADAPTERS = ("LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "VERA", "HRA")  # of peft: weights of their own


def from_pretrained(kind: Any, source: str | Path, remedy: str, **options: Any) -> Any:
    """`kind.from_pretrained(source, **options)` of transformers or diffusers; code of the source's own is not run.

    source: a folder, a hub id, or `user/model@revision`. remedy: what the message advises where the source is code.
    `RefusedError` for such a source, for a config that asks for more than its weights hold, for files and parts of
    elsewhere, and for a tokenizer whose rules are beyond belief; other errors are those of the library.
    """
    subfolder = options.get("subfolder", "")
    _check_settings(source, subfolder)
    if kind.__name__ == "AutoTokenizer":
        check_tokenizer_files(source, subfolder)
    library = "diffusers" if kind.__module__.startswith("diffusers") else "transformers"  # or of its kind
    loads_weights = not kind.__name__.startswith(("AutoConfig", "AutoTokenizer"))
    look_at_weights(source, subfolder, library if loads_weights else None)
    name, revision = split_revision(source)
    if revision is not None:
        options["revision"] = revision
    if library != "diffusers":  # which never runs a model's code
        options["trust_remote_code"] = False  # unset, transformers asks on standard input
    try:
        with _no_pickles(source), believed(source, subfolder), tokenizing():
            if loads_weights and (ways := foreign_ways(settings_of(source, subfolder))):
                log.warning("%s names ways to compute that are not used: %s", source, str(ways)[:200])
                options["config"] = _plain_config(name, options)
            made = kind.from_pretrained(name, **options)
            check_made(made, source)
            return made
    except (ValueError, ImportError) as error:
        if "trust_remote_code" not in str(error):
            raise
        raise RefusedError(f"{str(source)!r} needs Python code of its own, which is not run: {remedy}") from None


def _check_settings(source: str | Path, subfolder: str) -> None:
    """An error for settings of a folder or hub id that name what is not followed, or sizes beyond belief."""
    for file in ("config.json", "generation_config.json", "tokenizer_config.json"):
        settings = settings_of(source, subfolder, file)
        check_tokenizer_class(settings, source)
        for each in (settings, *(settings_of(source, subfolder, name) for name in other_files(settings, source))):
            check_counts(each, source)
            check_parts(each, source)
            check_ends(each, file, source)


def _plain_config(name: str, options: dict[str, Any]) -> Any:
    """The config of transformers for a network that computes with torch alone, in attention and in experts."""
    from transformers import AutoConfig

    places = {key: options[key] for key in ("revision", "subfolder", "trust_remote_code") if key in options}
    config = options.get("config") or AutoConfig.from_pretrained(name, **places)
    config._attn_implementation = config._experts_implementation = "eager"
    return config


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
    look_at_weights(source, library="peft")
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
    if not is_tag:
        look_at_weights(source, library="open_clip")
    with _no_pickles(source), nullcontext() if is_tag else believed(source):
        return open_clip.create_model_from_pretrained(name, pretrained, weights_only=True, **options)


def clip_tokenizer(name: str, remedy: str) -> Any:
    """`open_clip.get_tokenizer`: list[str] → ids [N, L]. `RefusedError` for one that is code or asks for files."""
    import open_clip

    source = check_clip(name)
    try:
        if source is not None:
            check_tokenizer_files(source)
        with tokenizing():
            made = open_clip.get_tokenizer(name, trust_remote_code=False)
        check_made(getattr(made, "tokenizer", None), name)
        return made
    except TypeError as error:
        if "unexpected keyword argument 'trust_remote_code'" not in str(error):
            raise
        return open_clip.get_tokenizer(name)  # open_clip's own, which has no such code and no such argument
    except (OSError, ImportError, RefusedError):
        raise
    except Exception as error:  # of many types, for files that are no tokenizer's
        if "trust_remote_code" in str(error):
            raise RefusedError(
                f"the tokenizer of {name!r} needs Python code of its own, which is not run: {remedy}"
            ) from None
        raise ValueError(f"the tokenizer of {name!r} cannot be loaded ({type(error).__name__}): {error}") from error


def whisper_named(name: str, device: str | torch.device) -> Any:
    """One of openai-whisper's own models, downloaded once and compared with the checksum that whisper knows."""
    import whisper

    return whisper.load_model(name, device=device)
